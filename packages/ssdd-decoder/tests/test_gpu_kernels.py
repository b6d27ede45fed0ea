"""The GPU kernels against PyTorch's operators in float64: on a GPU where there is one, else in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ssdd_decoder import attention, blocks, convolution, gpu, norm
from ssdd_decoder.attention import tile_biases, tiled_attention
from ssdd_decoder.convolution import convolve, pointwise
from ssdd_decoder.modulation import Modulation

pytest.importorskip("triton", reason="this build of PyTorch has no Triton")

from ssdd_decoder.attention_kernel import kernel_attention, kernel_biases
from ssdd_decoder.norm_kernel import kernel_norm_silu, kernel_normalised
from ssdd_decoder.pointwise_kernels import add_bias, geglu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-5
# features (B, C, H, W), groups, latent cells (h, w): several pixels per cell, one cell, a part of a pixel, odd channels
NORMS = [
    ((2, 48, 16, 24), 16, (2, 3)),
    ((1, 96, 8, 8), 32, (1, 1)),
    ((1, 72, 17, 9), 8, (4, 5)),
    ((1, 8, 70, 60), 4, (10, 6)),
]


@pytest.fixture
def by_kernel(monkeypatch):
    """Uses the kernels wherever no gradient is recorded, on a CPU too."""

    def use() -> None:
        for module in (attention, blocks, convolution, norm):
            for name in {"prefers_kernel", "prefers_joint_kernel"} & set(vars(module)):
                monkeypatch.setattr(module, name, lambda x: not torch.is_grad_enabled())

    return use


def features(draw, shape, seed=0):
    """Far from zero, so that a variance from sums of squares would be wrong."""
    x = 3 * draw(*shape, seed=seed) + 100
    return x.to(DEVICE).contiguous(memory_format=torch.channels_last)


def exactly(x, scale, shift, groups, bias):
    x, scale, shift, bias = (each.double().cpu() for each in (x, scale, shift, bias))
    n = F.group_norm(x + bias[:, None, None], groups, eps=EPS).permute(0, 2, 3, 1).contiguous()
    return F.silu(Modulation(scale, shift).apply(n)).permute(0, 3, 1, 2)


def near(found, expected, atol=2e-4):
    torch.testing.assert_close(found.double().cpu(), expected, atol=atol, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # SiLU of a large negative number is zero
@pytest.mark.parametrize(("shape", "groups", "cells"), NORMS)
def test_norm_modulation_and_silu(draw, shape, groups, cells):
    channels = shape[1]
    x, bias = features(draw, shape), draw(channels, seed=1).to(DEVICE)
    maps = draw(shape[0], *cells, 3 * channels, seed=2).to(DEVICE)  # slices of it are not contiguous
    scale, shift = maps[..., :channels], maps[..., 2 * channels :]
    expected = exactly(x, scale, shift, groups, bias)
    found = kernel_norm_silu([x], scale, shift, groups, EPS, bias)
    near(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    before = x.clone()
    parts = [x[:, : channels // 4 + 1], x[:, channels // 4 + 1 :]]  # a group lies in both
    near(kernel_norm_silu(parts, scale, shift, groups, EPS), exactly(x, scale, shift, groups, 0 * bias))
    assert torch.equal(x, before)
    assert torch.equal(kernel_norm_silu([x], scale, shift, groups, EPS, bias, overwrite=True), found)
    shared = kernel_norm_silu([before], scale[:1], shift[:1], groups, EPS)  # by all images
    near(shared, exactly(before, scale[:1], shift[:1], groups, 0 * bias))


@pytest.mark.parametrize(("shape", "groups", "cells"), NORMS)
def test_norm_alone(draw, shape, groups, cells):
    x = features(draw, shape)
    found, inverse = kernel_normalised(x, groups, EPS)
    near(found, F.group_norm(x.double().cpu(), groups, eps=EPS))
    grouped = x.double().cpu().unflatten(1, (groups, -1)).flatten(2)
    near(inverse, (grouped.var(2, correction=0) + EPS).rsqrt())


@pytest.mark.parametrize(
    ("height", "width", "heads", "d"), [(1, 1, 2, 4), (9, 20, 2, 40), (24, 31, 1, 72), (5, 40, 2, 16), (12, 17, 1, 64)]
)
def test_attention(draw, height, width, heads, d):
    q, k, v = draw(2, height, width, 3, heads, d).to(DEVICE).unbind(3)  # as a linear layer returns them
    table = draw(15, 15, heads, seed=1)
    (biases,) = tile_biases([table.double()], height, width)
    expected = tiled_attention(*(each.double().cpu() for each in (q, k, v)), biases)
    near(kernel_attention(q, k, v, kernel_biases([table.to(DEVICE)])[0]), expected, atol=1e-5)


def test_additions_and_gelu(draw):
    x, residual = (draw(2, 24, 9, 7, seed=seed).to(DEVICE) for seed in (0, 1))
    x, bias = x.contiguous(memory_format=torch.channels_last), draw(24, seed=2).to(DEVICE)
    expected = x.double().cpu() + bias.double().cpu()[:, None, None]
    near(add_bias(x.clone(memory_format=torch.preserve_format), bias, residual), expected + residual.double().cpu())
    near(add_bias(x, bias), expected)
    value, gate = residual.double().cpu().chunk(2, dim=1)
    gated = residual.permute(0, 2, 3, 1).contiguous()
    near(geglu(gated), (value * F.gelu(gate)).permute(0, 2, 3, 1), atol=1e-6)


def test_convolutions_that_leave_their_bias_to_a_kernel(draw, by_kernel):
    layer, wide = torch.nn.Conv2d(7, 16, 3, padding=1), torch.nn.Conv2d(23, 16, 1)
    x, residual, skip = draw(1, 7, 6, 5), draw(1, 16, 6, 5, seed=1), draw(1, 16, 6, 5, seed=2)
    with torch.no_grad():
        expected = layer(x) + residual, wide(torch.cat([x, skip], dim=1))
        by_kernel()
        torch.testing.assert_close(convolve(layer, x, residual), expected[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(pointwise(wide, x, skip), expected[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", ["debug", pytest.param("quickstart", marks=pytest.mark.slow)])
def test_a_decoder_and_its_gradients_are_the_same_with_kernels(make_decoder, draw, by_kernel, config):
    decoder = make_decoder(config)
    z, noise = draw(2, decoder.config.latent_channels, 3, 5), draw(2, 3, 24, 40, seed=1)

    def gradients() -> list[torch.Tensor]:
        decoder.zero_grad()
        (decoder(noise, torch.tensor([0.3, 0.8]), z) * noise).sum().backward()
        return [weight.grad.clone() for weight in decoder.parameters()]

    image, wanted = decoder.decode(z, 2, noise), gradients()
    by_kernel()
    torch.testing.assert_close(decoder.decode(z, 2, noise), image, atol=1e-4, rtol=1e-4)
    largest = max(gradient.abs().max() for gradient in wanted)
    for ours, theirs in zip(gradients(), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(largest), rtol=1e-3)


def test_kernels_are_for_gpus_without_gradients():
    assert not gpu.prefers_kernel(torch.zeros(1))  # on a CPU
    if DEVICE == "cuda":
        with torch.no_grad():
            assert gpu.prefers_kernel(torch.zeros(1, device=DEVICE))
            assert not gpu.prefers_kernel(torch.zeros(1, device=DEVICE, dtype=torch.float64))
            with gpu.without_kernels():
                assert not gpu.prefers_kernel(torch.zeros(1, device=DEVICE))
        assert not gpu.prefers_kernel(torch.zeros(1, device=DEVICE))


def test_a_recorded_decode_needs_a_gpu_and_equals_a_plain_one(make_decoder, draw):
    decoder = make_decoder("debug").to(DEVICE)
    z, noise = draw(1, 4, 4, 5).to(DEVICE), draw(1, 3, 32, 40, seed=1).to(DEVICE)
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="expected a decoder on a GPU"):
            decoder.record(z)
        return
    replay = decoder.record(z, steps=2)
    for seed in (2, 3):
        other = draw(1, 4, 4, 5, seed=seed).to(DEVICE)
        assert torch.equal(replay(other, noise), decoder.decode(other, 2, noise))
    with pytest.raises(ValueError, match="record again"):
        replay(z[..., :2], noise)


def test_widths_that_are_no_power_of_two(make_decoder, draw, by_kernel):
    config = replace(make_decoder("debug").config, base_channels=24, heads=2)
    decoder = make_decoder(config)
    z, noise = draw(1, 4, 2, 3), draw(1, 3, 16, 24, seed=1)
    image = decoder.decode(z, 1, noise)
    by_kernel()
    torch.testing.assert_close(decoder.decode(z, 1, noise), image, atol=1e-4, rtol=1e-4)
