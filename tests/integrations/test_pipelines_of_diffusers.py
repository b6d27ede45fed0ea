"""AutoencoderSSDD as `vae` of diffusers' pipelines."""

import json

import pytest
import torch


def test_every_pipeline_draws_pictures_and_is_the_same_when_loaded(make_pipeline, make_vae, tmp_path):
    tiny = make_pipeline(make_vae(scaling_factor=0.5, shift_factor=0.1))
    pictures = tiny.pictures()
    assert pictures.shape[1:] == (64, 64, 3)
    assert torch.isfinite(pictures).all()
    assert pictures.std() > 0.01
    assert torch.equal(pictures, tiny.pictures())  # the decoder's noise is fixed, also where no generator comes to it
    tiny.pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["vae"] == ["ssdd", "AutoencoderSSDD"]
    absent = dict.fromkeys(name for name, part in tiny.pipe.components.items() if part is None)  # text encoders
    loaded = type(tiny.pipe).from_pretrained(tmp_path, **absent)
    torch.testing.assert_close(tiny.pictures(loaded), pictures, atol=1e-4, rtol=0)


def test_every_pipeline_draws_pictures_s_times_as_large(make_pipeline, make_vae):
    tiny = make_pipeline(make_vae(upscale=2))
    assert getattr(tiny.pipe, "vae_scale_factor", 8) == 8  # of the latents, as without upscale
    pictures = tiny.pictures()
    assert pictures.shape[1:] == (128, 128, 3)
    assert pictures.std() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_pipeline_draws_nearly_the_same_pictures_in_half_precision(make_pipeline, make_vae, dtype):
    tiny = make_pipeline(make_vae(scaling_factor=0.5))
    pictures = tiny.pictures()
    tiny.pipe.to(dtype)
    near = tiny.pictures()
    assert torch.isfinite(near).all()
    assert (near - pictures).abs().mean() < 0.05
