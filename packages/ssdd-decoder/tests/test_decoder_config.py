"""Shapes of decoders: the published sizes exactly, and shapes that are refused before any memory is used."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd_decoder import SIZES, Decoder, DecoderConfig, decoder_config
from ssdd_decoder.config import describe

PARAMETERS = {
    "XS": 4_996_611,
    "S": 14_057_059,
    "B": 21_140_459,
    "M": 50_280_147,
    "L": 90_759_939,
    "XL": 161_272_835,
    "H": 362_688_003,
}
HEADS = {"XS": 4, "S": 4, "B": 4, "M": 4, "L": 6, "XL": 8, "H": 12}
VALID = {"base_channels": 16, "multipliers": (1, 2), "transformer_blocks": 1, "heads": 2, "norm_groups": 8}


def build(config: DecoderConfig) -> Decoder:
    with torch.device("meta"):
        return Decoder(config)


@pytest.mark.parametrize("size", PARAMETERS)
def test_published_sizes_have_their_parameter_counts_and_heads(size):
    config = decoder_config(size)
    assert sum(p.numel() for p in build(config).parameters()) == PARAMETERS[size]
    assert config.attention_heads == HEADS[size]
    assert config.prediction == "velocity"


def test_widths_are_rounded_up_to_the_groups():
    assert decoder_config("S").widths == (64, 96, 160, 160)
    assert decoder_config("XS").widths == (32, 64, 96, 96)


@pytest.mark.parametrize("size", PARAMETERS)
def test_key_layout_of_a_size_follows_from_its_table_row(size):
    config = decoder_config(size)
    keys = build(config).state_dict().keys()
    assert len({k.split(".")[2] for k in keys if k.startswith("mid_block.transformer_blocks.")}) == (
        config.transformer_blocks
    )
    assert sum(k.startswith("down_blocks.") and k.endswith("conv2.weight") for k in keys) == 8
    assert sum(k.startswith("up_blocks.") and k.endswith("conv2.weight") for k in keys) == 12
    assert sum(k.endswith("relative_bias_table") for k in keys) == config.transformer_blocks


@pytest.mark.parametrize(("size", "parameters"), [("quickstart", 1_694_955), ("demo", 3_222_287)])
def test_quickstart_decodes_the_quickstart_latent(size, parameters):
    config = decoder_config(size)
    assert (config.downscale, config.latent_channels) == (8, 16)
    assert (config.patch_size, config.prediction) == (4, "sample")
    decoder = Decoder(size)
    assert sum(p.numel() for p in decoder.parameters()) == parameters
    assert decoder.decode(torch.zeros(1, 16, 3, 2)).shape == (1, 3, 24, 16)


@pytest.mark.parametrize("size", SIZES)
def test_the_latent_space_is_the_sizes_own_unless_another_is_asked_for(size):
    own = decoder_config(size)
    assert own == SIZES[size]
    assert (own.downscale, own.latent_channels) == (8, 16 if size in ("quickstart", "demo") else 4)
    other = decoder_config(size, latent_channels=4, downscale=4)
    assert other == replace(own, latent_channels=4, downscale=4)


def test_configurations_are_named_in_messages():
    assert [describe(decoder_config(size)) for size in SIZES] == [f"decoder {size}" for size in SIZES]
    assert describe(decoder_config("M", latent_channels=32, downscale=16)) == "decoder M for f16c32 latents"
    assert "base_channels=16" in describe(DecoderConfig(**VALID))


@pytest.mark.parametrize("size", SIZES)
def test_limit_is_on_a_fair_estimate_of_the_parameters(size):
    config = decoder_config(size)
    count = sum(p.numel() for p in build(config).parameters())
    assert config.approximate_parameters == pytest.approx(count, rel=0.1)


@pytest.mark.parametrize("size", ["m", "", "XXL", "f8c4"])
def test_unknown_sizes_are_refused(size):
    with pytest.raises(
        ValueError, match="expected a decoder size among debug, quickstart, demo, XS, S, B, M, L, XL, H; got"
    ):
        Decoder(size)


@pytest.mark.parametrize(
    "fields",
    [
        {"base_channels": 0},
        {"base_channels": 2**40},
        {"base_channels": True},
        {"base_channels": 16.0},
        {"multipliers": ()},
        {"multipliers": None},
        {"multipliers": "12"},
        {"multipliers": (1, -1)},
        {"multipliers": (1, 10**9)},
        {"multipliers": (1,) * 10**6},
        {"transformer_blocks": -1},
        {"transformer_blocks": 10**9},
        {"heads": 3},
        {"heads": 0},
        {"heads": 10**9},
        {"latent_channels": 0},
        {"latent_channels": 10**9},
        {"downscale": 10**6},
        {"resnets_per_level": 10**6},
        {"patch_size": 3},
        {"patch_size": 10**6},
        {"norm_groups": 10**9},
        {"norm_groups": 5, "base_channels": 5, "heads": 1},
        {"prediction": "noise"},
        {"prediction": ["velocity"]},
        {"base_channels": 4096, "resnets_per_level": 16},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=r"expected .* got"):
        DecoderConfig(**{**VALID, **fields})


@settings(max_examples=25, deadline=None)
@given(
    base=st.integers(1, 24),
    multipliers=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    blocks=st.integers(0, 3),
    heads=st.sampled_from([1, 2, 4]),
    latent_channels=st.integers(1, 64),
    resnets=st.integers(1, 3),
    patch=st.sampled_from([1, 2, 4]),
    cells=st.integers(1, 4),
    prediction=st.sampled_from(["velocity", "sample"]),
)
def test_every_configuration_survives_json_and_describes_its_network(
    base, multipliers, blocks, heads, latent_channels, resnets, patch, cells, prediction
):
    config = DecoderConfig(
        base_channels=base,
        multipliers=tuple(multipliers),
        transformer_blocks=blocks,
        heads=heads,
        latent_channels=latent_channels,
        downscale=patch * cells,
        resnets_per_level=resnets,
        patch_size=patch,
        norm_groups=8,
        prediction=prediction,
    )
    assert DecoderConfig(**json.loads(json.dumps(asdict(config)))) == config
    x = torch.zeros(2, 3, 2 * config.downscale, config.downscale)
    assert Decoder(config)(x, torch.zeros(2), torch.zeros(2, latent_channels, 2, 1)).shape == x.shape
