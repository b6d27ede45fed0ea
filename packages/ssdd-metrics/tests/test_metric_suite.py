import json
import math

import numpy as np
import PIL
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ssdd_metrics import (
    MetricSuite,
    Protocol,
    compute_references,
    load_references,
    psnr,
    reference_protocols,
    save_references,
)
from ssdd_metrics.files import sha256_file
from ssdd_metrics.networks import load_inception, load_lpips

PER_IMAGE = ["mse", "mae", "psnr", "ssim_gaussian", "ssim_uniform", "gradient_energy_ratio"]
OFFLINE = [*PER_IMAGE, "swd", "frechet_random_conv"]


class Pooled(nn.Module):
    """A stand-in for a feature network: 12 means over the quarters of an image."""

    features = 12
    name, sha256 = "pooled", "0" * 64

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def images(count, seed, size=32):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    reference = nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    return reference, reference + 0.05 * torch.randn(reference.shape, generator=generator)


def filled(*slices, count=12, **options):
    suite = MetricSuite(**options)
    reference, reconstruction = images(count, 0)
    for lot in slices:
        suite.update(reference[lot], reconstruction[lot], torch.arange(count)[lot])
    return suite


def assert_same_numbers(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == pytest.approx(b[name], rel=1e-6, abs=1e-9), name


def test_offline_needs_nothing_and_names_everything():
    results = filled(slice(0, 12)).compute()
    assert set(results) == {*OFFLINE, "psnr_infinite", "gradient_energy_ratio_infinite"}
    assert all(math.isfinite(value) for value in results.values())
    assert not any("fid" in name for name in results)


def test_identical_images_do_not_poison_the_mean():
    reference, reconstruction = images(3, 0)
    reconstruction[1] = reference[1]
    suite = MetricSuite(["psnr"])
    suite.update(reference, reconstruction)
    results = suite.compute()
    eight_bit = [(side.clamp(0, 1) * 255).round() / 255 for side in (reference, reconstruction)]
    finite = psnr(*eight_bit)[[0, 2]].mean().item()
    assert results == {"psnr": pytest.approx(finite, abs=1e-5), "psnr_infinite": 1}
    assert suite.per_image()["psnr"][1] == np.inf

    only = MetricSuite(["psnr"])
    only.update(reference, reference)
    assert only.compute() == {"psnr": np.inf, "psnr_infinite": 3}


def test_every_metric_sees_rounded_images():
    reference, reconstruction = images(4, 0)
    rounded = [(side.clamp(0, 1) * 255).round().to(torch.uint8) for side in (reference, reconstruction)]
    suite = MetricSuite()
    suite.update(*rounded)
    other = MetricSuite()
    other.update(reference, reconstruction)
    assert suite.compute() == other.compute()


def test_batches_of_one_and_one_image():
    one = filled(*(slice(k, k + 1) for k in range(12)))
    assert_same_numbers(one.compute(), filled(slice(0, 12)).compute())
    assert all(math.isfinite(value) for value in filled(slice(0, 1)).compute().values())


def test_merged_suites_equal_one():
    whole = filled(slice(0, 12))
    first, second = filled(slice(1, 12, 2)), filled(slice(0, 12, 2))
    first.merge(second)
    assert_same_numbers(first.compute(), whole.compute())
    for name, values in whole.per_image().items():
        np.testing.assert_allclose(first.per_image()[name], values, rtol=1e-6)
    assert first.protocol == whole.protocol
    empty = MetricSuite()
    empty.merge(whole)
    empty.merge(MetricSuite())
    assert empty.compute() == whole.compute()


def test_state_travels_as_safetensors(tmp_path):
    whole, parts = filled(slice(0, 12)), [filled(slice(0, 5)), filled(slice(5, 12))]
    for rank, part in enumerate(parts):
        save_file(part.state(), tmp_path / f"{rank}.safetensors")
    gathered = MetricSuite()
    for rank in range(2):
        gathered.merge(load_file(tmp_path / f"{rank}.safetensors"))
    assert_same_numbers(gathered.compute(), whole.compute())


def test_an_image_seen_twice_is_refused():
    first = filled(slice(0, 5))
    with pytest.raises(ValueError, match="each image once"):
        first.merge(filled(slice(4, 12)))
    with pytest.raises(ValueError, match="build suites alike"):
        first.merge(filled(slice(5, 12), metrics=["mse"]))


def test_memory_does_not_grow_with_images_but_by_the_table():
    suite = MetricSuite()
    sizes = []
    for seed in range(4):
        suite.update(*images(6, seed))
        sizes.append({k: v.numel() for k, v in suite.state().items() if k.startswith("sum.")})
    assert sizes[0] == sizes[-1]
    rows = [value for key, value in suite.state().items() if key.startswith("rows.")]
    assert all(value.shape == (24,) for value in rows)


def test_nan_and_wrong_shapes_and_ranges():
    reference, reconstruction = images(2, 0)
    suite = MetricSuite(["mse"])
    broken = reconstruction.clone()
    broken[0, 0, 0, 0] = float("nan")
    for bad, words in (
        ((reference, broken), "NaN"),
        ((reference * 255, reconstruction * 255), r"divide 0\.\.255"),
        ((reference, reconstruction * 255), r"divide 0\.\.255"),
        ((reference * 2 - 1, reconstruction * 2 - 1), r"map -1\.\.1"),
        ((reference[:, :1], reconstruction[:, :1]), "RGB"),
        ((reference, reconstruction[:1]), "equal non-empty shapes"),
    ):
        with pytest.raises(ValueError, match=words):
            suite.update(*bad)
    with pytest.raises(ValueError, match="2 integer image numbers"):
        suite.update(reference, reconstruction, [0.5, 1.5])
    with pytest.raises(ValueError, match="at least one pair"):
        suite.compute()
    assert suite.protocol.images == 0


@pytest.mark.parametrize(("metrics", "side"), [("offline", 8), (["frechet_random_conv", "swd"], 5)])
def test_a_refused_batch_leaves_no_trace(metrics, side):
    suite = filled(slice(0, 12), metrics=metrics)
    before = suite.compute()
    with pytest.raises(ValueError, match="expected sides of more pixels"):
        suite.update(torch.rand(2, 3, side, side), torch.rand(2, 3, side, side), [90, 91])
    assert suite.compute() == before


def test_unknown_metrics_are_refused():
    for metrics in ("psrn", ["mse", "psrn"]):
        with pytest.raises(ValueError, match=r"there is no metric 'psrn'; did you mean 'psnr'\?"):
            MetricSuite(metrics)
    with pytest.raises(ValueError, match="there is no metric 'clarity'; known: offline, packaged, full, mse, mae"):
        MetricSuite(["clarity"])
    with pytest.raises(ValueError, match="distinct names"):
        MetricSuite(["mse", "mse"])
    with pytest.raises(ValueError, match="Frechet metrics of this suite"):
        MetricSuite(["mse"], references={"rfid": None})
    with pytest.raises(ValueError, match="folder with DreamSim's files"):
        MetricSuite(["dreamsim"])


def test_protocol_round_trip_and_print():
    protocol = Protocol(
        dataset="photos", decoding="Pillow 11.3.0", resolution="32x32", resize="none", noise_seed=3, steps=1
    )
    suite = filled(slice(0, 12), protocol=protocol, metrics=["psnr", "frechet_random_conv"])
    report = json.loads(json.dumps(suite.report()))
    assert Protocol.from_dict(report["protocol"]) == suite.protocol
    assert report["protocol"]["images"] == 12
    assert report["protocol"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["protocol"]["versions"]["pillow"] == PIL.__version__
    low, high = report["intervals"]["psnr"]["low"], report["intervals"]["psnr"]["high"]
    assert low < report["metrics"]["psnr"] < high
    for words in (
        "psnr  ",
        "noise_seed: 3",
        "steps: 1",
        "dataset: photos",
        "decoding: Pillow 11.3.0",
        "round half to even",
        "images: 12",
    ):
        assert words in str(suite)


@pytest.fixture
def rfid_options():
    return {
        "metrics": ["rfid"],
        "networks": {"inception": Pooled()},
        "protocol": Protocol(dataset="photos", resize="bilinear", crop="centre", resolution="32x32"),
    }


def test_reference_statistics_are_computed_once_and_reused(tmp_path, rfid_options):
    streamed = filled(slice(0, 12), **rfid_options)
    path = tmp_path / "reference.safetensors"
    save_references(path, compute_references(images(12, 0)[0].split(5), **rfid_options))
    assert [file.name for file in tmp_path.iterdir()] == ["reference.safetensors"]
    stored = load_references(path, reference_protocols(**rfid_options))
    reused = filled(slice(0, 5), slice(5, 12), **rfid_options, references=stored)
    assert_same_numbers(reused.compute(), streamed.compute())
    for suite in (streamed, reused):
        save_references(path, suite.references())
        again = load_references(path, reference_protocols(**rfid_options))
        torch.testing.assert_close(again["rfid"].moments.outer, stored["rfid"].moments.outer, rtol=1e-12, atol=0)
    parts = [filled(lot, **rfid_options, references=stored) for lot in (slice(0, 5), slice(5, 12))]
    parts[0].merge(parts[1])
    assert_same_numbers(parts[0].compute(), streamed.compute())


def test_reference_statistics_of_all_metrics_equal_the_suites(rfid_options):
    class Tokens(Pooled):
        def forward(self, images):
            assert images.is_floating_point()
            return super().forward(images)

    options = rfid_options | {"metrics": "full", "networks": {"inception": Pooled(), "dinov2": Tokens()}}
    reference, reconstruction = images(12, 0)
    found = compute_references(reference.split(7), **options)
    assert set(found) == {"rfid", "fdd", "frechet_random_conv"}
    options["metrics"] = ["fdd", "frechet_random_conv", "rfid"]
    streamed, reused = MetricSuite(**options), MetricSuite(**options, references=found)
    for suite in (streamed, reused):
        suite.update(reference, reconstruction)
    assert_same_numbers(reused.compute(), streamed.compute())


def test_reference_statistics_of_disjoint_images_add_up(rfid_options):
    reference = images(12, 0)[0]
    whole, first, second = (
        compute_references([part], **rfid_options)["rfid"] for part in (reference, reference[:4], reference[4:])
    )
    torch.testing.assert_close((first + second).moments.outer, whole.moments.outer)
    assert (first + second).moments.count == 12
    other = compute_references([reference], **rfid_options | {"protocol": Protocol(dataset="others")})["rfid"]
    with pytest.raises(ValueError, match="dataset: expected 'others'"):
        first + other


def test_reference_statistics_of_another_protocol_are_refused(tmp_path, rfid_options):
    keys = reference_protocols(**rfid_options)
    path = tmp_path / "reference.safetensors"
    save_references(path, compute_references([images(4, 0)[0]], **rfid_options))
    others = {"resize": "lanczos", "crop": "random", "decoding": "Pillow 1.0", "weights_sha256": "1" * 64}
    for name, value in others.items():
        with pytest.raises(ValueError, match=rf"another protocol \({name}: expected '{value}', the file has"):
            load_references(path, {"rfid": {**keys["rfid"], name: value}})
    with pytest.raises(ValueError, match=r"statistics of \['fdd'\], .* has \['rfid'\]"):
        load_references(path, {**keys, "fdd": keys["rfid"]})
    with pytest.raises(ValueError, match="found no file"):
        load_references(tmp_path / "nowhere", keys)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("not safetensors")
    for other in ("other.safetensors", "text"):
        with pytest.raises(ValueError, match="holds none"):
            load_references(tmp_path / other, keys)
    with pytest.raises(ValueError, match="at least one batch"):
        compute_references([], **rfid_options)
    assert compute_references([], ["psnr"], Protocol()) == {}


def test_a_failed_save_leaves_the_old_file(tmp_path, rfid_options, monkeypatch):
    path = tmp_path / "reference.safetensors"
    found = compute_references([images(4, 0)[0]], **rfid_options)
    save_references(path, found)
    before = sha256_file(path)

    def fail(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("ssdd_metrics.reference.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_references(path, found)
    assert sha256_file(path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["reference.safetensors"]


@pytest.mark.slow
def test_full_set_with_random_weights(inception_pth, trunk_pths, photographs):
    class Tokens(Pooled):
        def forward(self, images):
            assert images.is_floating_point()
            return super().forward(images)

    networks = {
        "inception": load_inception(inception_pth, sha256=sha256_file(inception_pth)),
        "dinov2": Tokens(),
    }
    for net, path in trunk_pths.items():
        networks[f"lpips_{net}"] = load_lpips(net, path, sha256=sha256_file(path))
    suite = MetricSuite("full", networks=networks)
    suite.update(photographs, photographs.flip(-1))
    results = suite.compute()
    assert {"rfid", "fdd", "lpips_alex", "lpips_vgg"} <= results.keys()
    assert all(math.isfinite(value) for value in results.values())
    assert set(suite.per_image()) == {"image", *PER_IMAGE, "lpips_alex", "lpips_vgg"}
    assert suite.protocol.weights["inception-2015-12-05"] == sha256_file(inception_pth)
    assert suite.protocol.weights["lpips-0.1-vgg"] == sha256_file(trunk_pths["vgg"])


def test_full_without_weights_says_what_to_do(hub):
    with pytest.raises(ValueError, match=r'put it into .* metrics="offline"|metrics that need no download'):
        MetricSuite("full")


def test_networks_run_in_plain_float32_and_settings_come_back():
    seen = {}

    class Looks(Pooled):
        def forward(self, images):
            seen["autocast"] = torch.is_autocast_enabled("cpu")
            seen["tf32"] = torch.backends.cudnn.allow_tf32
            seen["precision"] = torch.get_float32_matmul_precision()
            return super().forward(images)

    before = (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
    try:
        torch.set_float32_matmul_precision("high")
        suite = MetricSuite(["rfid"], networks={"inception": Looks()})
        with torch.autocast("cpu", dtype=torch.bfloat16):
            suite.update(*images(2, 0))
        assert seen == {"autocast": False, "tf32": False, "precision": "highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[1])
    assert torch.backends.cudnn.allow_tf32 == before[0]


def test_a_protocol_states_only_hashes_that_are_known():
    class Mean(torch.nn.Module):
        features = 3

        def forward(self, images):
            return images.double().mean((2, 3))

    own = MetricSuite(["frechet_random_conv"], networks={"frechet_random_conv": Mean(), "random_conv": Mean()})
    assert list(own.protocol.weights.values()) == ["not stated"]
    assert list(MetricSuite(["frechet_random_conv"]).protocol.weights.values()) == ["drawn from a fixed seed"]
