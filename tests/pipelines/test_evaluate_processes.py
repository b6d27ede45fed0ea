"""The evaluation in one process or in two: one table. And what it shows is what it measured."""

import json

import pandas
import pytest
import torch

from ssdd import SSDD
from ssdd.data import EvalTransform, ImageDataset, index_images, open_source
from ssdd.evaluation.final import Measurement, evaluate
from ssdd.evaluation.reference_rows import evaluate_references, fit_patch_pca, resize
from ssdd.evaluation.reference_statistics import write_references
from ssdd.parameters import EvaluateParameters, PretrainedNetworks, RuntimeConfig
from ssdd.stages.evaluate.nodes import collect_metrics
from ssdd_metrics import psnr

STEPS = (2, 1)
PARAMETERS = EvaluateParameters(im_size=32, batch_size=4, metrics="offline", shown=3, noise_seed=4)
IMAGES = 11  # two processes share eight of them evenly, the last three fall to one
ROUNDED = ("frechet_random_conv",)  # float64 sums, in another order


def measured(images, parameters, references, runtime):
    return Measurement(
        dataset=images,
        parameters=parameters,
        references=references,
        pretrained_networks=PretrainedNetworks(),
        runtime=runtime,
    )


@pytest.fixture(scope="module")
def images():
    source = open_source("sample", train_images=4, validation_images=IMAGES, canvases=1)
    index = index_images(source, progress=False).index
    return ImageDataset(index, source, EvalTransform(im_size=32), split="validation")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = SSDD("debug", "debug")
    for parameter in model.decoder.parameters():  # also what starts at zero
        torch.nn.init.normal_(parameter, std=0.05)
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def judged(images, checkpoint, tmp_path_factory):
    """processes -> (what the evaluation found, its table)."""

    def call(processes):
        runtime = RuntimeConfig(device="cpu", workers=0, threads=1, trackers=(), progress=False, processes=processes)
        file = tmp_path_factory.mktemp("references") / "references.safetensors"
        write_references(file, images, 32, 4, PARAMETERS.metrics, PretrainedNetworks(), runtime)
        found = evaluate(checkpoint, STEPS, measured(images, PARAMETERS, file, runtime), "judging")
        reports = [{"model": "teacher", "steps": part.steps, "report": part.report} for part in found]
        return found, collect_metrics(reports, [], []), file

    threads = torch.get_num_threads()
    yield {processes: call(processes) for processes in (1, 2)}
    torch.set_num_threads(threads)


def test_one_process_or_two_give_one_table(judged):
    (found_one, one, _), (found_two, two, _) = judged[1], judged[2]
    assert one["steps"].tolist() == list(STEPS)
    assert {"psnr", "psnr_low", "psnr_high", "swd", "frechet_random_conv", "protocol"} <= set(one)
    exact = [column for column in one if column not in ROUNDED]
    pandas.testing.assert_frame_equal(one[exact], two[exact], check_exact=True)
    pandas.testing.assert_frame_equal(one, two, rtol=1e-9)
    for part, other in zip(found_one, found_two, strict=True):
        assert len(part.per_image["psnr"]) == IMAGES
        values, others = (pandas.DataFrame(found.per_image) for found in (part, other))
        pandas.testing.assert_frame_equal(values, others, check_exact=True)
        assert part.pictures.keys() == other.pictures.keys()
        for name, picture in part.pictures.items():
            assert torch.equal(picture, other.pictures[name]), name


def test_a_process_without_images_changes_nothing(judged, images, checkpoint):
    def call(processes):
        runtime = RuntimeConfig(device="cpu", workers=0, threads=1, trackers=(), progress=False, processes=processes)
        return evaluate(checkpoint, [1], measured(images, parameters, judged[1][2], runtime), "judging")[0]

    parameters = PARAMETERS.model_copy(update={"batch_size": 16, "metrics": ("psnr", "frechet_random_conv")})
    one, two = call(1), call(2)
    assert one.report == two.report
    assert one.per_image["psnr"].tolist() == two.per_image["psnr"].tolist()


def test_the_best_and_the_worst_shown_are_those_of_the_table(judged):
    for part in judged[1][0]:
        values = torch.from_numpy(part.per_image["psnr"])
        order = values.argsort()
        for name, numbers in (("worst", order), ("best", order.flip(0))):
            assert part.pictures[f"{name}_index"].tolist() == numbers[:4].tolist()
            shown = psnr(part.pictures[f"{name}_input"], part.pictures[name])
            torch.testing.assert_close(shown, values[numbers[:4]], rtol=1e-4, atol=0)


def test_references_of_another_image_decoder_are_refused(judged, images, checkpoint, monkeypatch):
    protocol = json.loads(judged[1][1]["protocol"][0])
    assert protocol["decoding"].startswith(f"Pillow {protocol['versions']['pillow']}, libjpeg")
    monkeypatch.setattr("ssdd.evaluation.reference_statistics.decoding_libraries", lambda: "Pillow 1.0, libjpeg 6b")
    runtime = RuntimeConfig(device="cpu", workers=0, trackers=(), progress=False)
    with pytest.raises(ValueError, match=r"another protocol \(decoding: expected 'Pillow 1.0, libjpeg 6b', the file"):
        evaluate(checkpoint, [1], measured(images, PARAMETERS, judged[1][2], runtime), "judging")


def test_reference_rows_have_the_protocol_of_the_models(judged, images):
    runtime = RuntimeConfig(device="cpu", workers=0, threads=1, trackers=(), progress=False)
    found = evaluate_references(images, (4, 4), measured(images, PARAMETERS, judged[1][2], runtime))
    assert [part.name for part in found] == [
        "resize by 4",
        "resize to as many numbers",
        "PCA of 4 x 4 patches, 4 numbers",
    ]
    model = judged[1][0][0].report["protocol"]
    for part in found:
        changed = {name for name, value in part.report["protocol"].items() if value != model[name]}
        assert changed <= {"model", "steps", "noise_seed", "dtype"}
    shown = [part.report["metrics"]["psnr"] for part in found]
    assert shown == sorted(shown)


def test_the_pca_is_the_best_linear_code_of_patches():
    x = torch.rand(6, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    errors = [(fit_patch_pca([x], 4, channels)(x) - x).square().mean().item() for channels in (1, 4, 47, 48)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10  # as many numbers as a patch has
    patches = torch.nn.functional.pixel_unshuffle(x, 4).movedim(1, -1).reshape(-1, 48).double()
    singular = torch.linalg.svdvals(patches - patches.mean(0))
    assert errors[1] == pytest.approx((singular[4:].square().sum() / x.numel()).item(), rel=1e-4)
    halves = fit_patch_pca([x[:2], x[2:]], 4, 4)
    torch.testing.assert_close(halves(x), fit_patch_pca([x], 4, 4)(x), atol=1e-5, rtol=1e-4)


def test_the_resize_keeps_the_mean_of_every_patch_nearly_and_constants_exactly():
    flat = torch.full((1, 3, 32, 32), 0.25)
    torch.testing.assert_close(resize(flat, 8), flat)
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    torch.testing.assert_close(resize(ramp, 4)[..., 8:-8], ramp[..., 8:-8], atol=0.02, rtol=0)
