"""A decoder that is trained and distilled on the latents of an autoencoder of diffusers, and then takes its place."""

import json

import pytest
import torch

from ssdd import SSDD, AutoencoderSSDD
from ssdd.imported_encoders import import_encoder

pytestmark = pytest.mark.slow


def train(project, make_autoencoder, kind, **parameters):
    """Runs all stages on a tiny random autoencoder of a kind; returns the folder of the run."""
    make_autoencoder(kind).save_pretrained(project.folder / f"{kind}_vae")
    of = {"run_name": kind, "model.encoder": "diffusers", "encoder_checkpoint": f"{kind}_vae", "model.decoder": "debug"}
    project.run("--pipeline=release", "--params", ",".join(f"{k}={v}" for k, v in (of | parameters).items()))
    return project.folder / "data" / kind


def test_flux(project, make_autoencoder, make_flux, monkeypatch):
    run = train(project, make_autoencoder, "flux")
    student = SSDD.from_pretrained(run / "models/distilled.safetensors")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = import_encoder(project.folder / "flux_vae").network(images).mode()
    assert torch.equal(student.encode(images).mode(), expected)  # frozen all the time
    assert json.loads((run / "models/latent_stats.json").read_text())["count"] > 0
    monkeypatch.chdir(project.folder)
    vae = AutoencoderSSDD.from_pretrained("flux")
    assert vae.config.scaling_factor == 0.3611
    tiny = make_flux(vae)
    pictures = tiny.pictures()
    assert pictures.shape == (1, 64, 64, 3)
    released = AutoencoderSSDD.from_pretrained(run / "release/ssdd.safetensors")
    assert (released.config.scaling_factor, released.config.shift_factor) == (0.3611, 0.1159)
    tiny.pipe.vae = released
    assert (tiny.pictures() - pictures).abs().mean() < 0.05
    assert (
        project.stale(
            "--pipeline=release",
            "--params",
            "run_name=flux,model.encoder=diffusers,encoder_checkpoint=flux_vae,model.decoder=debug",
        )
        == {}
    )


@pytest.mark.parametrize("kind", ["tiny", "dc", "rae"])
def test_networks_of_diffusers_own(project, make_autoencoder, kind):
    run = train(project, make_autoencoder, kind)
    student = SSDD.from_pretrained(run / "models/distilled.safetensors")
    assert (
        student.encoder.config.class_name
        == {"tiny": "AutoencoderTiny", "dc": "AutoencoderDC", "rae": "AutoencoderRAE"}[kind]
    )
    assert "student" in (run / "evaluation/metrics.csv").read_text()


def test_the_parameter_without_a_folder_is_an_error_before_anything_runs(project):
    done = project.kedro("run", "--env=tiny", "--params", "model.encoder=diffusers,run_name=nothing")
    assert done.returncode != 0
    assert "set encoder_checkpoint to the folder or hub id" in " ".join(done.stdout.split())
