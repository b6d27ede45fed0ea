"""Other people's tokenizers: image autoencoders of diffusers, from a folder or the hub, with the methods of `SSDD`."""

# B batch, C latent channels, F down-scale, H W pixels

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdd.files import sha256_file

CONFIG = "config.json"
CLASSES = (
    "AutoencoderKL",  # SD, SDXL, SD3, Flux
    "AsymmetricAutoencoderKL",
    "AutoencoderKLFlux2",
    "AutoencoderTiny",
    "AutoencoderDC",
    "AutoencoderRAE",
    "ConsistencyDecoderVAE",
    "VQModel",
)
NEEDS_TRANSFORMERS = "AutoencoderRAE"  # whose encoder is a class of that package
CONSISTENCY_STEPS = 2  # as published


@dataclass(frozen=True)
class Latent:
    """A latent that stands for its own posterior."""

    value: Tensor

    def mode(self) -> Tensor:
        """Returns the latent (B, C, h, w)."""
        return self.value


class DiffusersTokenizer(nn.Module):
    """An autoencoder of diffusers with the methods of `SSDD`: images in [-1, 1] both ways, latents unscaled.

    Args:
        network: of one of `CLASSES`.
    """

    upscale = 1  # of images by the decoder

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def _unit_range(self) -> bool:
        """Whether the network takes and makes images in [0, 1]."""
        return type(self.network).__name__ == NEEDS_TRANSFORMERS

    @torch.no_grad()
    def encode(self, x: Tensor) -> Any:
        """Images (B, 3, H, W) in [-1, 1] -> an object whose `mode()` is the latent (B, C, h, w)."""
        x = x.to(self.network.dtype)
        found = self.network.encode((x + 1) / 2 if self._unit_range else x)
        for name in ("latent_dist", "latents", "latent"):
            if hasattr(found, name):
                value = getattr(found, name)
                return value if name == "latent_dist" else Latent(value)
        raise ValueError(f"expected {type(self.network).__name__} to return a latent, got {type(found).__name__}")

    @torch.no_grad()
    def decode(self, z: Tensor, steps: int = 1, noise: Tensor | None = None, *, check_finite: bool = False) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), not clamped; a consistency decoder starts from `noise`."""
        z = z.to(self.network.dtype)
        if type(self.network).__name__ == "ConsistencyDecoderVAE":
            image = _consistency(self.network, z, noise)
        else:
            image = self.network.decode(z).sample
        image = image.float() * 2 - 1 if self._unit_range else image.float()
        if check_finite and not torch.isfinite(image).all():
            raise ValueError("expected the decoded image to be finite, got NaN or infinity: decode in float32")
        return image

    @classmethod
    def from_pretrained(cls, source: str) -> "DiffusersTokenizer":
        """Loads an autoencoder, in evaluation mode and float32.

        Args:
            source: a folder with `config.json`, or a pipeline's folder with a folder `vae`; or a hub id.

        Raises:
            ValueError: there is none, or it is of a class that is not listed in `CLASSES`.
        """
        import diffusers

        folder = find_folder(source)
        name = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("_class_name")
        if name not in CLASSES:
            raise ValueError(f"expected an autoencoder of images, one of {', '.join(CLASSES)}; {source} holds a {name}")
        if name == NEEDS_TRANSFORMERS and importlib.util.find_spec("transformers") is None:
            raise ValueError(f"expected the package transformers for {source}, an {name}: pip install transformers")
        try:
            network = getattr(diffusers, name).from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True)
        except (OSError, ImportError, RuntimeError, AttributeError) as error:
            raise ValueError(f"expected {source} to load as a {name}, but: {error}") from error
        return cls(network).eval()


def find_folder(source: str) -> Path:
    """Returns the folder of an autoencoder, after a download where the source is a hub id.

    Raises:
        ValueError: there is neither a folder nor a repository of this name with a `config.json`.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _downloaded(source)
    for place in (folder, folder / "vae"):
        if (place / CONFIG).is_file():
            return place
    raise ValueError(f"expected {CONFIG} of a diffusers autoencoder in {folder} or in {folder / 'vae'}, found none")


def content_of(source: str) -> str:
    """Returns one SHA-256 over the names and contents of an autoencoder's configuration and weights."""
    digest = hashlib.sha256()
    for file in sorted(find_folder(source).glob("*")):
        if file.name == CONFIG or file.suffix == ".safetensors":
            digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _downloaded(source: str) -> Path:
    from huggingface_hub import snapshot_download

    files = [f"{prefix}{name}" for prefix in ("", "vae/") for name in (CONFIG, "diffusion_pytorch_model.safetensors*")]
    try:
        return Path(snapshot_download(source, allow_patterns=files))
    except Exception as error:  # the library raises errors of many kinds, each about this one source
        raise ValueError(
            f"expected a folder or a hub id in compare.tokenizers, got {source!r}, which is neither here nor could be "
            f"downloaded: {error}"
        ) from error


def _consistency(network: Any, z: Tensor, noise: Tensor | None) -> Tensor:
    """Decodes with the noise of each image where it is given: the result then does not depend on the batch."""
    if noise is None:
        return network.decode(z, generator=_generators(len(z))).sample
    # The network draws its own noise from generators, one for each image; their seeds follow from the given noise.
    seeds = (noise.flatten(1)[:, :8].double().sum(1) * 2**20).long().tolist()
    return network.decode(z, generator=_generators(len(z), seeds), num_inference_steps=CONSISTENCY_STEPS).sample


def _generators(count: int, seeds: Sequence[int] | None = None) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(abs(seed)) for seed in seeds or range(count)]
