"""Periodic and final evaluation are one computation; reference statistics are computed once and fit or are refused."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from ssdd import SSDD
from ssdd.data import EvalTransform, ImageDataset, ImageFolder, index_images, open_source
from ssdd.data.loader import batches
from ssdd.evaluation.final import Measurement, evaluate
from ssdd.evaluation.latent_statistics import latent_statistics
from ssdd.evaluation.passes import reconstruct
from ssdd.evaluation.periodic import Evaluator
from ssdd.evaluation.reference_statistics import image_protocol, write_references
from ssdd.parameters import EvaluateParameters, PretrainedNetworks, RuntimeConfig, StageParameters
from ssdd_decoder import DecoderConfig
from ssdd_encoder import Encoder, EncoderConfig
from ssdd_metrics import MetricSuite, load_references, reference_protocols

ENCODER = EncoderConfig(base_channels=8, multipliers=(1, 1), resnets_per_level=1, patch_size=2, norm_groups=4)
DECODER = DecoderConfig(
    base_channels=16,
    multipliers=(1, 2),
    transformer_blocks=1,
    heads=2,
    resnets_per_level=1,
    norm_groups=8,
    patch_size=2,
    downscale=4,
)
METRICS = ("psnr", "ssim_gaussian", "frechet_random_conv", "swd")
RUNTIME = RuntimeConfig(device="cpu", workers=0, trackers=(), progress=False)
PARAMETERS = EvaluateParameters(im_size=32, batch_size=3, metrics=METRICS, shown=2, noise_seed=4)


def measured(images, parameters, references, runtime):
    return Measurement(
        dataset=images,
        parameters=parameters,
        references=references,
        pretrained_networks=PretrainedNetworks(),
        runtime=runtime,
    )


@pytest.fixture(scope="module")
def index():
    return index_images(open_source("sample", train_images=4, validation_images=7, canvases=1), progress=False).index


@pytest.fixture(scope="module")
def images(index):
    source = open_source("sample", train_images=4, validation_images=7, canvases=1)
    return ImageDataset(index, source, EvalTransform(im_size=32), split="validation")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = SSDD(ENCODER, DECODER)
    for parameter in model.decoder.parameters():  # also what starts at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def references(images, tmp_path_factory):
    file = tmp_path_factory.mktemp("references") / "references.safetensors"
    return write_references(file, images, 32, 4, METRICS, PretrainedNetworks(), RUNTIME)


@pytest.fixture(scope="module")
def evaluated(checkpoint, images, references):
    return evaluate(checkpoint, [2, 1], measured(images, PARAMETERS, references, RUNTIME), "judging")


def test_the_periodic_evaluation_gives_the_figures_of_the_final_one(checkpoint, images, evaluated):
    model = SSDD.from_pretrained(checkpoint).to(memory_format=torch.channels_last)
    for part in evaluated:
        stage = StageParameters(
            eval_metrics=METRICS, eval_steps=part.steps, eval_batch_size=2, eval_shown=3, seed=PARAMETERS.noise_seed
        )
        found = Evaluator(model, images, stage)(Accelerator(cpu=True))
        for name, value in part.report["metrics"].items():
            assert found.metrics[name] == pytest.approx(value, rel=1e-4), name
        assert found.images.shape == (6, 3, 32, 32)
        assert torch.equal(found.images[:3], torch.stack([images[number]["image"] for number in range(3)]))
    one, other = (part.report["metrics"]["psnr"] for part in evaluated)
    assert one != other


def test_a_reconstruction_depends_on_its_image_and_the_seed_alone(checkpoint, images):
    model = SSDD.from_pretrained(checkpoint)
    whole = next(batches(images, 7))
    numbers = whole["index"].tolist()
    _, together = next(reconstruct(model, whole["image"], numbers, [2], seed=1))
    for number in (0, 5):
        x = whole["image"][number : number + 1]
        _, alone = next(reconstruct(model, x, [number], [2], seed=1))
        torch.testing.assert_close(alone[0], together[number], atol=1e-5, rtol=1e-4)
        _, other = next(reconstruct(model, x, [number], [2], seed=2))
        assert (other - alone).abs().max() > 1e-3


def test_every_image_falls_to_one_process(images):
    for processes in (1, 2, 3):
        seen = [
            number
            for rank in range(processes)
            for batch in batches(images, 2, 0, rank, processes)
            for number in batch["index"].tolist()
        ]
        assert sorted(seen) == list(range(7))


def test_stored_references_give_the_streamed_distance(checkpoint, images, evaluated):
    model = SSDD.from_pretrained(checkpoint).to(memory_format=torch.channels_last)
    suite = MetricSuite(METRICS)
    for batch in batches(images, 3):
        _, decoded = next(reconstruct(model, batch["image"], batch["index"].tolist(), [2], PARAMETERS.noise_seed))
        suite.update((batch["image"] + 1) / 2, (decoded + 1) / 2)
    for name, value in suite.compute().items():
        assert evaluated[0].report["metrics"][name] == pytest.approx(value, rel=1e-6), name


def test_references_of_other_images_or_sizes_are_refused(checkpoint, index, images, references, tmp_path):
    fewer = ImageDataset(index, images.source, images.transform, split="validation", limit=6)
    with pytest.raises(ValueError, match=r"another protocol \(dataset: expected"):
        evaluate(checkpoint, [1], measured(fewer, PARAMETERS, references, RUNTIME), "judging")
    smaller = ImageDataset(index, images.source, EvalTransform(im_size=16), split="validation")
    sixteen = PARAMETERS.model_copy(update={"im_size": 16})
    with pytest.raises(ValueError, match=r"resolution: expected '16x16', the file has '32x32'"):
        evaluate(checkpoint, [1], measured(smaller, sixteen, references, RUNTIME), "judging")
    none = write_references(tmp_path / "none.safetensors", images, 32, 4, ["psnr"], PretrainedNetworks(), RUNTIME)
    with pytest.raises(ValueError, match="frechet_random_conv"):
        evaluate(checkpoint, [1], measured(images, PARAMETERS, none, RUNTIME), "judging")


def test_the_protocol_names_images_by_content_not_by_place(index, images, tmp_path):
    for folder, names in (("here", "abc"), ("there", "xyz")):
        (tmp_path / folder).mkdir()
        for name, path in zip(names, index["path"][:3], strict=True):
            images.source.open(path).save(tmp_path / folder / f"{name}.png")
    tables = {
        name: index_images(ImageFolder(tmp_path / name), held_out=0, progress=False).index for name in ("here", "there")
    }
    here, there = (
        ImageDataset(table.sample(frac=1, random_state=1), ImageFolder(tmp_path / name), EvalTransform(im_size=32))
        for name, table in tables.items()
    )
    assert image_protocol(here, 32) == image_protocol(there, 32)
    assert str(tmp_path) not in str(image_protocol(here, 32))
    fewer = ImageDataset(tables["here"][:2], ImageFolder(tmp_path / "here"), EvalTransform(im_size=32))
    assert image_protocol(fewer, 32) != image_protocol(here, 32)


def test_latent_statistics_are_numpys(checkpoint, images):
    found = latent_statistics(checkpoint, images, batch_size=3, progress=False)
    encoder = Encoder.from_pretrained(checkpoint)
    with torch.no_grad():
        latents = [encoder(batch["image"]).mode().double().numpy() for batch in batches(images, 3)]
    z = np.concatenate(latents).swapaxes(0, 1).reshape(latents[0].shape[1], -1)
    np.testing.assert_allclose(found.mean, z.mean(1), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.std, z.std(1, ddof=1), rtol=1e-10)
    assert found.overall_mean == pytest.approx(z.mean(), rel=1e-10, abs=1e-12)
    assert found.overall_std == pytest.approx(z.std(ddof=1), rel=1e-10)
    assert found.count == z.shape[1]


def test_the_report_says_what_produced_it(evaluated, images, references):
    for part in evaluated:
        protocol = part.report["protocol"]
        assert (protocol["steps"], protocol["images"], protocol["noise_seed"]) == (part.steps, 7, 4)
        assert (protocol["resolution"], protocol["crop"], protocol["dtype"]) == ("32x32", "centre", "float32")
        assert images.content in protocol["dataset"]
        assert len(part.per_image["psnr"]) == 7
        interval = part.report["intervals"]["psnr"]
        assert interval["low"] <= interval["mean"] <= interval["high"]
        worst = part.pictures["worst_index"][0].item()
        assert part.per_image["psnr"][worst] == part.per_image["psnr"].min()
    keys = reference_protocols(METRICS, image_protocol(images, 32))
    assert load_references(references, keys)["frechet_random_conv"].moments.count == 7
