"""A generator as a pipeline of diffusers: the same images from the same seeds."""

import pytest
import torch

import ssdd
from ssdd import SSDD
from ssdd.generation.drawing import decode_latents
from ssdd.generation.generator import Generator, generator_config
from ssdd.generation.latent_sampler import sample_latents
from ssdd.generation.saved_pipeline import save_pipeline
from ssdd.generation_parameters import SamplingParameters
from ssdd_decoder import decoder_config
from ssdd_encoder import LatentStatistics, encoder_config

SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def decoder_file(tmp_path_factory):
    torch.manual_seed(0)
    encoder = encoder_config("debug")
    space = {"latent_channels": encoder.latent_channels, "downscale": encoder.downscale}
    model = SSDD(encoder, decoder_config("debug", **space))
    for weight in model.decoder.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "ssdd.safetensors")


def make(decoder_file, classes):
    encoder = SSDD.config_of(decoder_file)[0]
    channels = encoder.latent_channels
    statistics = LatentStatistics(
        torch.linspace(-2, 2, channels).double(), torch.linspace(0.5, 3, channels).double(), 0, 1, 9
    )
    torch.manual_seed(1)
    generator = Generator(generator_config("debug", 2, (channels, 8, 8), encoder.downscale, statistics, classes))
    for name, weight in generator.named_parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
        elif "embedding_table" in name:
            weight.data *= 20
    return generator.eval()


def images_here(generator, decoder_file, labels, sampling, steps):
    z = sample_latents(generator, SEEDS, torch.tensor(labels), sampling)
    return (decode_latents(SSDD.from_pretrained(decoder_file), z, steps) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(
    ("classes", "labels", "guidance", "decoder_steps", "shift"),
    [(3, [0, 2, 1], 2.5, 1, 1.0), (3, [0, 2, 1], 1.0, 3, 3.0), (0, [-1, -1, -1], 1.0, 1, 1.0)],
)
def test_diffusers_loads_it_and_draws_the_same_images(
    decoder_file, tmp_path, classes, labels, guidance, decoder_steps, shift
):
    from diffusers import DiffusionPipeline

    generator = make(decoder_file, classes)
    folder = save_pipeline(generator, decoder_file, tmp_path / "pipeline", decoder_steps, shift)
    assert sorted(path.name for path in folder.iterdir()) == ["model_index.json", "scheduler", "transformer", "vae"]
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.vae, ssdd.AutoencoderSSDD)
    found = pipeline(
        class_labels=[max(label, 0) for label in labels],
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=7,
        output_type="pt",
    ).images
    sampling = SamplingParameters(steps=7, guidance=guidance, shift=shift)
    expected = images_here(generator, decoder_file, labels, sampling, decoder_steps)
    assert float(expected.std()) > 0.05
    assert float((found - expected).abs().max()) < 1e-4


def test_without_classes_any_class_and_guidance_draw_the_same(decoder_file, tmp_path):
    from diffusers import DiffusionPipeline

    folder = save_pipeline(make(decoder_file, 0), decoder_file, tmp_path / "pipeline")
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)

    def draw(label, guidance):
        generator = torch.Generator().manual_seed(1)
        options = {"num_inference_steps": 2, "output_type": "pt", "generator": generator}
        return pipeline(class_labels=[label], guidance_scale=guidance, **options).images

    torch.testing.assert_close(draw(0, 1.0), draw(207, 4.0), atol=1e-5, rtol=0)


def test_the_decoders_latents_are_normalised_on_both_sides(decoder_file):
    from ssdd import AutoencoderSSDD

    channels = SSDD.config_of(decoder_file)[0].latent_channels
    inner = {"inner_mean": [0.5] * channels, "inner_std": [2.0] * channels}
    plain = AutoencoderSSDD.from_pretrained(decoder_file, normalization="none")
    inside = AutoencoderSSDD.from_pretrained(decoder_file, normalization="none", **inner)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    own, theirs = plain.encode(x).latent_dist, inside.encode(x).latent_dist
    torch.testing.assert_close(theirs.mean, (own.mean - 0.5) / 2)
    torch.testing.assert_close(theirs.std, own.std / 2)
    torch.testing.assert_close(inside.decode(theirs.mode()).sample, plain.decode(own.mode()).sample)
    with pytest.raises(ValueError, match="and no other scale or shift"):
        AutoencoderSSDD.from_pretrained(decoder_file, normalization="none", scaling_factor=0.5, **inner)
    with pytest.raises(ValueError, match="inner_std"):
        AutoencoderSSDD.from_pretrained(decoder_file, normalization="none", inner_mean=[0.0] * channels)


def test_what_does_not_fit_is_refused(decoder_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="a new or empty folder"):
        save_pipeline(make(decoder_file, 0), decoder_file, tmp_path)
    statistics = LatentStatistics(torch.zeros(7).double(), torch.ones(7).double(), 0, 1, 9)
    other = Generator(generator_config("debug", 1, (7, 4, 4), 8, statistics, 0))
    with pytest.raises(ValueError, match="expected a decoder of the generator's latents, f8c7"):
        save_pipeline(other, decoder_file, tmp_path / "new")
    assert not (tmp_path / "new").exists()
