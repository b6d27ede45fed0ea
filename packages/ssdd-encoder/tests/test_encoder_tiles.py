"""Encoding in tiles: the same posterior as without them, whatever the network and the size."""

import pytest
import torch

from ssdd_encoder import EncoderConfig, strips
from ssdd_encoder.strips import FeatureMap, Moments, Workspace

SMALL = {"base_channels": 8, "norm_groups": 4, "latent_channels": 3, "resnets_per_level": 1}
NETWORKS = {
    "published layers": EncoderConfig(multipliers=(1, 2, 4), **{**SMALL, "resnets_per_level": 2}),
    "windows, patches, shortcut": EncoderConfig(
        multipliers=(1, 1), patch_size=4, attention_window=5, shortcut=True, **SMALL
    ),
    "no attention, one level": EncoderConfig(multipliers=(1,), patch_size=2, attention=False, **SMALL),
}


@pytest.mark.parametrize("memory", [0, 2**30])
@pytest.mark.parametrize("network", NETWORKS)
def test_tiles_give_the_posterior_of_the_whole(make_encoder, images, monkeypatch, network, memory):
    monkeypatch.setattr(strips, "MEMORY", memory)
    encoder, x, told = make_encoder(NETWORKS[network]), images(2, 232, 104), []
    whole = encoder(x)
    assert torch.equal(encoder(x, tile=512).mean, whole.mean)  # it fits into one
    tiled = encoder(x, tile=16, progress=told.append)
    assert not torch.equal(tiled.mean, whole.mean)
    for each, expected in ((tiled.mean, whole.mean), (tiled.logvar, whole.logvar)):
        torch.testing.assert_close(each, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    assert told == sorted(told)
    assert len(told) > 20
    assert told[-1] == pytest.approx(1, abs=1e-6)
    assert told[-2] < 1


@pytest.mark.parametrize("window", [7, 100])
def test_windows_are_those_of_the_whole(make_encoder, images, window):
    encoder, x = make_encoder(NETWORKS["published layers"]).double(), images(1, 96, 128).double()
    whole = encoder(x, attention_window=window).mean
    torch.testing.assert_close(encoder(x, attention_window=window, tile=32).mean, whole, atol=1e-12, rtol=0)
    assert not torch.allclose(encoder(x, attention_window=9, tile=32).mean, whole, atol=1e-3)


@pytest.mark.parametrize("tile", [0, 15, -512, 512.0, True, "512", 10**9])
def test_other_sides_are_refused(make_encoder, images, tile):
    with pytest.raises(ValueError, match="expected tile to be an integer from 16 to 32768"):
        make_encoder()(images(1, 16, 16), tile=tile)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_maps_return_what_was_written(in_memory, dtype):
    x = torch.randn(1, 3, 10, 4).to(dtype)
    kept = FeatureMap(x, 10, in_memory)
    for top, bottom in ((4, 10), (0, 4)):
        kept.write(top, x[:, :, top:bottom])
    assert torch.equal(kept.rows(2, 7), x[:, :, 2:7])
    kept.rows(0, 10).zero_()
    assert torch.equal(kept.rows(0, 10), x)
    wide = x.double()
    mean, variance = kept.statistics
    torch.testing.assert_close(mean.double(), wide.mean((0, 2, 3))[None], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(variance.double(), wide.var((0, 2, 3), correction=0)[None], atol=1e-6, rtol=1e-6)
    kept.close()


def test_moments_are_exact_where_one_sum_in_float32_is_not():
    x = 1.3 * torch.randn(1, 4, 1024, 1024, generator=torch.Generator().manual_seed(0)) + 0.7
    moments = Moments(x)
    moments.add(x)
    exact = x.double().var((0, 2, 3), correction=0)
    assert ((moments.variance - exact) / exact).abs().max() < 1e-5
    one = torch.batch_norm_update_stats(
        x.contiguous(memory_format=torch.channels_last), x[0, :, 0, 0], x[0, :, 0, 0], 0.0
    )[1]
    assert ((one - exact) / exact).abs().max() > 1e-4


def test_strips_cover_a_map_once():
    for tile, height, width, share in ((16, 100, 7, 1), (16, 1, 1, 1), (64, 37, 1000, 4), (512, 4096, 4096, 1)):
        strips_of_it = list(Workspace(tile).strips(height, width, share))
        assert [row for top, bottom in strips_of_it for row in range(top, bottom)] == list(range(height))
        assert max(bottom - top for top, bottom in strips_of_it) <= max(8, tile**2 // (share * width))
