"""The generator: its conventions, its loss, its sampler, its file."""

import math

import pytest
import torch

from ssdd.generation.generator import SIZES, Generator, generator_config, transformer_time
from ssdd.generation.generator_step import GeneratorStep, draw_times
from ssdd.generation.latent_sampler import draw_latent_noise, guided, integrate, sample_latents, sampling_times
from ssdd.generation_parameters import GeneratorParameters, GeneratorTimes, SamplingParameters
from ssdd_decoder import CheckpointError
from ssdd_encoder import LatentStatistics

STATISTICS = LatentStatistics(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double(), 0.0, 1.0, 9)


def make(classes=3, grid=4, patch=2, seed=0):
    torch.manual_seed(seed)
    network = Generator(generator_config("debug", patch, (2, grid, grid), 8, STATISTICS, classes))
    for name, weight in network.named_parameters():
        if not weight.any():  # adaLN-zero: otherwise neither time nor class would count
            torch.nn.init.normal_(weight, std=0.2)
        elif "embedding_table" in name:
            weight.data *= 20
    return network.eval()


@pytest.fixture(scope="module")
def generator():
    return make()


def batch(labels=(0, 1, 2, -1)):
    z = torch.randn(len(labels), 2, 4, 4, generator=torch.Generator().manual_seed(3))
    return {"z": z, "label": torch.tensor(labels), "index": torch.arange(len(labels))}


def test_published_sizes_have_the_published_numbers_of_parameters():
    """DiT's table, without what diffusers adds: an embedder of time and class in each block instead of one for all."""
    unit = LatentStatistics(torch.zeros(4).double(), torch.ones(4).double(), 0.0, 1.0, 1)
    for size, millions in {"S": 33, "B": 130, "L": 458, "XL": 675}.items():
        with torch.device("meta"):
            network = Generator(generator_config(size, 2, (4, 32, 32), 8, unit, 1000), empty=True)
        weights = dict(network.named_parameters())
        own = sum(w.numel() for name, w in weights.items() if ".emb." not in name or ".0.norm1.emb." in name)
        assert own == pytest.approx(millions * 1e6, rel=0.02), size


@pytest.mark.parametrize(("downscale", "grid", "patch"), [(8, 8, 1), (8, 8, 2), (16, 4, 1), (32, 2, 2), (8, 8, 4)])
def test_any_latents_and_patches(downscale, grid, patch):
    network = Generator(generator_config("debug", patch, (2, grid, grid), downscale, STATISTICS, 0))
    x = torch.randn(2, 2, grid, grid)
    assert network.velocity(x, torch.tensor([0.3]), torch.zeros(2, dtype=torch.long)).shape == x.shape


def test_sizes_and_shapes_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=f"expected a size among {', '.join(SIZES)}, got 'M'"):
        generator_config("M", 2, (2, 4, 4), 8, STATISTICS, 0)
    with pytest.raises(ValueError, match="expected square latents"):
        generator_config("debug", 2, (2, 4, 8), 8, STATISTICS, 0)
    with pytest.raises(ValueError, match="patches that divide latents of 5 x 5"):
        generator_config("debug", 2, (2, 5, 5), 8, STATISTICS, 0)


def test_without_diffusers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'ssdd\[diffusers\]'"):
        make()


def test_time_reaches_the_transformer_as_whole_thousandths_rounded_down():
    t = torch.tensor([0.0, 0.2999, 0.3001, 0.9999, 1.0], dtype=torch.float64)
    assert transformer_time(t).tolist() == [0, 299, 300, 999, 999]


def test_the_velocity_is_minus_the_transformers_prediction(generator):
    x, t, labels = torch.randn(3, 2, 4, 4), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 2, 3])
    direct = generator.transformer(x, timestep=torch.tensor([100, 500, 900]), class_labels=labels).sample
    torch.testing.assert_close(generator.velocity(x, t, labels), -direct)


def test_the_loss_is_zero_for_the_true_velocity_and_follows_from_seed_step_and_index(generator, monkeypatch):
    step = GeneratorStep(generator, GeneratorParameters())
    losses = [float(step(batch(), number).total.detach()) for number in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]

    def truth(x_t, t, labels):
        z = batch()["z"]
        eps = (x_t - (1 - t.view(-1, 1, 1, 1)) * z) / t.view(-1, 1, 1, 1)
        return z - eps

    monkeypatch.setattr(generator, "velocity", truth)
    assert float(step(batch(), 0).total) < 1e-9


def test_the_draws_of_a_latent_do_not_depend_on_its_batch(generator, monkeypatch):
    seen = []
    monkeypatch.setattr(generator, "velocity", lambda x, t, labels: seen.append((x, t, labels)) or x)
    step = GeneratorStep(generator, GeneratorParameters(label_dropout=0.5))
    step(batch(), 5)
    whole = seen.pop()
    for number in range(4):
        step({name: value[number : number + 1] for name, value in batch().items()}, 5)
    for together, apart in zip(whole, zip(*seen, strict=True), strict=True):
        assert torch.equal(together, torch.cat(apart))


