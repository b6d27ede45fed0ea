"""The generator: diffusers' diffusion transformer (Peebles and Xie, 2023) on normalised latents.

Time is that of `ssdd_decoder.flow`: t = 0 is the latent, t = 1 is noise, and the velocity is latent minus noise. The
transformer sees the whole number floor(1000 t) and predicts noise minus latent. Both are the convention of diffusers'
schedulers for flow matching, so that a transformer of ours needs no change in a pipeline of diffusers.
"""

# B batch, C latent channels, h w latent cells (h = w), N classes

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdd.packaged import resolve
from ssdd_decoder.checkpoint import read, read_header, write
from ssdd_decoder.sources import destination
from ssdd_encoder import LatentStatistics

CHECKPOINT_NAME = "generator.safetensors"
KIND = "generator"  # of the configuration in a file's header
ENCODER_KEY = "latents_of"  # header entry: JSON about the encoder of the latents
TIME_STEPS = 1000  # the transformer's times are whole numbers below it

# size -> layers, heads, width of a head. Published sizes are those of DiT.
SIZES: dict[str, tuple[int, int, int]] = {
    "debug": (2, 2, 8),
    "quickstart": (6, 4, 32),
    "S": (12, 6, 64),
    "B": (12, 12, 64),
    "L": (24, 16, 64),
    "XL": (28, 16, 72),
}


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Shape of a generator.

    Args:
        layers, heads, head_width: of the transformer.
        latent_channels: C.
        grid: cells per side of the latents.
        patch_size: cells per side of a token.
        classes: N; 0 for a generator without classes.
        latents_mean, latents_std: of each channel of the encoder's latents.
        downscale: pixels per side of a cell, F.
    """

    layers: int
    heads: int
    head_width: int
    latent_channels: int
    grid: int
    patch_size: int
    classes: int
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]
    downscale: int

    def __post_init__(self) -> None:
        if self.grid % self.patch_size:
            raise ValueError(
                f"expected patches that divide latents of {self.grid} x {self.grid} cells, got patch_size "
                f"{self.patch_size}: choose another one, or another size of the images"
            )
        if not len(self.latents_mean) == len(self.latents_std) == self.latent_channels:
            raise ValueError(f"expected mean and deviation of {self.latent_channels} channels, got {self.latents_mean}")

    @property
    def rows(self) -> int:
        """Classes that the transformer knows: one where there are none; the row behind them means no class."""
        return max(self.classes, 1)


class Generator(nn.Module):
    """A diffusion transformer and the normalisation of its latents.

    Args:
        config: its shape.
        empty: weights on the meta device, to be filled.

    Raises:
        ImportError: diffusers is not installed.
    """

    def __init__(self, config: GeneratorConfig, empty: bool = False) -> None:
        super().__init__()
        self.config = config
        self.transformer = make_transformer(config, empty)
        if not empty:
            _initialise(self.transformer)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> "Generator":
        """Keeps the transformer in evaluation mode: its own dropping of labels draws from the global random state."""
        super().train(mode)
        self.transformer.eval()
        return self

    def velocity(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Predicts latent minus noise.

        Args:
            x_t: (B, C, h, w), normalised.
            t: (B,) or (1,) in [0, 1].
            labels: (B,) in [0, N]; `no_label` stands for none.

        Returns:
            (B, C, h, w) in the dtype of the weights.
        """
        times = transformer_time(t).expand(len(x_t))
        x_t = x_t.contiguous().to(self.transformer.proj_out_2.weight.dtype)
        return -self.transformer(x_t, timestep=times, class_labels=labels, return_dict=False)[0]

    @property
    def no_label(self) -> int:
        """The label that stands for no class."""
        return self.config.rows

    def known_labels(self, labels: Tensor) -> Tensor:
        """Labels as the data set gives them, -1 for none -> labels for `velocity`."""
        if not self.config.classes:
            return torch.zeros_like(labels)
        return torch.where(labels < 0, self.no_label, labels)

    def denormalize(self, z: Tensor) -> Tensor:
        """(B, C, h, w), normalised -> latents as the encoder makes and a decoder takes them."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=z.device).view(1, -1, 1, 1)
            for values in (self.config.latents_mean, self.config.latents_std)
        )
        return z.float() * std + mean

    def save_pretrained(self, path: str | os.PathLike[str], encoder: dict[str, Any] | None = None) -> Path:
        """Writes transformer and configuration as one safetensors file, whole or not at all.

        Args:
            path: a file ending in `.safetensors`, or a folder, which gets `generator.safetensors`.
            encoder: facts about the encoder of the latents, such as its hash.
        """
        entries = {ENCODER_KEY: json.dumps(encoder, sort_keys=True)} if encoder else {}
        return write(destination(path, CHECKPOINT_NAME), self.state_dict(), {KIND: asdict(self.config)}, entries)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> "Generator":
        """Loads a generator that `save_pretrained` wrote, in evaluation mode.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds another kind of model.
            ImportError: diffusers is not installed.
        """
        contents: Any = read(resolve(source, CHECKPOINT_NAME))
        config = _config_in(contents)
        generator = cls(config, empty=True)
        contents.fill(generator, contents.tensors, asked=str(config), held=str(config))
        return generator.eval()

    @classmethod
    def config_of(cls, source: str | os.PathLike[str]) -> GeneratorConfig:
        """Reads the configuration alone.

        Raises:
            CheckpointError: see `from_pretrained`.
        """
        return _config_in(read_header(resolve(source, CHECKPOINT_NAME)))


def generator_config(
    size: str,
    patch_size: int,
    shape: Sequence[int],
    downscale: int,
    statistics: LatentStatistics,
    classes: int,
) -> GeneratorConfig:
    """Returns the configuration of a named size for the latents of an encoder.

    Args:
        size: a key of `SIZES`.
        patch_size: cells per side of a token.
        shape: C, h, w of the latents.
        downscale: F of the encoder.
        statistics: of the latents.
        classes: N; 0 for none.

    Raises:
        ValueError: the size is unknown, or the latents are not square or cannot be cut into patches.
    """
    if size not in SIZES:
        raise ValueError(f"expected a size among {', '.join(SIZES)}, got {size!r}")
    channels, height, width = shape
    if height != width:
        raise ValueError(f"expected square latents, which the transformer needs, got {height} x {width} cells")
    layers, heads, head_width = SIZES[size]
    return GeneratorConfig(
        layers=layers,
        heads=heads,
        head_width=head_width,
        latent_channels=channels,
        grid=height,
        patch_size=patch_size,
        classes=classes,
        latents_mean=tuple(statistics.mean.tolist()),
        latents_std=tuple(statistics.std.tolist()),
        downscale=downscale,
    )


def transformer_time(t: Tensor) -> Tensor:
    """Times in [0, 1] -> the whole numbers from 0 to 999 that the transformer sees, as diffusers rounds them: down."""
    return (t * TIME_STEPS).long().clamp(0, TIME_STEPS - 1)


def make_transformer(config: GeneratorConfig, empty: bool = False) -> Any:
    """Makes diffusers' transformer.

    Args:
        config: of the generator.
        empty: weights on the meta device, to be filled; what is no weight has its values.

    Raises:
        ImportError: diffusers is not installed.
    """
    try:
        # Imported here, since it takes seconds, and only generators need it.
        from diffusers import DiTTransformer2DModel
    except ImportError as error:
        raise ImportError(
            "a generator is diffusers' transformer, which needs `pip install 'ssdd[diffusers]'`"
        ) from error
    network: Any = DiTTransformer2DModel
    options = {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_width,
        "in_channels": config.latent_channels,
        "num_layers": config.layers,
        "sample_size": config.grid,
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": config.rows,
    }
    if not empty:
        return network(**options).eval()
    with torch.device("meta"):
        transformer = network(**options)
    # Only buffers are missing then, which a state dict does not hold.
    small = network(**{**options, "num_layers": 0})
    for name, buffer in small.named_buffers():
        owner, _, last = name.rpartition(".")
        transformer.get_submodule(owner).register_buffer(last, buffer, persistent=False)
    return transformer.eval()


def _config_in(contents: Any) -> GeneratorConfig:
    config: GeneratorConfig | None = contents.parse_config(KIND, GeneratorConfig)
    if config is None:
        raise contents.refusal("holds no generator of this project: make one with the pipeline `train_generator`")
    return config


def _initialise(transformer: Any) -> None:
    """Starts as DiT does: each block is the identity (adaLN-zero), and the output is near zero."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in transformer.named_parameters():
        if "embedding_table" in name or ("timestep_embedder" in name and name.endswith("weight")):
            nn.init.normal_(parameter, std=0.02)
    patches = transformer.pos_embed.proj
    nn.init.xavier_uniform_(patches.weight.view(len(patches.weight), -1))
    nn.init.zeros_(patches.bias)
    for block in transformer.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
    nn.init.zeros_(transformer.proj_out_1.weight)
    # Not quite zero, as in DiT: an untrained generator would then return its noise unchanged.
    nn.init.normal_(transformer.proj_out_2.weight, std=0.02)
