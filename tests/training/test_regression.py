"""Decoders of the comparison: the KL-VAE's, with and without adversary, and SSDD's network called once."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from ssdd import SSDD
from ssdd.baselines import FeedForward, KLAutoencoder, KLDecoder, KLDecoderConfig, count_parameters, matching_config
from ssdd.comparison_parameters import AdversaryParameters, KLParameters, RegressionParameters, RegressionWeights
from ssdd.data import EvalTransform, ImageDataset, TrainTransform, index_images, open_source
from ssdd.parameters import OptimConfig, PretrainedNetworks, RuntimeConfig
from ssdd.training import regression
from ssdd.training.history import read_rows
from ssdd.training.loss_networks import LossNetworks
from ssdd.training.regression import RegressionJob, RegressionStep, network_of, run_regression, split_epochs
from ssdd.upscaling import shrink
from ssdd_decoder import CheckpointError, Decoder, DecoderConfig, decoder_config
from ssdd_encoder import Encoder, EncoderConfig

ENCODER = EncoderConfig(base_channels=8, multipliers=(1, 1), resnets_per_level=1, patch_size=2, norm_groups=4)
NETWORKS = {
    "kl": KLDecoderConfig(width=8, downscale=4, resnets_per_level=1, norm_groups=4, patch_size=2, shortcut=True),
    "feed_forward": DecoderConfig(
        base_channels=16,
        multipliers=(1, 2),
        transformer_blocks=1,
        heads=2,
        resnets_per_level=1,
        norm_groups=8,
        patch_size=2,
        downscale=4,
        prediction="sample",
    ),
}
STAGE = KLParameters(
    epochs=2,
    batch_size=4,
    precision="no",
    eval_every=1,
    log_every=1,
    best_metric="psnr",
    best_is="highest",
    eval_metrics=("psnr",),
    optim=OptimConfig(lr=0.02),
    loss=RegressionWeights(perceptual="msgrad"),
)


@pytest.fixture(scope="module")
def images():
    source = open_source("sample", train_images=16, validation_images=4, canvases=1)
    index = index_images(source, progress=False).index
    train = ImageDataset(index, source, TrainTransform(im_size=16), split="train")
    return train, ImageDataset(index, source, EvalTransform(im_size=16), split="validation")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(1)
    return Encoder(ENCODER).save_pretrained(tmp_path_factory.mktemp("encoder") / "encoder.safetensors")


@pytest.fixture
def job(images, encoder, tmp_path):
    def make(name, kind="kl", stage=STAGE, processes=1, adversary=None, start=None):
        return RegressionJob(
            kind=kind,
            encoder=encoder,
            network=NETWORKS[kind],
            images=images[0],
            validation=images[1],
            stage=stage if adversary is None else stage.model_copy(update={"gan": adversary.gan}),
            pretrained_networks=PretrainedNetworks(),
            runtime=RuntimeConfig(device="cpu", workers=0, trackers=(), progress=False, processes=processes),
            folder=tmp_path / name,
            fingerprint="f",
            adaptive=adversary is not None and adversary.adaptive,
            start=start,
        )

    return make


def test_the_original_decoder_is_the_one_nearest_to_ssdd_m():
    original = matching_config(decoder_config("M"))
    assert (original.widths, original.resnets_per_level) == ((128, 256, 512, 512), 2)
    assert (original.patch_size, original.shortcut) == (1, False)


def test_the_width_is_the_nearest_in_parameters():
    ssdd = decoder_config("quickstart")
    found, wanted = matching_config(ssdd), count_parameters(Decoder(ssdd))

    def distance(width):
        return abs(count_parameters(KLDecoder(matching_config(ssdd, width=width))) - wanted)

    assert distance(found.width) < min(distance(found.width - 16), distance(found.width + 16))
    assert (found.shortcut, found.patch_size) == (True, ssdd.patch_size)
    plain = matching_config(ssdd, shortcut=False, patch_size=1)
    assert (len(plain.widths), plain.shortcut) == (4, False)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_decoder_trains_on_the_frozen_encoder_and_is_kept(job, encoder, images, kind):
    result = run_regression(job("run", kind, STAGE.model_copy(update={"epochs": 6})))
    losses = [row["loss"] for row in read_rows(result.history) if row["split"] == "train"]
    assert sum(losses[-4:]) < 0.98 * sum(losses[:4])
    kept, frozen = load_file(result.last), load_file(encoder)
    assert all(torch.equal(kept[f"encoder.{name}"], value) for name, value in frozen.items())
    model = (KLAutoencoder if kind == "kl" else FeedForward).from_pretrained(result.last)
    x = torch.stack([images[1][number]["image"] for number in range(2)])
    z = model.encode(x).mode()
    decoded = model.decode(z, check_finite=True)
    assert decoded.shape == x.shape
    assert torch.equal(decoded, model.decode(z, steps=3, noise=torch.randn_like(x)))  # no noise reaches it
    evaluated = [row["psnr"] for row in read_rows(result.history) if row["split"] == "eval"]
    assert len(evaluated) == 6


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_decoder_that_enlarges_trains_too(job, images, kind):
    network = NETWORKS[kind]
    factor = {"upscale": 2} if kind == "feed_forward" else {}
    enlarging = dataclasses.replace(network, downscale=2 * network.downscale, **factor)
    result = run_regression(dataclasses.replace(job("run", kind), network=enlarging))
    model = (KLAutoencoder if kind == "kl" else FeedForward).from_pretrained(result.last)
    assert model.upscale == 2
    small = torch.stack([images[1][number]["image"] for number in range(2)])[..., ::2, ::2]
    assert model.decode(model.encode(small).mode()).shape == (2, 3, 16, 16)
    _, step = regression.build_step(dataclasses.replace(job("step", kind), network=enlarging))
    seen, x = [], torch.stack([images[1][number]["image"] for number in range(2)])
    step.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    step({"image": x, "index": torch.arange(2)}, 0)
    assert torch.equal(seen[0], shrink(x, 2))


def test_a_decoder_of_another_latent_space_is_refused():
    with pytest.raises(ValueError, match="expected a decoder of f4c4 latents"):
        KLAutoencoder(Encoder(ENCODER), KLDecoder(dataclasses.replace(NETWORKS["kl"], downscale=2)))


def test_a_kl_file_is_no_ssdd_model(job):
    file = run_regression(job("run")).last
    with pytest.raises(CheckpointError, match="no decoder that is known"):
        SSDD.from_pretrained(file)
    assert KLAutoencoder.config_in(file) == NETWORKS["kl"]
    assert Encoder.from_pretrained(file).config == ENCODER


def test_training_goes_on_exactly_where_it_stopped(job):
    straight = run_regression(job("straight"))
    run_regression(job("stopped", stage=STAGE.model_copy(update={"epochs": 1})))
    went_on = run_regression(job("stopped"))
    for name in ("last", "history"):
        assert getattr(went_on, name).read_bytes() == getattr(straight, name).read_bytes()


def test_a_decoder_trains_on_from_another_with_an_adversary(job):
    start = run_regression(job("start")).last
    unchanged = STAGE.model_copy(update={"optim": OptimConfig(lr=1e-12), "epochs": 1})
    kept = load_file(run_regression(job("kept", stage=unchanged, start=start)).last)
    for name, value in load_file(start).items():
        torch.testing.assert_close(kept[name], value)
    adversarial = job("run", adversary=AdversaryParameters(), start=start)
    assert adversarial.title != job("run", start=start).title  # both may run at once, and log their steps
    result = run_regression(adversarial)
    rows = [row for row in read_rows(result.history) if row["split"] == "train"]
    assert len(rows) == 8
    assert all(row["discriminator"] > 0 and row["gan_weight"] > 0 for row in rows)


@pytest.fixture
def step(job):
    def make(**changes):
        changed = AdversaryParameters(**changes)
        torch.manual_seed(0)
        model, step = regression.build_step(job("step", adversary=changed))
        torch.nn.init.normal_(model.decoder.decoder.conv_out.weight, std=0.1)
        return step

    return make


def test_the_adaptive_weight_makes_both_gradients_at_the_last_layer_equal(step, images, monkeypatch):
    adversarial = step()
    batch = {"image": torch.stack([images[1][n]["image"] for n in range(2)]), "index": torch.arange(2)}
    decoded, decode = [], adversarial._decode
    monkeypatch.setattr(adversarial, "_decode", lambda z, x: decoded.append(decode(z, x)) or decoded[-1])
    losses = adversarial(batch, 0)
    last = adversarial.decoder.last_layer
    without = losses.total - 0.5 * losses.terms["gan_weight"] * losses.terms["gan"]
    through = adversarial.adversary.generator_loss(*decoded[0], torch.ones(2))
    ours, direct, theirs = (
        torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (without, through, losses.terms["gan"])
    )
    assert losses.terms["gan_weight"] * theirs.norm() == pytest.approx(float(ours.norm()), rel=0.01)
    assert losses.terms["gan"].item() == pytest.approx(through.item())
    torch.testing.assert_close(theirs, direct)
    assert float(step(adaptive=False)(batch, 0).terms["gan_weight"]) == 1
    assert losses.for_adversary["fake"].requires_grad is False


def test_the_feed_forward_network_is_called_at_t_1_with_zeros(job, images):
    model, step = regression.build_step(job("step", "feed_forward"))
    x = torch.stack([images[1][n]["image"] for n in range(2)])
    z = model.encode(x).mode()
    velocity = model.decoder(torch.zeros_like(x), torch.ones(2), z)
    torch.testing.assert_close(step._decode(z, x)[0], velocity)
    torch.testing.assert_close(model.decode(z), velocity)


@pytest.mark.parametrize(
    ("total", "share", "parts"), [(6, 0.5, (3, 3)), (5, 0.5, (2, 3)), (6, 0.1, (1, 5)), (2, 0.9, (1, 1))]
)
def test_the_adversary_joins_between_whole_epochs(total, share, parts):
    assert split_epochs(total, share) == parts


def test_one_epoch_cannot_be_split():
    with pytest.raises(ValueError, match="at least 2 epochs in train_kl, got 1"):
        split_epochs(1, 0.5)


def test_the_network_of_a_stage_follows_ssdds():
    fields = {**NETWORKS["feed_forward"].__dict__, "multipliers": [1, 2]}  # as JSON keeps them
    assert network_of(fields, RegressionParameters()) == NETWORKS["feed_forward"]
    found = network_of(fields, KLParameters(width=16, patch_size=1))
    assert (found.width, found.patch_size, found.downscale, found.norm_groups) == (16, 1, 4, 8)


def test_settings_that_have_no_effect_here_are_refused():
    with pytest.raises(ValueError, match="kl_adversary"):
        KLParameters(gan={"enabled": True})
    with pytest.raises(ValueError, match="expected repa 0"):
        RegressionWeights(repa=0.25)


def test_the_border_term_is_off_without_patches(job, images):
    whole = KLAutoencoder(Encoder(ENCODER), KLDecoder(matching_config(NETWORKS["feed_forward"], patch_size=1, width=8)))
    batch = {"image": torch.stack([images[1][n]["image"] for n in range(2)]), "index": torch.arange(2)}
    stage = STAGE.model_copy(update={"loss": RegressionWeights(perceptual="msgrad", border=0.5)})
    assert "border" not in RegressionStep(whole, stage, LossNetworks())(batch, 0).terms
    _, patched = regression.build_step(job("step", stage=stage))
    assert float(patched(batch, 0).terms["border"]) > 0


@pytest.mark.slow
def test_two_processes_train_as_one(job):
    adversary = AdversaryParameters()
    rows = [
        read_rows(run_regression(job(f"of-{n}", processes=n, adversary=adversary)).history)[-1]["psnr"] for n in (1, 2)
    ]
    assert rows[1] == pytest.approx(rows[0], abs=0.05)
