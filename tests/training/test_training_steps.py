"""Step functions against the published numbers, and against the formulas written out."""

import copy
import dataclasses
import itertools
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from ssdd import noise as draws
from ssdd.parameters import GanConfig, LossWeights, PretrainedNetworks, StageParameters, TargetParameters
from ssdd.training.loss_networks import LossNetworks, load_loss_networks, perceptual_distance
from ssdd.training.loss_terms import LossTerm
from ssdd.training.steps import AutoencoderStep, DistillationStep
from ssdd_decoder import Decoder, DecoderConfig
from ssdd_decoder.losses import multiscale_gradient_loss
from ssdd_encoder import Encoder, EncoderConfig, Posterior

PARITY = Path(__file__).parents[1] / "data" / "f8c4_S_64.safetensors"
PLAIN = LossWeights(perceptual="none", repa=0)
TINY = DecoderConfig(
    base_channels=16, multipliers=(1, 2), transformer_blocks=2, heads=2, resnets_per_level=1, norm_groups=8, downscale=2
)


class Vision(nn.Module):
    """Stands in for DINOv2: a frozen linear map of patch means."""

    features = 6

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, self.features).requires_grad_(False)

    def patch_tokens(self, images, grid):
        return self.map(F.adaptive_avg_pool2d(images, grid).flatten(2).transpose(1, 2))


def tiny_model(seed: int = 0) -> SimpleNamespace:
    torch.manual_seed(seed)
    encoder = Encoder(EncoderConfig(base_channels=8, multipliers=(1, 1), resnets_per_level=1, norm_groups=4))
    decoder = Decoder(TINY)
    for parameter in decoder.parameters():  # also what starts at zero
        nn.init.normal_(parameter, std=0.1)
    return SimpleNamespace(encoder=encoder, decoder=decoder)


def tiny_batch(size: int = 4) -> dict:
    x = draws.sample_noise(draws.sample_seeds(3, "x", 0, range(size)), (3, 8, 8)).clamp(-1, 1)
    return {"image": x, "index": torch.arange(size) + 10, "path": [f"{i}.png" for i in range(size)]}


def config(**changes) -> StageParameters:
    return StageParameters(**({"loss": PLAIN, "precision": "no", "seed": 5} | changes))


# -- the published numbers ---------------------------------------------------------------------------------------


def regenerated(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())])).standard_normal(shape)


