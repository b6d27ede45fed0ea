"""Shapes of encoders, and shapes that are refused before any memory is used."""

import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd_encoder import VARIANTS, Encoder, EncoderConfig, encoder_config
from ssdd_encoder.config import MAX_PARAMETERS, describe

NAMED = {
    "f2c4": (1, 2),
    "f4c3": (1, 2, 4),
    "f8c4": (1, 2, 4, 4),
    "f16c4": (1, 2, 4, 4, 4),
    "f32c32": (1, 2, 4, 4, 4, 4),
}


def parameters(config: EncoderConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Encoder(config).parameters())


def test_published_encoder_has_sd_vaes_parameter_count():
    assert parameters(encoder_config("f8c4")) == 34_163_664
    assert encoder_config("sdvae") == encoder_config("f8c4")


@pytest.mark.parametrize("name", NAMED)
def test_names_spell_downscale_and_channels(name):
    config = encoder_config(name)
    assert config.name == name
    assert config.multipliers == NAMED[name]
    assert (config.base_channels, config.resnets_per_level, config.norm_groups) == (128, 2, 32)
    assert describe(config) == f"encoder {name}"


def test_small_variants():
    names = {"debug": "f8c4", "quickstart": "f8c16", "demo": "f8c16"}
    assert {name: config.name for name, config in VARIANTS.items()} == names
    assert (parameters(encoder_config("quickstart")), parameters(encoder_config("demo"))) == (319_712, 548_800)
    assert [describe(encoder_config(name)) for name in VARIANTS] == [f"encoder {name}" for name in names]


def test_a_variant_has_a_name_in_every_latent_space():
    config = encoder_config("quickstart-f4c4")
    assert (config.name, config.patch_size, config.attention_window) == ("f4c4", 2, 16)
    assert encoder_config("quickstart-f8c16") == VARIANTS["quickstart"]
    with pytest.raises(ValueError, match="F a multiple of 2"):
        encoder_config("quickstart-f3c4")
    with pytest.raises(ValueError, match="or one of"):
        encoder_config("quickstart-f8")


@pytest.mark.parametrize("config", [*NAMED, *VARIANTS])
def test_limit_is_on_a_fair_estimate_of_the_parameters(config):
    config = encoder_config(config)
    assert config.approximate_parameters == pytest.approx(parameters(config), rel=0.34)


@pytest.mark.parametrize("name", ["f8", "f3c4", "f1c4", "f2048c4", "f8c0", "F8c4", "f8c4 ", "", "f٨c٤", "f8c99999"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=r"expected .* got"):
        encoder_config(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"latent_channels": 0},
        {"latent_channels": 2**40},
        {"latent_channels": True},
        {"base_channels": -128},
        {"base_channels": 32.0},
        {"base_channels": 2**30},
        {"multipliers": ()},
        {"multipliers": None},
        {"multipliers": "1244"},
        {"multipliers": (1, 0)},
        {"multipliers": (1, 10**9)},
        {"multipliers": (1,) * 10**6},
        {"resnets_per_level": 10**9},
        {"patch_size": 2**20},
        {"patch_size": 512},
        {"norm_groups": 48},
        {"attention": 1},
        {"base_channels": 8192, "multipliers": (1, 2, 2, 2), "resnets_per_level": 32},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=r"expected .* got"):
        EncoderConfig(**fields)


@settings(max_examples=40, deadline=None)
@given(
    base=st.sampled_from([8, 16, 24]),
    multipliers=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    latent_channels=st.integers(1, 64),
    resnets=st.integers(1, 3),
    patch_size=st.sampled_from([1, 2, 4]),
    attention=st.booleans(),
)
def test_every_configuration_survives_json_and_describes_its_network(
    base, multipliers, latent_channels, resnets, patch_size, attention
):
    config = EncoderConfig(
        base_channels=base,
        multipliers=tuple(multipliers),
        latent_channels=latent_channels,
        resnets_per_level=resnets,
        patch_size=patch_size,
        norm_groups=8,
        attention=attention,
    )
    assert EncoderConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert 0 < config.approximate_parameters < MAX_PARAMETERS
    with torch.device("meta"):
        moments = Encoder(config)(torch.zeros(1, 3, 2 * config.downscale, config.downscale))
    assert moments.mean.shape == (1, latent_channels, 2, 1)
