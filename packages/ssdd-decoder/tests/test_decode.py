"""`decode`, the method that users call: steps, noise, generators, precision, and every wrong input by name."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd_decoder import Decoder, decoder_config
from ssdd_decoder.flow import draw_noise
from ssdd_decoder.times import sampling_grid


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    steps=st.integers(1, 4),
    space=st.sampled_from([(2, 4), (4, 8), (8, 4), (16, 4), (32, 32)]),
)
def test_any_batch_shape_space_and_step_count(make_decoder, draw, batch, rows, columns, steps, space):
    decoder = make_decoder("debug", downscale=space[0], latent_channels=space[1])
    image = decoder.decode(draw(batch, space[1], rows, columns), steps=steps, generator=seeded(0)[0])
    assert image.shape == (batch, 3, rows * space[0], columns * space[0])
    assert image.dtype == torch.float32
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("size", ["debug", "quickstart"])
@pytest.mark.parametrize("steps", [1, 3])
def test_decoding_is_euler_steps_of_the_network_on_the_grid(make_decoder, draw, size, steps):
    decoder = make_decoder(size).double()
    scale = decoder.config.downscale
    z = draw(2, decoder.config.latent_channels, 2, 3, dtype=torch.float64)
    x = draw(2, 3, 2 * scale, 3 * scale, seed=1, dtype=torch.float64)
    out = decoder.decode(z, steps=steps, noise=x)
    for t, s in pairwise(sampling_grid(steps)):
        x = x + (t - s) * decoder(x, torch.full((2,), t, dtype=torch.float64), z)
    torch.testing.assert_close(out, x, atol=1e-10, rtol=0)


@pytest.mark.parametrize("steps", [1, 8])
def test_exact_constant_velocity_field_is_integrated_exactly(make_decoder, draw, monkeypatch, steps):
    decoder = make_decoder().double()
    image, noise = draw(2, 3, 16, 16, dtype=torch.float64), draw(2, 3, 16, 16, seed=1, dtype=torch.float64)
    field = type("P", (), {"velocity": image - noise, "tokens": None})
    monkeypatch.setattr(decoder, "predict", lambda *_, **__: field)
    out = decoder.decode(torch.zeros(2, 4, 2, 2, dtype=torch.float64), steps=steps, noise=noise)
    torch.testing.assert_close(out, image, atol=1e-14, rtol=0)


def test_noise_and_generators_reproduce(make_decoder, draw):
    decoder, z = make_decoder(), draw(2, 4, 2, 2)
    noise = draw_noise((2, 3, 16, 16), z, seeded(5)[0])
    assert torch.equal(decoder.decode(z, generator=seeded(5)[0]), decoder.decode(z, noise=noise))
    assert not torch.equal(decoder.decode(z), decoder.decode(z))
    torch.manual_seed(1)
    first = decoder.decode(z)
    torch.manual_seed(1)
    assert torch.equal(first, decoder.decode(z))


@settings(max_examples=10, deadline=None)
@given(order=st.permutations([0, 1, 2, 3]), count=st.integers(1, 4))
def test_an_image_does_not_depend_on_its_batch(make_decoder, draw, order, count):
    decoder, z = make_decoder().double(), draw(4, 4, 2, 2, dtype=torch.float64)
    chosen = order[:count]
    batch = decoder.decode(z[chosen], steps=2, generator=seeded(*chosen))
    for image, i in zip(batch, chosen, strict=True):
        alone = decoder.decode(z[i : i + 1], steps=2, generator=seeded(i))
        torch.testing.assert_close(image, alone[0], atol=1e-10, rtol=0)


def test_steps_share_one_conditioning(make_decoder, draw, monkeypatch):
    decoder, calls = make_decoder(), []
    condition = decoder.condition
    monkeypatch.setattr(decoder, "condition", lambda z: (calls.append(z), condition(z))[1])
    decoder.decode(draw(1, 4, 1, 1), steps=5)
    assert len(calls) == 1


def test_result_is_not_clamped_and_inputs_are_untouched(make_decoder, draw):
    decoder, z, noise = make_decoder(), draw(1, 4, 2, 2), 5 * draw(1, 3, 16, 16)
    before = z.clone(), noise.clone()
    image = decoder.decode(z, steps=2, noise=noise)
    assert image.abs().max() > 1
    assert torch.equal(z, before[0])
    assert torch.equal(noise, before[1])
    assert not image.requires_grad


@pytest.mark.parametrize(("dtype", "out"), [("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")])
def test_precision_of_the_result(make_decoder, draw, dtype, out):
    decoder = make_decoder().to(getattr(torch, dtype))
    assert decoder.decode(draw(1, 4, 1, 1)).dtype == getattr(torch, out)


def test_latents_and_noise_of_another_precision_are_cast(make_decoder, draw):
    decoder, z, noise = make_decoder(), draw(1, 4, 1, 1).bfloat16(), draw(1, 3, 8, 8).half()
    assert torch.equal(decoder.decode(z, noise=noise), decoder.decode(z.float(), noise=noise.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_into_decode(make_decoder, draw, dtype):
    decoder, z, noise = make_decoder(), draw(1, 4, 1, 2), draw(1, 3, 8, 16)
    expected = decoder.decode(z, noise=noise)
    with torch.autocast("cpu", dtype):
        assert torch.equal(decoder.decode(z, noise=noise), expected)


def test_inference_mode_and_channels_last(make_decoder, draw):
    decoder, z, noise = make_decoder(), draw(2, 4, 2, 2), draw(2, 3, 16, 16)
    expected = decoder.decode(z, noise=noise)
    with torch.inference_mode():
        assert torch.equal(decoder.decode(z, noise=noise), expected)
    last = torch.channels_last
    out = decoder.decode(z.to(memory_format=last), noise=noise.to(memory_format=last))
    torch.testing.assert_close(out, expected)
    plain = make_decoder().to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(plain.decode(z, noise=noise), expected, atol=1e-4, rtol=1e-4)


def test_every_published_size_decodes(draw):
    for size in ("XS", "S"):
        decoder = Decoder(decoder_config(size))
        noise = draw(1, 3, 8, 8)
        assert torch.isfinite(decoder.decode(draw(1, 4, 1, 1), noise=noise)).all()


Z = torch.zeros(2, 4, 2, 3)
WRONG = {
    "channels": ({"z": torch.zeros(2, 16, 2, 3)}, r"z with 4 channels, .* got \(2, 16, 2, 3\): load the"),
    "no batch": ({"z": torch.zeros(4, 2, 3)}, r"got \(4, 2, 3\)"),
    "empty batch": ({"z": torch.zeros(0, 4, 2, 3)}, r"got \(0, 4, 2, 3\)"),
    "empty side": ({"z": torch.zeros(1, 4, 0, 3)}, r"got \(1, 4, 0, 3\)"),
    "dtype": ({"z": Z.long()}, r"floating point latents, got torch.int64: convert"),
    "device": ({"z": Z.to("meta")}, r"latents on cpu, got meta: move them"),
    "no steps": ({"steps": 0}, r"steps to be an integer from 1 to 10,000, got 0"),
    "half a step": ({"steps": 1.5}, r"got 1.5"),
    "too many steps": ({"steps": 10**12}, r"got 1000000000000"),
    "noise of other size": ({"noise": torch.zeros(2, 3, 16, 16)}, r"shape \(2, 3, 16, 24\) .* \(2, 3, 16, 16\)"),
    "noise of other batch": ({"noise": torch.zeros(1, 3, 16, 24)}, r"got \(1, 3, 16, 24\)"),
    "noise dtype": ({"noise": torch.zeros(2, 3, 16, 24).int()}, r"floating point noise on cpu, got torch.int32"),
    "noise device": ({"noise": torch.zeros(2, 3, 16, 24, device="meta")}, r"noise on cpu, got torch.float32 on meta"),
    "both": ({"noise": torch.zeros(2, 3, 16, 24), "generator": seeded(0)[0]}, r"got both: drop one"),
    "posterior": ({"z": object()}, r"latents as a tensor, got object: of a posterior, pass .mode\(\)"),
    "seed": ({"generator": 0}, r"torch.Generator or one per image, got int: use torch.Generator\(\).manual_seed"),
    "seeds": ({"generator": [0, 1]}, r"torch.Generator or one per image, got list"),
    "few generators": ({"generator": seeded(0)}, r"one generator per image, got 1 for a batch of 2: give"),
    "nan in z": ({"z": Z / 0, "check_finite": True}, r"z to be finite, got NaN"),
    "inf in noise": ({"noise": torch.full((2, 3, 16, 24), torch.inf), "check_finite": True}, r"noise to be finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named_before_any_work(make_decoder, monkeypatch, name):
    changes, message = WRONG[name]
    decoder = make_decoder()
    monkeypatch.setattr(decoder, "condition", lambda _: pytest.fail("the network was run"))
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        decoder.decode(**({"z": Z} | changes))


def test_nan_from_the_network_is_found_when_asked(make_decoder):
    decoder = make_decoder()
    decoder.conv_out.bias.data[0] = torch.nan
    assert decoder.decode(Z).isnan().any()
    with pytest.raises(ValueError, match=r"the decoded image to be finite.* decode in float32"):
        decoder.decode(Z, check_finite=True)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_pass_through_all_steps_when_asked(make_decoder, draw, steps, checkpointing):
    """Against differences along a direction, in float64: to the latent, the noise and the weights."""
    decoder = make_decoder().double()
    decoder.gradient_checkpointing = checkpointing
    z, noise = draw(2, 4, 3, 4).double().requires_grad_(), draw(2, 3, 24, 32).double().requires_grad_()

    def loss():
        return decoder.decode(z, steps=steps, noise=noise, grad=True).square().mean()

    loss().backward()
    for tensor in (z, noise, decoder.conv_in.weight, decoder.time_embedding.linear_1.weight):
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        slope, step = (tensor.grad * direction).sum(), 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(direction, alpha=sign * step)
                values.append(loss())
                tensor.add_(direction, alpha=-sign * step)
        assert slope.abs() > 1e-9
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope.item(), rel=1e-5)


def test_gradients_are_off_unless_asked_for_and_the_image_is_the_same(make_decoder, draw):
    decoder, z, noise = make_decoder(), draw(1, 4, 2, 3).requires_grad_(), draw(1, 3, 16, 24)
    plain, recorded = decoder.decode(z, noise=noise), decoder.decode(z, noise=noise, grad=True)
    assert not plain.requires_grad
    assert recorded.requires_grad
    assert torch.allclose(plain, recorded, atol=1e-5)
    with torch.no_grad():  # the caller's own wish comes first
        assert not decoder.decode(z, noise=noise, grad=True).requires_grad