def test_labels_are_dropped_at_the_rate_and_images_without_a_class_have_none(generator, monkeypatch):
    seen = []
    monkeypatch.setattr(generator, "velocity", lambda x, t, labels: seen.append(labels) or x)
    step = GeneratorStep(generator, GeneratorParameters(label_dropout=0.1))
    labels = (0, -1) * 2000
    many = {"z": torch.zeros(4000, 2, 4, 4), "label": torch.tensor(labels), "index": torch.arange(4000)}
    step(many, 0)
    assert (seen[0][1::2] == generator.no_label).all()
    assert float((seen[0][::2] == generator.no_label).float().mean()) == pytest.approx(0.1, abs=0.02)
    without = make(classes=0)
    assert without.known_labels(torch.tensor([-1, 4])).tolist() == [0, 0]


def test_training_leaves_the_global_random_state_and_gives_every_weight_a_gradient(generator):
    network = make()
    step = GeneratorStep(network, GeneratorParameters()).train()
    before = torch.random.get_rng_state()
    step(batch(), 0).total.backward()
    assert torch.equal(before, torch.random.get_rng_state())
    assert [name for name, weight in step.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_times_are_logit_normal_or_uniform():
    n = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    uniform = draw_times(GeneratorTimes(distribution="uniform"), n)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.var()) == pytest.approx(1 / 12, abs=0.003)
    logit = torch.logit(draw_times(GeneratorTimes(mean=0.7, std=0.5), n))
    assert float(logit.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(logit.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_of_the_sampler_are_those_of_diffusers(shift):
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift, solver_order=1)
    for steps in (*range(1, 60), 100, 250):
        scheduler.set_timesteps(steps)
        times = sampling_times(steps, shift)
        assert (
            transformer_time(torch.tensor(times[:-1], dtype=torch.float64)).tolist() == scheduler.timesteps.tolist()
        ), steps
        torch.testing.assert_close(torch.tensor(times), scheduler.sigmas)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_the_samplers_converge_at_their_orders(method, order):
    """x' = -x along falling time: x(t) = x(1) e^(t - 1) with v = -dx/dt = -x."""
    start = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        times = [1 - n / steps for n in range(steps + 1)]
        found = float(integrate(lambda x, t: -x, start, times, method))
        errors.append(abs(found - 2 * math.exp(-1)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_a_constant_velocity_is_exact_in_one_step():
    start, v = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    torch.testing.assert_close(integrate(lambda x, t: v, start, sampling_times(1), "heun"), 0.999 * v)


def test_guidance_extrapolates_from_no_class_to_the_class(generator):
    x, t = torch.randn(2, 2, 4, 4), torch.tensor([0.5])
    labels, nothing = torch.tensor([0, 2]), torch.full((2,), generator.no_label)
    with_class, without = (generator.velocity(x, t, some) for some in (labels, nothing))
    assert not torch.allclose(with_class, without)
    torch.testing.assert_close(guided(generator, labels, 3.0)(x, t), without + 3 * (with_class - without))
    torch.testing.assert_close(guided(generator, labels, 0.0)(x, t), without)
    torch.testing.assert_close(guided(generator, labels, 1.0)(x, t), with_class)
    with pytest.raises(ValueError, match="guidance 1 for a generator without classes"):
        guided(make(classes=0), labels, 2.0)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_a_sample_follows_from_its_seed_and_class_alone(generator, method):
    sampling = SamplingParameters(method=method, steps=3, guidance=2.0)
    labels = torch.tensor([2, -1, 0, 1])
    whole = sample_latents(generator, [7, 8, 9, 10], labels, sampling)
    for number in range(4):
        alone = sample_latents(generator, [7 + number], labels[number : number + 1], sampling)
        torch.testing.assert_close(whole[number : number + 1], alone)
    other = sample_latents(generator, [7, 8, 9, 10], torch.tensor([1, -1, 0, 1]), sampling)
    assert (other != whole).flatten(1).any(1).tolist() == [True, False, False, False]
    assert torch.equal(draw_latent_noise([8], (2, 4, 4))[0], torch.randn(2, 4, 4, generator=torch.manual_seed(8)))


@pytest.mark.parametrize(("classes", "label"), [(3, 3), (3, -2), (0, 0)])
def test_classes_that_the_generator_lacks_are_refused(classes, label):
    with pytest.raises(ValueError, match="expected classes of the generator"):
        sample_latents(make(classes), [0], torch.tensor([label]), SamplingParameters(steps=1))


def test_latents_come_back_in_the_encoders_units(generator):
    z = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(generator.denormalize(STATISTICS.normalize(z).float()), z)


def test_a_file_gives_the_same_generator(generator, tmp_path):
    file = generator.save_pretrained(tmp_path / "g.safetensors", {"sha256": "0"})
    loaded = Generator.from_pretrained(file)
    assert loaded.config == generator.config == Generator.config_of(file)
    assert not loaded.training
    sampling, labels = SamplingParameters(steps=2), torch.tensor([1])
    assert torch.equal(sample_latents(loaded, [1], labels, sampling), sample_latents(generator, [1], labels, sampling))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError):
        Generator.from_pretrained(file)


def test_a_file_of_another_model_is_refused(encoder_file):
    with pytest.raises(CheckpointError, match="holds no generator"):
        Generator.from_pretrained(encoder_file)
