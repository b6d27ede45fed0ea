"""Decoding in tiles: the same image as without them, whatever the network, the size and the steps."""

import pytest
import torch

from ssdd_decoder import DecoderConfig, strips, tiles

SMALL = {"base_channels": 16, "heads": 2, "norm_groups": 8, "latent_channels": 4, "transformer_blocks": 1}
NETWORKS = {
    "velocity": DecoderConfig(multipliers=(1, 2, 2), downscale=8, **SMALL),
    "odd sides": DecoderConfig(multipliers=(1, 2, 3), downscale=5, resnets_per_level=1, **SMALL),
    "patches": DecoderConfig(multipliers=(1, 2), downscale=8, patch_size=2, resnets_per_level=1, **SMALL),
    "one level": DecoderConfig(multipliers=(1,), downscale=2, **SMALL),
    "all additions": DecoderConfig(
        multipliers=(1, 2),
        downscale=8,
        patch_size=4,
        prediction="sample",
        shortcut=True,
        overlap=True,
        refinement_channels=8,
        refinement_layers=6,
        **SMALL,
    ),
}


@pytest.fixture
def in_files(monkeypatch):
    monkeypatch.setattr(strips, "MEMORY", 10_000)


@pytest.mark.parametrize("network", NETWORKS)
def test_tiles_give_the_image_of_the_whole(make_decoder, draw, in_files, network):
    decoder, scale = make_decoder(NETWORKS[network]), NETWORKS[network].downscale
    z, noise = draw(2, 4, 23, 13), draw(2, 3, 23 * scale, 13 * scale, seed=1)
    whole = decoder.decode(z, noise=noise)
    assert torch.equal(decoder.decode(z, noise=noise, tile=512), whole)  # it fits into one
    tiled = decoder.decode(z, noise=noise, tile=16)
    assert not torch.equal(tiled, whole)
    torch.testing.assert_close(tiled, whole, atol=2e-5 * whole.abs().max().item(), rtol=0)


def test_in_double_precision_nothing_but_rounding_is_left(make_decoder, draw):
    decoder = make_decoder(NETWORKS["all additions"]).double()
    z, noise = draw(1, 4, 40, 9, dtype=torch.float64), draw(1, 3, 320, 72, seed=1, dtype=torch.float64)
    whole = decoder.decode(z, steps=3, noise=noise)
    torch.testing.assert_close(decoder.decode(z, steps=3, noise=noise, tile=32), whole, atol=1e-11, rtol=0)


def test_bfloat16_tiles_are_as_near_as_bfloat16_is(make_decoder, draw, in_files):
    decoder = make_decoder(NETWORKS["velocity"])
    z, noise = draw(1, 4, 12, 12), draw(1, 3, 96, 96, seed=1)
    exact = decoder.decode(z, noise=noise)
    decoder.to(torch.bfloat16)
    whole, tiled = decoder.decode(z, noise=noise), decoder.decode(z, noise=noise, tile=32)
    assert tiled.dtype == torch.float32
    assert (tiled - exact).square().mean() < 1.5 * (whole - exact).square().mean()


def test_progress_rises_to_one(make_decoder, draw):
    told: list[float] = []
    for network in NETWORKS.values():
        told.clear()
        scale = network.downscale
        z = draw(2, 4, 96 // scale, 96 // scale)
        make_decoder(network).decode(z, steps=2, generator=torch.Generator(), tile=32, progress=told.append)
        assert told == sorted(told)
        assert len(told) > 40
        assert told[-1] == pytest.approx(1, abs=1e-6)
        assert told[-2] < 1


def test_no_map_of_the_whole_image_is_left_in_memory(make_decoder, draw, monkeypatch):
    largest = 0
    decoder = make_decoder(NETWORKS["velocity"])

    def watch(module, inputs, output):
        nonlocal largest
        largest = max(largest, output.numel())

    for module in decoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(watch)
    monkeypatch.setattr(strips, "MEMORY", 0)
    z, width = draw(1, 4, 128, 8), decoder.config.widths[0]
    decoder.decode(z, generator=torch.Generator(), tile=64)
    assert width * 64 * 64 < largest < 2.1 * width * 64 * 64  # of 65,536 pixels; twice as wide, and a halo
    made = []
    monkeypatch.setattr(tiles, "Workspace", lambda *arguments: made.append(strips.Workspace(*arguments)) or made[-1])
    decoder.decode(z, generator=torch.Generator(), tile=64)
    assert [space._maps for space in made] == [[]]


@pytest.mark.parametrize("tile", [0, 15, -512, 512.0, True, "512", 10**9])
def test_other_sides_are_refused(make_decoder, draw, tile):
    with pytest.raises(ValueError, match="expected tile to be an integer from 16 to 32768"):
        make_decoder().decode(draw(1, 4, 2, 2), tile=tile)


@pytest.mark.parametrize("option", ["grad", "compile"])
def test_tiles_have_no_graph(make_decoder, draw, option):
    with pytest.raises(ValueError, match="neither grad nor compile with tile"):
        make_decoder().decode(draw(1, 4, 4, 4), tile=16, **{option: True})
