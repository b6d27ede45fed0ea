"""The KL-VAE of a run as a folder of diffusers, and its command."""

import dataclasses

import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL

from ssdd.baselines import KLAutoencoder, KLDecoder, KLDecoderConfig
from ssdd.commands.group import cli
from ssdd.kl_export import autoencoder_kl, export_kl
from ssdd.model_files import find_kl
from ssdd_encoder import Encoder, EncoderConfig

ENCODER = EncoderConfig(base_channels=8, multipliers=(1, 2, 4), resnets_per_level=1, norm_groups=4)
DECODER = KLDecoderConfig(width=8, downscale=4, resnets_per_level=1, norm_groups=4)


def model(encoder=ENCODER, decoder=DECODER):
    torch.manual_seed(0)
    made = KLAutoencoder(Encoder(encoder), KLDecoder(decoder)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def test_diffusers_loads_the_folder_with_equal_output(tmp_path):
    ours = model()
    theirs = AutoencoderKL.from_pretrained(export_kl(ours, tmp_path / "vae")).eval()
    x = torch.rand(2, 3, 24, 32) * 2 - 1
    with torch.no_grad():
        posterior, wanted = theirs.encode(x).latent_dist, ours.encode(x)
        torch.testing.assert_close(posterior.mode(), wanted.mode(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(posterior.logvar, wanted.logvar, atol=1e-5, rtol=1e-5)
        z = wanted.mode()
        torch.testing.assert_close(theirs.decode(z).sample, ours.decode(z), atol=1e-5, rtol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["vae"]


@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("encoder", {"shortcut": True}, "a shortcut in the encoder"),
        ("encoder", {"attention_window": 8}, "attention within windows"),
        ("decoder", {"patch_size": 2}, "patches in the decoder"),
        ("decoder", {"shortcut": True}, "a shortcut in the decoder"),
        ("decoder", {"width": 16}, "widths"),
        ("decoder", {"resnets_per_level": 2}, "other depths"),
    ],
)
def test_what_the_class_does_not_have_is_named(part, change, named):
    encoder = dataclasses.replace(ENCODER, **change) if part == "encoder" else ENCODER
    decoder = dataclasses.replace(DECODER, **change) if part == "decoder" else DECODER
    with pytest.raises(ValueError, match=named):
        autoencoder_kl(model(encoder, decoder))


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="new or empty folder"):
        export_kl(model(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    models = tmp_path / "data" / "mine" / "models"
    models.mkdir(parents=True)
    model().save_pretrained(models / "kl.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_finds_the_model_of_a_run(project):
    done = CliRunner().invoke(cli, ["export", "mine", "--to", "kl", "-o", "vae"])
    assert done.exit_code == 0, done.output
    assert AutoencoderKL.from_pretrained(project / "vae").config.latent_channels == 4


def test_the_command_says_what_is_missing(project):
    refused = CliRunner().invoke(cli, ["export", "mine", "--to", "kl", "-o", "vae", "--adversarial"])
    assert refused.exit_code == 1
    assert "--pipeline=train_kl" in refused.output
    with pytest.raises(ValueError, match="no run of that name"):
        find_kl("mien")
