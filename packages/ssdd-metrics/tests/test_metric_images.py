import pytest
import torch

from ssdd_metrics import MetricSuite, gradient_energy_ratio, mse, psnr, ssim_gaussian, ssim_uniform, to_uint8
from ssdd_metrics.registry import metric_names


def test_to_uint8_clamps_and_rounds_to_nearest():
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.3])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255, 255]


def test_to_uint8_round_trip_of_every_level():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels.float() / 255), levels)
    assert torch.equal(to_uint8(levels.double() / 255), levels)
    assert to_uint8(levels) is levels


def test_to_uint8_computes_half_precision_in_float32():
    values = torch.rand(1000, dtype=torch.bfloat16)
    assert torch.equal(to_uint8(values), (values.float() * 255).round().to(torch.uint8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_an_error(bad):
    image = torch.rand(1, 3, 16, 16)
    broken = image.clone()
    broken[0, 1, 2, 3] = bad
    for call in (lambda: to_uint8(broken), lambda: mse(image, broken), lambda: mse(broken, image)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            call()


def test_wrong_range_is_an_error_that_says_what_to_do():
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"divide 0\.\.255 by 255"):
        to_uint8(image * 255)
    with pytest.raises(ValueError, match=r"divide 0\.\.255 by 255"):
        psnr(image, image * 255)
    with pytest.raises(ValueError, match=r"map -1\.\.1 by \(x \+ 1\) / 2"):
        psnr(image * 2 - 1, image * 2 - 1)
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        to_uint8(torch.zeros(1, 3, 4, 4, dtype=torch.int64))


def suite_mse(reference, reconstruction):
    suite = MetricSuite(["mse"])
    suite.update(reference, reconstruction)
    return suite.compute()["mse"]


@pytest.mark.parametrize("measure", [mse, suite_mse])
def test_a_network_s_output_that_nobody_mapped_is_refused(measure, photographs):
    photographs = photographs / 255
    decoded = photographs + 0.08 * torch.randn(photographs.shape, generator=torch.Generator().manual_seed(0))
    measure(photographs, decoded)
    for one in range(len(photographs)):
        with pytest.raises(ValueError, match=r"that fit the references as -1\.\.1: map them by \(x \+ 1\) / 2"):
            measure(photographs[one : one + 1], decoded[one : one + 1] * 2 - 1)


@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0])
def test_bad_reconstructions_are_measured(spread, photographs):
    photographs = photographs / 255
    noise = spread * torch.randn(photographs.shape, generator=torch.Generator().manual_seed(0))
    for bad in (noise, noise - 1, photographs + noise, photographs - spread, (photographs - 0.5) * (1 + spread) + 0.5):
        assert mse(photographs, bad).isfinite().all()
    black = torch.zeros_like(photographs)
    assert mse(black, black - spread).isfinite().all()


def test_the_error_for_arrays_explains_how_to_make_tensors():
    image = torch.rand(1, 3, 16, 16)
    for measure in (mse, suite_mse):
        with pytest.raises(ValueError, match=r"expected tensors .* got ndarray: torch\.from_numpy"):
            measure(image, image.numpy())


def test_a_suite_names_every_metric_that_an_image_is_too_small_for():
    suite = MetricSuite("offline")
    line = torch.rand(2, 3, 8, 1)
    with pytest.raises(ValueError, match="8 x 1: ssim_gaussian needs 11, ssim_uniform needs 7, swd needs 7; leave"):
        suite.update(line, line)
    with pytest.raises(ValueError, match="8 x 8: ssim_gaussian needs 11; leave"):
        suite.update(line.expand(-1, -1, -1, 8), line.expand(-1, -1, -1, 8))
    sizes = {"ssim_gaussian": 11, "ssim_uniform": 7, "swd": 7}
    for metric in metric_names("offline"):
        image = torch.rand(1, 3, sizes.get(metric, 1), sizes.get(metric, 1))
        MetricSuite([metric]).update(image, image)


def test_overshoot_all_over_is_clamped():
    assert (to_uint8(torch.full((1, 3, 8, 8), -0.02)) == 0).all()  # a black image, decoded
    assert (to_uint8(torch.full((1, 3, 8, 8), 1.5)) == 255).all()


def test_shapes_that_do_not_match_are_an_error():
    image = torch.rand(1, 3, 16, 16)
    for other in (torch.rand(1, 3, 16, 15), torch.rand(2, 3, 16, 16)):
        with pytest.raises(ValueError, match="two equal non-empty shapes"):
            mse(image, other)
    with pytest.raises(ValueError, match="two equal non-empty shapes"):
        mse(image[0], image[0])
    with pytest.raises(ValueError, match="two equal non-empty shapes"):
        mse(image[:0], image[:0])


def test_sides_of_one_pixel():
    line, other = torch.rand(2, 3, 40, 1), torch.rand(2, 3, 40, 1)
    assert torch.isfinite(psnr(line, other)).all()
    assert torch.isfinite(gradient_energy_ratio(line, other)).all()
    for metric, size in ((ssim_gaussian, 11), (ssim_uniform, 7)):
        with pytest.raises(ValueError, match=f"sides of at least {size} pixels"):
            metric(line, other)


def test_constant_images():
    grey, white = torch.full((1, 3, 20, 20), 0.5), torch.ones(1, 3, 20, 20)
    structured = torch.rand(1, 3, 20, 20)
    assert gradient_energy_ratio(grey, white).item() == 1
    assert gradient_energy_ratio(grey, structured).item() == float("inf")
    assert gradient_energy_ratio(structured, grey).item() == 0
    # closed form of SSIM between two constants: the luminance term alone
    expected = (2 * 0.5 * 1 + 1e-4) / (0.25 + 1 + 1e-4)
    for metric in (ssim_gaussian, ssim_uniform):
        assert metric(grey, white).item() == pytest.approx(expected, abs=1e-6)
        assert metric(grey, grey).item() == pytest.approx(1, abs=1e-7)


def test_a_pixel_gives_the_gradient_ratio_one():
    pixel = torch.rand(1, 3, 1, 1)
    assert gradient_energy_ratio(pixel, pixel / 2).item() == 1
