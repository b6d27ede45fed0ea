"""Noise on the latents of a frozen encoder, in the decoder's trainings."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssdd import noise as draws
from ssdd.baselines import KLAutoencoder, KLDecoder, KLDecoderConfig
from ssdd.comparison_parameters import KLParameters, RegressionWeights
from ssdd.data import ImageDataset, TrainTransform, index_images, open_source
from ssdd.parameters import LossWeights, RuntimeConfig, StageParameters, TargetParameters
from ssdd.training.latent_noise import add_latent_noise, channel_deviation
from ssdd.training.loss_networks import LossNetworks
from ssdd.training.regression import RegressionStep
from ssdd.training.steps import AutoencoderStep, DistillationStep
from ssdd.upscaling import shrink
from ssdd_decoder import Decoder, DecoderConfig
from ssdd_encoder import Encoder, EncoderConfig

ENCODER = EncoderConfig(base_channels=8, multipliers=(1, 1), resnets_per_level=1, norm_groups=4)
DECODER = DecoderConfig(
    base_channels=16, multipliers=(1, 2), transformer_blocks=1, heads=2, resnets_per_level=1, norm_groups=8, downscale=2
)
DEVIATION = torch.tensor([1.0, 2.0, 0.5, 4.0])
CPU = RuntimeConfig(device="cpu")


def stage(latent_noise: float, kind: type = StageParameters, **changes) -> StageParameters:
    loss = RegressionWeights(perceptual="none") if kind is KLParameters else LossWeights(perceptual="none", repa=0)
    return kind(loss=loss, precision="no", seed=5, latent="mode", latent_noise=latent_noise, **changes)


def batch(size: int = 4) -> dict:
    x = draws.sample_noise(draws.sample_seeds(3, "x", 0, range(size)), (3, 8, 8)).clamp(-1, 1)
    return {"image": x, "index": torch.arange(size) + 10, "path": [f"{i}.png" for i in range(size)]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    decoder = Decoder(DECODER)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    return SimpleNamespace(encoder=Encoder(ENCODER), decoder=decoder)


def test_noise_has_the_channels_deviation_and_a_level_for_each_image():
    z = torch.zeros(4000, 4, 4, 4)
    noise = add_latent_noise(z, DEVIATION, stage(0.6), 7, range(4000)) / DEVIATION.view(1, 4, 1, 1)
    levels = noise.flatten(1).std(1)
    assert levels.max() < 0.6 * 1.5
    # of u n with u ~ U(0, 0.6) and n ~ N(0, 1): mean square 0.6^2 / 3, in each channel
    torch.testing.assert_close(noise.square().mean((0, 2, 3)), torch.full((4,), 0.12), rtol=0.06, atol=0)
    for quantile in (0.25, 0.5, 0.75):  # 64 numbers tell a level to within 9 %
        assert levels.quantile(quantile).item() == pytest.approx(0.6 * quantile, rel=0.06)
    assert abs(noise.mean().item()) < 0.003


def test_noise_follows_from_seed_step_and_image_alone():
    z, images = torch.randn(5, 4, 3, 3), [3, 8, 1, 12, 5]
    whole = add_latent_noise(z, DEVIATION, stage(0.5), 7, images)
    assert torch.equal(add_latent_noise(z[3:4], DEVIATION, stage(0.5), 7, images[3:4]), whole[3:4])
    for other in (
        add_latent_noise(z, DEVIATION, stage(0.5), 8, images),
        add_latent_noise(z, DEVIATION, stage(0.5).model_copy(update={"seed": 6}), 7, images),
    ):
        one, two = ((made - z)[0].flatten() for made in (other, whole))
        assert (one - two * one.norm() / two.norm()).abs().max() > 0.1  # not the same draw at another level


def test_without_noise_nothing_is_drawn_or_measured(model, monkeypatch):
    z = torch.randn(2, 4, 3, 3)
    assert add_latent_noise(z, DEVIATION, stage(0), 0, [0, 1]) is z
    assert channel_deviation(model.encoder, None, stage(0), CPU) is None
    step, given = AutoencoderStep(model, stage(0), LossNetworks()), batch()
    assert step.noisy(z, 3, given) is z
    plain = step(given, 3).total
    noisy = AutoencoderStep(model, stage(0.5), LossNetworks(), deviation=DEVIATION)
    assert torch.equal(AutoencoderStep(model, stage(0), LossNetworks(), deviation=DEVIATION)(given, 3).total, plain)
    assert not torch.equal(noisy(given, 3).total, plain)


def seen(decoder, monkeypatch) -> list:
    """The latents that a decoder is given."""
    found, condition = [], decoder.condition
    monkeypatch.setattr(decoder, "condition", lambda z, *rest, **named: found.append(z) or condition(z, *rest, **named))
    return found


def test_the_decoder_gets_the_noisy_latent(model, monkeypatch):
    given, found = batch(), seen(model.decoder, monkeypatch)
    AutoencoderStep(model, stage(0.5), LossNetworks(), deviation=DEVIATION)(given, 3)
    z = model.encoder(given["image"]).mode()
    assert torch.equal(found[0], add_latent_noise(z, DEVIATION, stage(0.5), 3, given["index"].tolist()))


def test_the_student_gets_the_noisy_latent_and_the_target_of_the_clean_one(model, monkeypatch):
    torch.manual_seed(1)
    teacher, given = Decoder(DECODER), batch()
    taught, shown = seen(model.decoder, monkeypatch), seen(teacher, monkeypatch)
    step = DistillationStep(model, stage(0.5), LossNetworks(), teacher, TargetParameters(teacher_steps=2), DEVIATION)
    step(given, 3)
    z = model.encoder(given["image"]).mode()
    assert torch.equal(shown[0], z)
    assert torch.equal(taught[0], add_latent_noise(z, DEVIATION, stage(0.5), 3, given["index"].tolist()))


def test_the_kl_decoder_gets_it_too(monkeypatch):
    torch.manual_seed(0)
    encoder = Encoder(ENCODER)
    decoder = KLDecoder(KLDecoderConfig(width=8, downscale=2, resnets_per_level=1, norm_groups=4, patch_size=1))
    step = RegressionStep(KLAutoencoder(encoder, decoder), stage(0.5, KLParameters), LossNetworks(), True, DEVIATION)
    found, given = [], batch()
    decoder.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0]))
    step(given, 3)
    z = encoder(given["image"]).mode()
    assert torch.equal(found[0], add_latent_noise(z, DEVIATION, stage(0.5), 3, given["index"].tolist()))


@pytest.mark.parametrize("upscale", [1, 2])
def test_the_deviation_is_that_of_the_images_that_the_encoder_gets(model, upscale):
    source = open_source("sample", train_images=12, validation_images=4, canvases=1)
    images = ImageDataset(index_images(source, progress=False).index, source, TrainTransform(im_size=16), split="train")
    found = channel_deviation(model.encoder, images, stage(0.5, eval_batch_size=5), CPU, upscale)
    with torch.no_grad():
        small = [shrink(images[number]["image"][None], upscale) for number in range(12)]
        z = torch.cat([model.encoder(image).mode() for image in small])
    torch.testing.assert_close(found, z.transpose(0, 1).flatten(1).std(1))
    assert torch.equal(found, channel_deviation(model.encoder, images, stage(0.5, eval_batch_size=5), CPU, upscale))


def test_a_training_encoder_takes_no_noise(model):
    with pytest.raises(ValueError, match="latent_noise 0 while the encoder trains"):
        AutoencoderStep(model, stage(0.1), LossNetworks(), train_encoder=True)
