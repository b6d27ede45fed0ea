"""The network against a second implementation, written plainly from the description of the published system.

It reads a state dict and uses no module of the package: a dense attention mask in every block, everything upsampled
in memory, nothing computed ahead. Both must agree in float64, for any size, latent space and image shape.
"""

# B batch, C latent channels, h w latent cells, H W feature map, N tokens, K heads

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssdd_decoder import DecoderConfig, decoder_config

SMALL = {"base_channels": 8, "transformer_blocks": 2, "heads": 2, "norm_groups": 4}


class Reference:
    """Velocity of (x_t, t, z) by the published equations."""

    def __init__(self, weights: dict[str, Tensor], config: DecoderConfig) -> None:
        self.w, self.c = weights, config

    def __call__(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        c = self.c
        x = F.pixel_unshuffle(x_t, c.patch_size)
        self.time = self.embed(t)
        self.context = self.conv(F.silu(self.conv(z, "ada_ctx_proj.0")), "ada_ctx_proj.2")
        h = self.conv(torch.cat([x, F.interpolate(z, x.shape[2:])], dim=1), "conv_in")
        skips = [h]
        for i in range(len(c.multipliers)):
            for j in range(c.resnets_per_level):
                h = self.resnet(h, f"down_blocks.{i}.resnets.{j}")
                skips.append(h)
            if i < len(c.multipliers) - 1:
                h = self.conv(h, f"down_blocks.{i}.downsamplers.0.conv", stride=2)
                skips.append(h)
        h = self.middle(h)
        for i in range(len(c.multipliers)):
            for j in range(c.resnets_per_level + 1):
                h = self.resnet(torch.cat([h, skips.pop()], dim=1), f"up_blocks.{i}.resnets.{j}")
            if i < len(c.multipliers) - 1:
                rows, columns = skips[-1].shape[2:]
                h = self.conv(F.interpolate(h, scale_factor=2), f"up_blocks.{i}.upsamplers.0.conv")[
                    :, :, :rows, :columns
                ]
        h = self.conv(F.silu(self.group_norm(h, "conv_norm_out", 1e-5)), "conv_out")
        h = self.join(h, c.patch_size)
        if c.shortcut:
            h = h + self.join(self.conv(z, "shortcut"), c.downscale)
        if c.refinement_channels:
            r = torch.cat([h, x_t], dim=1)
            for i in range(c.refinement_layers):
                r = self.conv(F.silu(r) if i else r, f"refinement.convs.{i}")
            h = h + r
        return h if c.prediction == "velocity" else (h - x_t) / t.clamp(min=0.05)[:, None, None, None]

    def join(self, patches: Tensor, side: int) -> Tensor:
        if not self.c.overlap:
            return F.pixel_shuffle(patches, side)
        reach = 2 * side
        ramp = torch.cat([torch.arange(side) + 0.5, side - 0.5 - torch.arange(side)]).to(patches) / side
        window = torch.outer(ramp, ramp).expand(3, reach, reach)
        kernel = torch.diag_embed(window.reshape(1, -1))[0].view(-1, 3, reach, reach)  # each entry to its own pixel
        sums = (F.conv_transpose2d(p, kernel, stride=side, padding=side // 2) for p in (patches, patches * 0 + 1))
        return next(sums) / next(sums)

    def linear(self, x: Tensor, key: str) -> Tensor:
        return F.linear(x, self.w[f"{key}.weight"], self.w.get(f"{key}.bias"))

    def conv(self, x: Tensor, key: str, stride: int = 1) -> Tensor:
        weight = self.w[f"{key}.weight"]
        return F.conv2d(x, weight, self.w[f"{key}.bias"], stride=stride, padding=weight.shape[2] // 2)

    def group_norm(self, x: Tensor, key: str, eps: float) -> Tensor:
        return F.group_norm(x, self.c.norm_groups, self.w[f"{key}.weight"], self.w[f"{key}.bias"], eps)

    def embed(self, t: Tensor) -> Tensor:
        half = self.c.widths[0] // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half)
        phase = (1000 * t).float()[:, None] * frequencies
        h = torch.cat([phase.cos(), phase.sin()], dim=1).to(t.dtype)
        return self.linear(F.silu(self.linear(h, "time_embedding.linear_1")), "time_embedding.linear_2")

    def resnet(self, x: Tensor, key: str) -> Tensor:
        scale, shift = self.conv(self.context, f"{key}.norm1.ctx_proj").chunk(2, dim=1)
        scale, shift = (F.interpolate(m, x.shape[2:]) for m in (scale, shift))
        h = F.group_norm(x, self.c.norm_groups, eps=1e-5) * (1 + scale) + shift
        h = self.group_norm(self.conv(F.silu(h), f"{key}.conv1"), f"{key}.norm2", 1e-5)
        scale, shift = self.linear(F.silu(self.time), f"{key}.time_emb_proj")[:, :, None, None].chunk(2, dim=1)
        h = self.conv(F.silu(h * (1 + scale) + shift), f"{key}.conv2")
        return h + (self.conv(x, f"{key}.conv_shortcut") if f"{key}.conv_shortcut.weight" in self.w else x)

    def middle(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2:]
        tokens = self.group_norm(x, "mid_block.norm", 1e-6).flatten(2).transpose(1, 2)
        tokens = self.linear(tokens, "mid_block.proj_in")
        for i in range(self.c.transformer_blocks):
            tokens = self.transformer(tokens, f"mid_block.transformer_blocks.{i}", rows, columns)
        tokens = self.linear(tokens, "mid_block.proj_out")
        return x + tokens.transpose(1, 2).reshape(x.shape)

    def transformer(self, x: Tensor, key: str, rows: int, columns: int) -> Tensor:
        modulation = self.linear(F.silu(self.context).permute(0, 2, 3, 1), f"{key}.norm1.linear").permute(0, 3, 1, 2)
        shift, scale = F.interpolate(modulation, (rows, columns)).flatten(2).transpose(1, 2).chunk(2, dim=2)
        h = F.layer_norm(x, x.shape[2:], eps=1e-5) * (1 + scale) + shift
        q, k, v = (
            self.linear(h, f"{key}.attn1.to_{n}").unflatten(2, (self.c.attention_heads, -1)).transpose(1, 2)
            for n in "qkv"
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + self.bias(key, rows, columns)
        h = (scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2)
        x = x + self.linear(h, f"{key}.attn1.out_proj")
        norm = (self.w[f"{key}.norm2.weight"], self.w[f"{key}.norm2.bias"])
        value, gate = self.linear(F.layer_norm(x, x.shape[2:], *norm, eps=1e-5), f"{key}.ff.proj_in_act.proj").chunk(
            2, 2
        )
        return x + self.linear(value * F.gelu(gate), f"{key}.ff.proj_out")

    def bias(self, key: str, rows: int, columns: int) -> Tensor:
        """(K, N, N) over the whole grid, -1e7 beyond 7 rows or columns."""
        table = self.w[f"{key}.relative_position_bias.relative_bias_table"]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        dy, dx = (p.flatten()[:, None] - p.flatten()[None, :] for p in (y, x))
        near = (dy.abs() <= 7) & (dx.abs() <= 7)
        bias = table[dy.clamp(-7, 7) + 7, dx.clamp(-7, 7) + 7].permute(2, 0, 1)
        return bias.masked_fill(~near, -1e7)


def agree(make_decoder, draw, config: DecoderConfig, rows: int, columns: int) -> None:
    decoder = make_decoder(config).double()
    scale = config.downscale
    z = draw(2, config.latent_channels, rows, columns, dtype=torch.float64)
    x = draw(2, 3, rows * scale, columns * scale, seed=1, dtype=torch.float64)
    reference = Reference(decoder.state_dict(), config)
    for t in (torch.tensor([0.3, 0.9]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.02])):
        t = t.double()
        expected = reference(x, t, z)
        torch.testing.assert_close(decoder(x, t, z), expected, atol=1e-9, rtol=1e-9)
        with torch.no_grad():  # other code paths: folded upsampling, in-place activations
            torch.testing.assert_close(decoder(x, t, z), expected, atol=1e-9, rtol=1e-9)
    with torch.no_grad():  # one time for all images
        expected = reference(x, torch.full((2,), 0.4).double(), z)
        torch.testing.assert_close(decoder(x, torch.tensor([0.4]).double(), z), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("downscale", "channels", "rows", "columns"),
    [
        (2, 4, 3, 5),  # 6 x 10 pixels: odd grids on the way down, latent finer than the tokens
        (2, 3, 16, 20),
        (4, 8, 3, 5),  # 12 x 20 pixels
        (4, 4, 1, 1),
        (8, 4, 1, 1),  # a single token
        (8, 4, 3, 9),  # below the window
        (8, 16, 17, 24),  # beyond it
        (16, 4, 1, 3),
        (32, 32, 2, 1),
        (6, 4, 3, 2),  # not a power of two
        (1, 3, 9, 7),
    ],
)
def test_any_latent_space_and_shape(make_decoder, draw, downscale, channels, rows, columns):
    config = DecoderConfig(multipliers=(1, 2, 3, 3), latent_channels=channels, downscale=downscale, **SMALL)
    agree(make_decoder, draw, config, rows, columns)


@pytest.mark.parametrize(
    "changes",
    [
        {"multipliers": (2,)},
        {"multipliers": (1, 2), "patch_size": 2, "downscale": 4},
        {"multipliers": (1, 2), "patch_size": 4, "downscale": 4, "prediction": "sample", "resnets_per_level": 1},
        {"multipliers": (1, 1, 2, 2, 3), "resnets_per_level": 3},
        {"multipliers": (1, 2), "transformer_blocks": 0},
        {"multipliers": (1, 2), "heads": 4, "prediction": "sample"},
        {"multipliers": (1, 2), "prediction": "sample", "shortcut": True, "refinement_channels": 5},
        {"multipliers": (1, 2), "prediction": "sample", "shortcut": True, "overlap": True, "patch_size": 2},
        {"multipliers": (1,), "overlap": True, "patch_size": 4, "downscale": 8},
    ],
)
def test_any_configuration(make_decoder, draw, changes):
    agree(make_decoder, draw, DecoderConfig(**{**SMALL, **changes}), 5, 3)


@pytest.mark.parametrize("size", ["debug", "quickstart", "XS"])
def test_named_sizes(make_decoder, draw, size):
    agree(make_decoder, draw, decoder_config(size), 4, 7)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["S", "B", "M"])
def test_large_sizes(make_decoder, draw, size):
    agree(make_decoder, draw, decoder_config(size, latent_channels=8, downscale=16), 2, 3)


@pytest.mark.slow
def test_the_largest_sizes_with_few_channels(make_decoder, draw):
    """L, XL and H differ in their channels alone; to draw all weights of XL takes a minute."""
    large, larger, largest = (
        replace(decoder_config(size, latent_channels=8, downscale=16), base_channels=32) for size in ("L", "XL", "H")
    )
    assert large == larger == largest
    agree(make_decoder, draw, largest, 2, 3)
