"""Decoders whose images are s times as large as the encoder's: model, pictures of a folder, pipelines, training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ssdd import SSDD
from ssdd.training.jobs import TrainingJob, build_model
from ssdd.upscaling import enlarge, shrink


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SSDD("debug", "debug", upscale=2).eval()


def test_images_are_s_times_as_large(model, tmp_path):
    x = torch.rand(1, 3, 32, 48) * 2 - 1
    assert model.upscale == 2
    assert model.decoder.config.downscale == 2 * model.encoder.config.downscale
    z = model.encode(x).mode()
    assert z.shape == (1, 4, 4, 6)
    image = model.reconstruct(x, generator=torch.Generator().manual_seed(0))
    assert image.shape == (1, 3, 64, 96)
    loaded = SSDD.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.decoder.config == model.decoder.config
    assert torch.equal(loaded.reconstruct(x, generator=torch.Generator().manual_seed(0)), image)


def test_a_decoder_of_another_size_of_cell_is_still_refused():
    from ssdd_decoder import decoder_config

    with pytest.raises(ValueError, match="expected a decoder of f8c4 latents, got one of f16c4"):
        SSDD("debug", decoder_config("debug", downscale=16))
    with pytest.raises(ValueError, match="got one of f4c4"):
        SSDD("debug", decoder_config("debug", downscale=4, upscale=2))
    with pytest.raises(ValueError, match="expected upscale to divide downscale=8, got 3"):
        replace(decoder_config("debug"), upscale=3)


def test_smaller_copies_have_no_aliases():
    waves = (2 * torch.pi / 2.6 * torch.arange(60)).cos().view(1, 1, 60, 1).expand(1, 3, 60, 60)
    assert shrink(waves, 2)[:, :, 4:-4].abs().max() < 0.1  # without the filter, stripes of 0.6
    smooth = torch.linspace(-0.5, 0.5, 32).view(1, 1, 1, 32).expand(1, 3, 32, 32)
    again = enlarge(shrink(smooth, 2), 2)
    torch.testing.assert_close(again[..., 4:-4], smooth[..., 4:-4], atol=5e-3, rtol=0)
    assert shrink(smooth, 1) is smooth
    edge = torch.where(torch.arange(32) < 13, -1.0, 1.0).expand(1, 3, 32, 32)
    assert shrink(edge, 2).abs().max() <= 1  # the encoder takes no more


@pytest.mark.parametrize("size", ["quickstart", "debug"])
def test_a_decoder_that_enlarges_starts_from_one_that_does_not(size, tmp_path):
    torch.manual_seed(0)
    plain = SSDD("quickstart" if size == "quickstart" else "debug", size)
    file = plain.save_pretrained(tmp_path)
    job = TrainingJob(kind="decoder", images=None, folder=tmp_path, fingerprint="", checkpoint=file, upscale=2)
    started = build_model(job)
    assert started.upscale == 2
    weights = plain.decoder.state_dict()
    for name, value in started.decoder.state_dict().items():
        assert "shortcut" in name or torch.equal(value, weights[name])
    if size == "quickstart":  # whose random weights give the shortcut's image alone
        z = torch.randn(1, 16, 1, 1).expand(1, 16, 6, 6)
        once, twice = plain.decode(z), started.decode(z)
        near = enlarge(once, 2)
        assert (twice - near).std() < 0.2 * near.std()  # random pixels are the hardest to enlarge
    already = build_model(replace(job, checkpoint=started.save_pretrained(tmp_path / "started"), upscale=1))
    assert already.upscale == 2  # as stages 1 and 2 pass it on


def test_pictures_of_a_folder_are_s_times_as_large(model, tmp_path):
    from ssdd.imaging.encode_decode import decode_latents, encode_images, reconstruct_folder
    from ssdd.imaging.latent_files import LatentWriter, StoredLatents, check_fits
    from ssdd.imaging.latent_header import LatentHeader

    (tmp_path / "in").mkdir()
    Image.new("RGB", (70, 66), "teal").save(tmp_path / "in/a.png")
    reconstruct_folder(model, tmp_path / "in", tmp_path / "out", progress=False)
    assert Image.open(tmp_path / "out/a.png").size == (140, 132)
    with open(tmp_path / "spool", "w+b") as spool:
        writer = LatentWriter(spool)
        encode_images(model.encoder, [tmp_path / "in"], writer.add, progress=False)
        header = LatentHeader(
            downscale=8, latent_channels=4, sizes=writer.sizes, model={}, encoder={}, precision="float32", version="0"
        )
        writer.finish(tmp_path / "z.safetensors", header)
    stored = StoredLatents(tmp_path / "z.safetensors")
    check_fits(stored.header, model.decoder.config)
    decode_latents(model.decoder, stored, tmp_path / "decoded", progress=False)
    assert Image.open(tmp_path / "decoded/a.png").size == (140, 132)
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / name / "a.png")) for name in ("out", "decoded")))


def test_a_pipeline_draws_pictures_s_times_as_large(model, tmp_path):
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    from ssdd import AutoencoderSSDD

    vae = AutoencoderSSDD.from_pretrained(model.save_pretrained(tmp_path))
    generator = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=8, out_channels=8
    )
    pipe = DiTPipeline(generator, vae, DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    (picture,) = pipe([1], num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
    assert picture.size == (128, 128)  # 8 x 8 latents of 8 x 8 pixels, enlarged twice
    vae.save_pretrained(tmp_path / "vae")
    assert AutoencoderSSDD.from_pretrained(tmp_path / "vae").decoder.config.upscale == 2
