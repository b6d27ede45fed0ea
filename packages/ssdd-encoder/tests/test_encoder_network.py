"""The network: shapes, independence of images, gradients, precision, compilation, wrong input."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd_encoder import Encoder, encoder_config
from ssdd_encoder.blocks import AttnBlock


@pytest.mark.parametrize(
    ("name", "height", "width"), [("debug", 8, 24), ("debug", 40, 16), ("quickstart", 8, 40), ("quickstart", 24, 16)]
)
def test_any_multiple_of_the_downscale_is_encoded(make_encoder, images, name, height, width):
    encoder = make_encoder(name)
    posterior = encoder(images(2, height, width))
    channels, scale = encoder.config.latent_channels, encoder.config.downscale
    assert posterior.mean.shape == posterior.logvar.shape == (2, channels, height // scale, width // scale)


@pytest.mark.parametrize("name", ["f2c3", "f4c8", "f16c4", "f32c32"])
def test_published_names_have_their_shape(name):
    config = encoder_config(name)
    with torch.device("meta"):
        mean = Encoder(config)(torch.zeros(1, 3, 3 * config.downscale, config.downscale)).mean
    assert mean.shape == (1, config.latent_channels, 3, 1)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(2, 4), rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_batch_equals_singles(batch, rows, columns):
    torch.manual_seed(batch)
    encoder = Encoder("debug").double()
    x = torch.rand(batch, 3, 8 * rows, 8 * columns, dtype=torch.float64) * 2 - 1
    together = encoder(x)
    for i in range(batch):
        alone = encoder(x[i : i + 1])
        torch.testing.assert_close(together.mean[i : i + 1], alone.mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(together.logvar[i : i + 1], alone.logvar, atol=1e-12, rtol=0)


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    block = AttnBlock(16, 4).double()
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    h = F.group_norm(x, 4, block.norm.weight, block.norm.bias, 1e-6)
    q, k, v = (F.conv2d(h, c.weight, c.bias).flatten(2) for c in (block.q, block.k, block.v))  # (B, C, N)
    weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / 16**0.5, dim=-1)
    expected = torch.einsum("bij,bcj->bci", weights, v).view_as(x)
    expected = x + F.conv2d(expected, block.proj_out.weight, block.proj_out.bias)
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)


def test_downsampling_pads_right_and_below_only(make_encoder):
    downsample = make_encoder().down[0].downsample
    x = torch.randn(1, 8, 6, 4)
    padded = torch.zeros(1, 8, 7, 5)
    padded[:, :, :6, :4] = x
    expected = F.conv2d(padded, downsample.conv.weight, downsample.conv.bias, stride=2)
    torch.testing.assert_close(downsample(x), expected)


@pytest.mark.parametrize("name", ["debug", "quickstart"])
def test_every_parameter_gets_a_gradient(make_encoder, images, name):
    encoder = make_encoder(name)
    posterior = encoder(images(2, 16, 16))
    (posterior.sample(torch.Generator().manual_seed(0)).square().mean() + posterior.kl().mean()).backward()
    without = [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The bias of a key shifts all scores of a query alike, and softmax does not see it: its gradient is rounding noise.
    assert without in ([], ["mid.attn_1.k.bias"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_norms_in_float32(make_encoder, dtype):
    encoder = make_encoder().to(dtype)
    norm = encoder.norm_out
    x = (300 + 40 * torch.randn(2, norm.num_channels, 8, 8)).to(dtype)  # squares overflow float16
    expected = F.group_norm(x.float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps)
    torch.testing.assert_close(norm(x).float(), expected, atol=torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_stays_near_float32(make_encoder, images, dtype, tolerance):
    encoder, x = make_encoder(), images(2, 32, 32)
    expected = encoder(x)
    posterior = encoder.to(dtype)(x)
    assert posterior.mean.dtype == dtype
    assert (posterior.mean.float() - expected.mean).abs().mean() < tolerance
    assert posterior.kl().dtype == torch.float32


def test_autocast_trains(make_encoder, images):
    encoder = make_encoder()
    with torch.autocast("cpu", torch.bfloat16):
        posterior = encoder(images(2, 16, 16))
        loss = posterior.sample(torch.Generator().manual_seed(0)).float().square().mean() + posterior.kl().mean()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


@pytest.mark.slow
def test_compiles_without_a_graph_break(make_encoder, images):
    encoder, x = make_encoder(), images(2, 16, 24)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x).mean, encoder(x).mean)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 16, 16), r"shape \(B, 3, H, W\), got \(3, 16, 16\): stack"),
        (torch.zeros(1, 4, 16, 16), r"got \(1, 4, 16, 16\)"),
        (torch.zeros(0, 3, 16, 16), r"got \(0, 3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 12), r"multiples of 8, got 16 x 12: pad or crop"),
        (torch.zeros(1, 3, 0, 8), r"multiples of 8, got 0 x 8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), r"got torch.uint8: use x.float\(\) / 127.5 - 1"),
        (torch.zeros(1, 3, 16, 16, device="meta"), r"on cpu, got meta: move"),
        (torch.full((1, 3, 16, 16), 255.0), r"in \[-1, 1\], got values from 255 to 255: rescale"),
        (torch.full((1, 3, 16, 16), -1.1), r"in \[-1, 1\]"),
    ],
)
def test_wrong_images_are_named(make_encoder, x, message):
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        make_encoder()(x)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite_are_refused(make_encoder, images, value):
    encoder, x = make_encoder(), images(1, 8, 8)
    encoder(x)
    x[0, 1, 2, 3] = float(value)  # NaN is neither below nor above any range
    for options in ({}, {"check_finite": True}):
        with pytest.raises(ValueError, match="expected finite images, got NaN"):
            encoder(x, **options)
    if value == "nan":
        assert encoder(x, check_finite=False).mean.isnan().any()  # as training wants it


def test_weights_without_values_are_not_built_by_name():
    with pytest.raises(ValueError, match="from_pretrained"):
        Encoder("sdvae")
