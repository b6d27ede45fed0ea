"""The network: a U-Net in pixel space with a transformer at its lowest resolution."""

# B batch, C latent channels, F down-scale, H W pixels, h = H / F, w = W / F, ch width of the first level, D of the last

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssdd_decoder import flow
from ssdd_decoder.attention import attention_biases
from ssdd_decoder.blocks import (
    Downsample,
    FeedForward,
    ResnetBlock,
    TransformerBlock,
    Upsample,
)
from ssdd_decoder.conditioning import Conditioning, TimeEmbedding, TimeProjections, modulations
from ssdd_decoder.config import DecoderConfig
from ssdd_decoder.convolution import convolve, fold_upsampling
from ssdd_decoder.linear import Linear
from ssdd_decoder.modulation import Modulation
from ssdd_decoder.norm import norm_silu
from ssdd_decoder.patches import join
from ssdd_decoder.refinement import Refinement

ByBlock = Iterator[tuple[Modulation, Modulation]]  # of each residual block's first and second norm


@dataclass(frozen=True)
class Prediction:
    """The network's output for noisy images.

    Args:
        velocity: (B, 3, H, W), towards the clean image.
        tokens: (B, N_y, N_x, D) after the requested transformer block, or None.
    """

    velocity: Tensor
    tokens: Tensor | None = None