@pytest.fixture(scope="module")
def parity():
    with safe_open(PARITY, framework="pt") as file:
        about = file.metadata()
        expected = {name: file.get_tensor(name) for name in file.keys() if "." in name}  # noqa: SIM118
    seed, size, batch = (int(about[name]) for name in ("seed", "resolution", "batch"))
    decoder = Decoder("S")
    weights = {}
    for name, value in decoder.state_dict().items():
        v = regenerated(f"decoder.{name}", tuple(value.shape), seed)
        if name.endswith("relative_bias_table"):
            v = 0.5 * v
        elif v.ndim >= 2:
            v = v / np.sqrt(v.size / v.shape[0])
        else:
            v = 1 + 0.1 * v if name.endswith(".weight") else 0.1 * v
        weights[name] = torch.from_numpy(v).float()
    decoder.load_state_dict(weights)
    x = torch.from_numpy(0.5 * regenerated("input.x", (batch, 3, size, size), seed)).float().clamp(-1, 1)
    z = torch.from_numpy(regenerated("input.z", (batch, 4, size // 8, size // 8), seed)).float()
    noise = torch.from_numpy(regenerated("input.noise", (batch, 3, size, size), seed)).float()
    t = torch.tensor([float(part) for part in about["t"].strip("[]()").replace(",", " ").split()])
    return SimpleNamespace(expected=expected, decoder=decoder, x=x, z=z, noise=noise, t=t)


class GivenLatent(nn.Module):
    """Stands in for the encoder: its posterior's mode is given."""

    def __init__(self, z):
        super().__init__()
        self.z = z

    def forward(self, x, check_finite):
        return Posterior(self.z, torch.zeros_like(self.z))


def given_draws(step, parity):
    def noise(purpose, number, batch, shape):
        return {"noise": parity.noise, "time": torch.logit(parity.t)}[purpose]

    step.noise = noise
    return {"image": parity.x, "index": torch.arange(len(parity.x))}


def output_gradient(losses, decoder) -> torch.Tensor:
    """Gradient (3,) of the last bias: that of the velocity, summed over images and pixels."""
    decoder.zero_grad()
    losses.total.backward()
    found = decoder.conv_out.bias.grad.clone()
    decoder.zero_grad()
    return found


def published_gradient(velocity, target) -> torch.Tensor:
    """Gradient of mean (v - target)^2 with respect to v, summed likewise, from published tensors alone."""
    return (2 * (velocity.double() - target.double()) / velocity.numel()).sum((0, 2, 3)).float()


def test_flow_matching_step_gives_the_published_loss(parity):
    model = SimpleNamespace(encoder=GivenLatent(parity.z), decoder=parity.decoder)
    step = AutoencoderStep(model, config(latent="mode"), LossNetworks())
    estimates = []
    step.terms.append(LossTerm(name="seen", weight=0, loss=lambda e: estimates.append(e.image) or torch.zeros(())))
    losses = step(given_draws(step, parity), 0)
    assert losses.terms["flow_matching"].item() == pytest.approx(parity.expected["loss.flow_matching"].item(), rel=1e-4)
    expected = parity.expected["loss.x0_pred"]
    torch.testing.assert_close(estimates[0], expected, atol=2e-3, rtol=1e-3)
    t = parity.t[:, None, None, None]
    velocity = (expected - (1 - t) * parity.x - t * parity.noise) / t
    found = output_gradient(losses, step.decoder)
    torch.testing.assert_close(found, published_gradient(velocity, parity.x - parity.noise), atol=1e-5, rtol=1e-3)


def test_distillation_step_gives_the_published_loss(parity):
    model = SimpleNamespace(encoder=GivenLatent(parity.z), decoder=parity.decoder)
    step = DistillationStep(model, config(), LossNetworks(), copy.deepcopy(parity.decoder), TargetParameters())
    seen = []
    step.terms.append(
        LossTerm(name="seen", weight=0, loss=lambda e: seen.append((e.target, e.image)) or torch.zeros(()))
    )
    losses = step(given_draws(step, parity), 0)
    assert losses.terms["flow_matching"].item() == pytest.approx(parity.expected["loss.distill"].item(), rel=1e-3)
    torch.testing.assert_close(seen[0][0], parity.expected["distill.target"], atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(seen[0][1], parity.expected["distill.x0_pred"], atol=5e-3, rtol=1e-3)
    published = published_gradient(parity.expected["distill.x0_pred"], parity.expected["distill.target"])
    torch.testing.assert_close(output_gradient(losses, step.decoder), published, atol=1e-5, rtol=1e-3)
    assert all(p.grad is None for p in step.teacher.parameters())


# -- the formulas written out --------------------------------------------------------------------------------------


def gradients(modules) -> list[torch.Tensor]:
    return [p.grad.clone() for module in modules for p in module.parameters()]


def test_joint_loss_and_gradient_are_the_formula():
    model, batch = tiny_model(), tiny_batch()
    weights = LossWeights(perceptual="msgrad", repa=0.25, kl=1e-3)
    step = AutoencoderStep(model, config(loss=weights), LossNetworks(vision=Vision()), train_encoder=True)
    losses = step(batch, 7)
    losses.total.backward()
    trained = [model.encoder, model.decoder, step.alignment_head]
    found = gradients(trained)
    step.zero_grad()

    x, index = batch["image"], batch["index"].tolist()
    posterior = model.encoder(x)
    n = draws.sample_noise(draws.sample_seeds(5, "posterior", 7, index), posterior.mean.shape[1:])
    eps = draws.sample_noise(draws.sample_seeds(5, "noise", 7, index), x.shape[1:])
    t = torch.sigmoid(draws.sample_noise(draws.sample_seeds(5, "time", 7, index), ()))
    z = posterior.mean + posterior.logvar.div(2).exp() * n
    w = t[:, None, None, None]
    x_t = (1 - w) * x + w * eps
    prediction = model.decoder.predict(x_t, t, model.decoder.condition(z), 1)
    v = prediction.velocity
    flow = ((v - (x - eps)) ** 2).mean()
    x0 = x_t + w * v
    levels = []
    for size in (1, 2, 4):
        d = F.avg_pool2d(x0, size) - F.avg_pool2d(x, size)
        edges = [d[..., 1:] - d[..., :-1], d[..., 1:, :] - d[..., :-1, :]]
        levels.append(d.abs().mean() + sum(edge.abs().mean() for edge in edges))
    tokens = step.alignment_head.layers(prediction.tokens.flatten(1, 2))
    wanted = step.vision.patch_tokens((x + 1) / 2, prediction.tokens.shape[1:3])
    repa = 1 - ((tokens * wanted).sum(-1) / (tokens.norm(dim=-1) * wanted.norm(dim=-1))).mean()
    mean, logvar = posterior.mean, posterior.logvar
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(x)
    total = flow + 0.5 * sum(levels) / 3 + 0.25 * repa + 1e-3 * kl
    total.backward()
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert losses.terms["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    for a, b in zip(found, gradients(trained), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
    assert all(g.abs().sum() > 0 for g in found)


@pytest.mark.parametrize("on", ["teacher", "image"])
def test_distillation_loss_and_gradient_are_the_formula(on):
    model, batch = tiny_model(), tiny_batch()
    teacher = copy.deepcopy(model.decoder)
    nn.init.normal_(teacher.conv_out.weight)  # the student is no longer its teacher
    loss = LossWeights(perceptual="msgrad", perceptual_target=on, repa=0.25)
    step = DistillationStep(
        model, config(loss=loss), LossNetworks(vision=Vision()), teacher, TargetParameters(teacher_steps=3)
    )
    losses = step(batch, 7)
    losses.total.backward()
    trained = [model.decoder, step.alignment_head]
    found = gradients(trained)
    step.zero_grad()

    x = batch["image"]
    with torch.no_grad():
        z = model.encoder(x).mean
        eps = draws.sample_noise(draws.sample_seeds(5, "noise", 7, batch["index"].tolist()), x.shape[1:])
        target, times = eps, [(1 - i / 3) ** 2 for i in range(4)]
        for now, then in itertools.pairwise(times):
            v = teacher.predict(target, torch.full((4,), now), teacher.condition(z), None).velocity
            target = target + (now - then) * v
    prediction = model.decoder.predict(eps, torch.ones(4), model.decoder.condition(z), 1)
    flow = ((prediction.velocity - (target - eps)) ** 2).mean()
    tokens = step.alignment_head.layers(prediction.tokens.flatten(1, 2))
    wanted = step.vision.patch_tokens((x + 1) / 2, prediction.tokens.shape[1:3])
    repa = 1 - F.cosine_similarity(tokens, wanted, dim=-1, eps=1e-5).mean()
    wanted = target if on == "teacher" else x
    total = flow + 0.5 * multiscale_gradient_loss(wanted, eps + prediction.velocity) + 0.25 * repa
    total.backward()
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-5)
    for a, b in zip(found, gradients(trained), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
    assert all(g.abs().sum() > 0 for g in found)
    assert all(p.grad is None for frozen in (model.encoder, teacher) for p in frozen.parameters())


def test_a_decoder_on_a_frozen_encoder_has_the_gradient_of_the_formula():
    model, batch = tiny_model(), tiny_batch()
    step = AutoencoderStep(model, config(), LossNetworks())
    losses = step(batch, 7)
    losses.total.backward()
    found = gradients([model.decoder])
    step.zero_grad()
    x, index = batch["image"], batch["index"].tolist()
    posterior = model.encoder(x)
    n = draws.sample_noise(draws.sample_seeds(5, "posterior", 7, index), posterior.mean.shape[1:])
    z = (posterior.mean + posterior.logvar.div(2).exp() * n).detach()
    eps = draws.sample_noise(draws.sample_seeds(5, "noise", 7, index), x.shape[1:])
    t = torch.sigmoid(draws.sample_noise(draws.sample_seeds(5, "time", 7, index), ()))
    w = t[:, None, None, None]
    v = model.decoder.predict((1 - w) * x + w * eps, t, model.decoder.condition(z), None).velocity
    total = ((v - (x - eps)) ** 2).mean()
    total.backward()
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-5)
    for a, b in zip(found, gradients([model.decoder]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_frozen_encoder_costs_no_gradient_memory():
    model = tiny_model()
    outputs = []
    model.encoder.register_forward_hook(lambda module, args, posterior: outputs.append(posterior))
    step = AutoencoderStep(model, config(), LossNetworks()).train()
    losses = step(tiny_batch(), 0)
    losses.total.backward()
    assert outputs[0].mean.grad_fn is None
    assert all(p.grad is None for p in model.encoder.parameters())
    assert not model.encoder.training
    assert model.decoder.training
    assert step.averaged() == list(model.decoder.parameters())
    assert "kl" not in losses.terms


def test_a_cut_batch_gives_the_loss_and_gradient_of_the_whole():
    model, batch = tiny_model(), tiny_batch(4)
    step = AutoencoderStep(
        model, config(loss=LossWeights(perceptual="msgrad", repa=0)), LossNetworks(), train_encoder=True
    )
    step(batch, 3).total.backward()
    whole = gradients([model.encoder, model.decoder])
    step.zero_grad()
    for rows in (slice(0, 2), slice(2, 4)):
        part = {name: value[rows] for name, value in batch.items()}
        (step(part, 3).total / 2).backward()
    for a, b in zip(gradients([model.encoder, model.decoder]), whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_draws_depend_on_seed_purpose_step_and_sample_alone():
    one = draws.sample_noise(draws.sample_seeds(1, "noise", 2, [3, 4]), (2, 2))
    other = draws.sample_noise(draws.sample_seeds(1, "noise", 2, [4]), (2, 2))
    assert torch.equal(one[1], other[0])
    changed = [(1, "noise", 2, 3), (0, "noise", 2, 3), (1, "time", 2, 3), (1, "noise", 3, 3), (1, "noise", 2, 4)]
    seeds = {draws.sample_seed(*arguments) for arguments in changed}
    assert len(seeds) == 5
    before = torch.get_rng_state()
    draws.sample_noise([1], (3,))
    assert torch.equal(torch.get_rng_state(), before)


def test_gan_gradients_reach_their_own_network_only():
    model, batch = tiny_model(), {k: v for k, v in tiny_batch().items()}
    batch["image"] = F.interpolate(batch["image"], size=(16, 16))
    gan = GanConfig(enabled=True, start_step=2)
    step = AutoencoderStep(model, config(gan=gan), LossNetworks())
    adversary = step.adversary
    assert adversary is not None
    assert not {id(p) for p in adversary.parameters()} & {id(p) for p in step.parameters()}
    early = step(batch, 1)
    assert early.for_adversary is None
    assert early.terms["gan"] == 0
    late = step(batch, 2)
    (late.total - late.terms["flow_matching"]).backward()
    assert model.decoder.conv_out.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())
    step.zero_grad()
    adversary(late.for_adversary).backward()
    assert all(p.grad is not None for p in adversary.parameters())
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in step.parameters())


def test_gradient_checkpointing_changes_no_gradient():
    found = []
    for flag in (False, True):
        model = tiny_model()
        step = AutoencoderStep(model, config(gradient_checkpointing=flag), LossNetworks())
        step(tiny_batch(), 0).total.backward()
        found.append(gradients([model.decoder]))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_lpips_is_the_packages_up_to_its_smoothing():
    lpips = pytest.importorskip("lpips")
    from ssdd_metrics.networks import Lpips

    torch.manual_seed(0)
    network = lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False).eval()
    for layer in network.lins:  # as in the published calibration, weights are not negative
        nn.init.uniform_(layer.model[-1].weight, 0, 1)
    distance = perceptual_distance(LossWeights(), Lpips("lpips", "-", network, smooth=True))
    a, b = (draws.sample_noise([s], (3, 32, 32)).clamp(-1, 1) for s in (1, 2))
    b.requires_grad_(True)
    ours, theirs = distance(a, b), network(a, b).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-3)
    torch.testing.assert_close(*(torch.autograd.grad(value, b)[0] for value in (ours, theirs)), atol=1e-4, rtol=2e-2)
    black = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance(a, black).backward()
    assert torch.isfinite(black.grad).all()


def test_missing_networks_are_named_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    files = PretrainedNetworks.model_validate({"lpips_vgg": {"file": str(tmp_path / "none.pth")}})
    with pytest.raises(ValueError, match=r"vgg16.*msgrad"):
        load_loss_networks(LossWeights(), files)
    assert load_loss_networks(PLAIN, files) == LossNetworks()
    with pytest.raises(ValueError, match="repa"):
        AutoencoderStep(tiny_model(), config(loss=LossWeights(perceptual="none")), LossNetworks())


def test_training_times_follow_their_parameters():
    model, batch = tiny_model(), tiny_batch()
    seen = []
    predict = model.decoder.predict
    model.decoder.predict = lambda x_t, t, *rest: (seen.append(t), predict(x_t, t, *rest))[1]
    for times in ({}, {"mean": 1.0}, {"std": 2.0}):
        AutoencoderStep(model, config(times=times), LossNetworks())(batch, 7)
    logits = [torch.logit(t) for t in seen]
    torch.testing.assert_close(logits[1], logits[0] + 1, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[2], logits[0] * 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("on", ["teacher", "image"])
def test_the_border_term_looks_at_its_target(on):
    model, batch = tiny_model(), tiny_batch()
    patches = DecoderConfig(**{**dataclasses.asdict(TINY), "patch_size": 2})
    model.decoder = Decoder(patches)
    nn.init.normal_(model.decoder.conv_out.weight)
    loss = LossWeights(perceptual="none", perceptual_target=on, repa=0, border=0.25)
    step = DistillationStep(
        model, config(loss=loss), LossNetworks(), copy.deepcopy(model.decoder), TargetParameters(teacher_steps=2)
    )
    assert step.needs_real == (on == "image")
    losses = step(batch, 7)
    total = losses.terms["flow_matching"] + 0.25 * losses.terms["border"]
    torch.testing.assert_close(losses.total, total)
    assert losses.terms["border"] > 0