class DownBlock(nn.Module):
    """Residual blocks at one resolution, then a downsampling unless this is the last level."""

    def __init__(self, in_channels: int, out_channels: int, config: DecoderConfig, downsample: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * config.resnets_per_level
        self.resnets = cast(
            "Sequence[ResnetBlock]",
            nn.ModuleList(ResnetBlock(a, b, config.widths[0], config.norm_groups) for a, b in pairwise(widths)),
        )
        self.downsamplers = cast(
            "Sequence[Downsample]", nn.ModuleList([Downsample(out_channels)] if downsample else [])
        )


class UpBlock(nn.Module):
    """Residual blocks at one resolution, each fed a skip connection, then an upsampling unless this is the last."""

    def __init__(
        self, in_channels: int, out_channels: int, skips: list[int], config: DecoderConfig, upsample: bool
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (len(skips) - 1)
        self.resnets = cast(
            "Sequence[ResnetBlock]",
            nn.ModuleList(
                ResnetBlock(width + skip, out_channels, config.widths[0], config.norm_groups)
                for width, skip in zip(widths, skips, strict=True)
            ),
        )
        self.upsamplers = cast("Sequence[Upsample]", nn.ModuleList([Upsample(out_channels)] if upsample else []))


class MidBlock(nn.Module):
    """The transformer, between a norm and two linear layers."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, context = config.widths[-1], config.widths[0]
        self.norm = nn.GroupNorm(config.norm_groups, width, eps=1e-6)
        self.proj_in = Linear(width, width)
        self.transformer_blocks = cast(
            "Sequence[TransformerBlock]",
            nn.ModuleList(
                TransformerBlock(width, config.attention_heads, context) for _ in range(config.transformer_blocks)
            ),
        )
        self.proj_out = Linear(width, width)


class UNet(nn.Module):
    """Predicts the velocity of a noisy image, given the latent of the clean one.

    Args:
        config: its shape.

    Attributes:
        gradient_checkpointing: whether the backward pass computes each block again instead of keeping its activations.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        widths, pixels = config.widths, 3 * config.patch_size**2
        ch, levels, filled = widths[0], len(widths), 3 * config.patch_reach**2
        self.conv_in = nn.Conv2d(pixels + config.latent_channels, ch, 3, padding=1)
        self.time_embedding = TimeEmbedding(ch)
        self.ada_ctx_proj = nn.Sequential(
            nn.Conv2d(config.latent_channels, ch, 3, padding=1), nn.SiLU(), nn.Conv2d(ch, ch, 3, padding=1)
        )
        self.down_blocks = cast(
            "Sequence[DownBlock]",
            nn.ModuleList(
                DownBlock(widths[max(i - 1, 0)], widths[i], config, downsample=i < levels - 1) for i in range(levels)
            ),
        )
        self.mid_block = MidBlock(config)
        skips = _skip_widths(config)
        up_blocks = []
        for i in reversed(range(levels)):
            taken = [skips.pop() for _ in range(config.resnets_per_level + 1)]
            up_blocks.append(UpBlock(widths[min(i + 1, levels - 1)], widths[i], taken, config, upsample=i > 0))
        self.up_blocks = cast("Sequence[UpBlock]", nn.ModuleList(up_blocks))
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, ch, eps=1e-5)
        self.conv_out = nn.Conv2d(ch, filled * config.patch_size**2, 3, padding=1)
        if config.shortcut:
            self.shortcut = nn.Conv2d(config.latent_channels, filled * config.downscale**2, 1)
        if config.refinement_channels:
            self.refinement = Refinement(config.refinement_channels, config.refinement_layers)
        self._in_channels = [resnet.norm1.channels for resnet in self.resnets()]
        self._out_channels = [resnet.norm2.num_channels for resnet in self.resnets()]
        self._initialize()
        # In the other layout, convolutions convert their maps, and modulation would run along rows instead of channels.
        self.to(memory_format=torch.channels_last)

    def condition(self, z: Tensor) -> Conditioning:
        """Does the work that depends only on the latent (B, C, h, w) or the weights."""
        height, width = (side * self.config.downscale // self.config.patch_size for side in z.shape[2:])
        context = self.ada_ctx_proj(z).permute(0, 2, 3, 1).contiguous()  # (B, h, w, ch)
        halvings = len(self.config.widths) - 1
        resnets, blocks = self.resnets(), self.mid_block.transformer_blocks
        tables = [block.relative_position_bias.relative_bias_table for block in blocks]
        return Conditioning(
            latent=F.interpolate(z, size=(height, width), mode="nearest"),
            resnets=modulations(context, [resnet.norm1 for resnet in resnets]),
            times=TimeProjections.of([each.time_emb_proj for each in resnets], [each.norm2 for each in resnets]),
            # SiLU for these alone, as published
            transformer=modulations(F.silu(context), [block.norm1 for block in blocks]),
            projections=[block.attn1.projection() for block in blocks],
            biases=attention_biases(tables, _halve(height, halvings), _halve(width, halvings)),
            folded=[fold_upsampling(up.conv.weight) for block in self.up_blocks for up in block.upsamplers],
            linear=join(self.shortcut(z), self.config.downscale, self.config.overlap) if self.config.shortcut else None,
        )

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, token_layer: int | None = None) -> Prediction:
        """Predicts the velocity at (x_t, t).

        Args:
            x_t: (B, 3, H, W).
            t: (B,), or (1,) where all images share it, in [0, 1].
            conditioning: of the clean images' latents.
            token_layer: index of the transformer block after which tokens are also returned, for representation
                alignment.

        Raises:
            ValueError: x_t is not F times the latent's size.
        """
        expected = tuple(self.config.downscale * side for side in conditioning.resnets.cells)
        # From this check, a compiler also infers that all sizes are multiples of the latent's. Without it, a second
        # size took minutes to compile.
        if x_t.shape[2:] != expected:
            raise ValueError(f"expected x_t with sides {expected} for this latent, got {tuple(x_t.shape[2:])}")
        by_time = conditioning.times.modulation(self.time_embedding(t)).split(self._out_channels)
        x = x_t.to(self.conv_in.weight.dtype)
        if self.config.patch_size > 1:
            x = F.pixel_unshuffle(x, self.config.patch_size)
        x = torch.cat([x, conditioning.latent], dim=1).contiguous(memory_format=torch.channels_last)
        h = convolve(self.conv_in, x)
        modulations = zip(conditioning.resnets.split(self._in_channels), by_time, strict=True)
        h, skips = self._down(h, modulations)
        h, tokens = self._middle(h, conditioning, token_layer)
        h = self._up(h, skips, modulations, conditioning.folded)
        h = self._out(h, x_t, conditioning)
        if self.config.prediction == "sample":
            h = flow.velocity_from_clean(x_t, h.to(x_t.dtype), t)
        return Prediction(h, tokens)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Velocity (B, 3, H, W) of noisy images x_t (B, 3, H, W) at times t (B,) given latents z (B, C, h, w)."""
        return self.predict(x_t, t, self.condition(z)).velocity

    def resnets(self) -> list[ResnetBlock]:
        """The residual blocks, in the order of the data flow."""
        blocks: list[DownBlock | UpBlock] = [*self.down_blocks, *self.up_blocks]
        return [resnet for block in blocks for resnet in block.resnets]

    def _down(self, h: Tensor, modulations: ByBlock) -> tuple[Tensor, list[Tensor]]:
        skips = [h]
        for block in self.down_blocks:
            for resnet in block.resnets:
                h = self._run(resnet, h, *next(modulations))
                skips.append(h)
            for downsample in block.downsamplers:
                h = downsample(h)
                skips.append(h)
        return h, skips

    def _middle(self, h: Tensor, conditioning: Conditioning, token_layer: int | None) -> tuple[Tensor, Tensor | None]:
        tokens, middle = None, self.mid_block
        modulations = conditioning.transformer.split([self.config.widths[-1]] * len(middle.transformer_blocks))
        x = middle.proj_in(middle.norm(h).permute(0, 2, 3, 1).contiguous())  # (B, N_y, N_x, D)
        for i, block in enumerate(middle.transformer_blocks):
            x = self._run(block, x, next(modulations), conditioning.projections[i], conditioning.biases[i])
            if i == token_layer:
                tokens = x
        return h + middle.proj_out(x).permute(0, 3, 1, 2), tokens

    def _up(self, h: Tensor, skips: list[Tensor], modulations: ByBlock, folded: list[Tensor]) -> Tensor:
        kernels = iter(folded)
        for block in self.up_blocks:
            for resnet in block.resnets:
                h = self._run(resnet, h, *next(modulations), skips.pop())
            for upsample in block.upsamplers:
                height, width = skips[-1].shape[2:]
                h = upsample(h, next(kernels))[:, :, :height, :width]  # an odd side was rounded up on the way down
        return h

    def _out(self, h: Tensor, x_t: Tensor, conditioning: Conditioning) -> Tensor:
        """Features (B, ch, H / p, W / p) -> (B, 3, H, W), velocity or clean image."""
        norm = self.conv_norm_out
        affine = Modulation(norm.weight[None, None, None], norm.bias[None, None, None])
        h = self.conv_out(norm_silu(h, affine, norm.num_groups, norm.eps, overwrite=True))
        h = join(h, self.config.patch_size, self.config.overlap)
        if conditioning.linear is not None:
            h = h + conditioning.linear
        return self.refinement(h, x_t.to(h.dtype)) if self.config.refinement_channels else h

    def _run(self, block: nn.Module, *arguments: Any) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)

    def _initialize(self) -> None:
        if self.conv_in.weight.is_meta:
            return  # to be filled from a file; drawing there would import PyTorch's compiler, which takes seconds
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for module in self.modules():  # every residual branch of these starts as the identity
            last = {ResnetBlock: "conv2", FeedForward: "proj_out"}.get(type(module))
            if last:
                nn.init.zeros_(getattr(module, last).weight)
        if self.config.shortcut:  # the network starts as this linear map
            nn.init.orthogonal_(self.shortcut.weight)
            nn.init.zeros_(self.conv_out.weight)
        if self.config.refinement_channels:
            self.refinement.initialize()


def _skip_widths(config: DecoderConfig) -> list[int]:
    """Channels of each skip connection, from the first level down."""
    skips = [config.widths[0]]
    for i, width in enumerate(config.widths):
        downsampled = [width] if i < len(config.widths) - 1 else []
        skips += [width] * config.resnets_per_level + downsampled
    return skips


def _halve(side: int, times: int) -> int:
    for _ in range(times):
        side = (side + 1) // 2
    return side
