"""The network: independence of images, gradients, checkpointing, precision, compilation, wrong input."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd_decoder import Decoder, DecoderConfig
from ssdd_decoder.conditioning import AdaLayerNorm, TimeEmbedding
from ssdd_decoder.modulation import Modulation

SIZES = ["debug", "quickstart"]


def inputs(draw, decoder: Decoder, batch: int = 2, rows: int = 2, columns: int = 3, dtype=torch.float32):
    scale = decoder.config.downscale
    x_t = draw(batch, 3, rows * scale, columns * scale, dtype=dtype)
    t = torch.linspace(0.1, 0.9, batch, dtype=dtype)
    return x_t, t, draw(batch, decoder.config.latent_channels, rows, columns, seed=1, dtype=dtype)


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(2, 4), rows=st.integers(1, 5), columns=st.integers(1, 5), size=st.sampled_from(SIZES))
def test_batch_equals_singles(make_decoder, draw, batch, rows, columns, size):
    decoder = make_decoder(size).double()
    x_t, t, z = inputs(draw, decoder, batch, rows, columns, torch.float64)
    together = decoder(x_t, t, z)
    for i in range(batch):
        alone = decoder(x_t[i : i + 1], t[i : i + 1], z[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_every_parameter_gets_a_gradient(make_decoder, draw, size):
    decoder = make_decoder(size)
    decoder(*inputs(draw, decoder)).square().mean().backward()
    assert [key for key, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_gradients_are_those_of_finite_differences(make_decoder, draw):
    decoder = make_decoder().double()
    x_t, t, z = inputs(draw, decoder, rows=1, columns=1, dtype=torch.float64)
    z.requires_grad_(True)
    direction = draw(*z.shape, seed=5, dtype=torch.float64)

    def loss(latent: torch.Tensor) -> torch.Tensor:
        return decoder(x_t, t, latent).square().sum()

    (gradient,) = torch.autograd.grad(loss(z), z)
    step = 1e-5
    with torch.no_grad():
        numeric = (loss(z + step * direction) - loss(z - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_gradient_checkpointing_changes_nothing(make_decoder, draw, size):
    plain, recomputed = make_decoder(size), make_decoder(size)
    recomputed.gradient_checkpointing = True
    outputs = []
    for decoder in (plain, recomputed):
        outputs.append(decoder(*inputs(draw, decoder)))
        outputs[-1].square().mean().backward()
    assert torch.equal(*outputs)
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


def test_gradient_checkpointing_keeps_less(make_decoder, draw):
    kept = []
    for flag in (False, True):
        decoder = make_decoder()
        decoder.gradient_checkpointing = flag
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: (s.append(x.numel()), x)[1], lambda x: x):
            decoder(*inputs(draw, decoder, rows=4, columns=4))
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_initialisation_is_the_published_one():
    decoder = Decoder(DecoderConfig(base_channels=32, multipliers=(1, 2), transformer_blocks=1))
    state = decoder.state_dict()
    for key, value in state.items():
        last_of_branch = key.endswith(("conv2.weight", "ff.proj_out.weight", "relative_bias_table"))
        if last_of_branch or (key.endswith("bias") and "norm" not in key):
            assert not value.any(), key
        elif value.ndim == 4:
            assert value.std().item() == pytest.approx(0.02, rel=0.15), key
        elif value.ndim == 2:
            bound = (6 / sum(value.shape)) ** 0.5
            assert value.abs().max().item() == pytest.approx(bound, rel=0.05), key


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
def test_norm_of_tokens_is_computed_in_float32(dtype):
    """Features far from zero: their squares overflow float16, and bfloat16 cannot hold their sums."""
    eps = torch.finfo(dtype).eps
    tokens = (300 + 40 * torch.randn(2, 8, 8, 16)).to(dtype)
    plain = Modulation(torch.ones(2, 1, 1, 16, dtype=dtype), torch.zeros(2, 1, 1, 16, dtype=dtype))
    out = AdaLayerNorm(16, 8).to(dtype)(tokens, plain)
    torch.testing.assert_close(out.float(), F.layer_norm(tokens.float(), (16,), eps=1e-5), atol=2 * eps, rtol=2 * eps)


@pytest.mark.parametrize("dtype", HALVES)
def test_time_embedding_is_computed_in_float32(dtype):
    torch.manual_seed(0)
    module = TimeEmbedding(32).to(dtype)
    t = torch.tensor([0.9990, 1.0, 0.3])  # bfloat16 cannot tell the first two apart, float16 not 999 from 999.2
    expected = TimeEmbedding(32)
    expected.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(t), expected(t).to(dtype), atol=0, rtol=0)
    half_time = t.to(dtype)  # the time itself is rounded, but not 1000 times it
    torch.testing.assert_close(module(half_time), expected(half_time.float()).to(dtype), atol=0, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(expected(t), expected(t.clone()), atol=0, rtol=0)
        assert expected(t).dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
def test_softmax_is_computed_in_float32(make_decoder, draw, dtype):
    """Weights of many equal keys: 1 / 225 each, whose sum half precision would lose."""
    from ssdd_decoder.attention import WINDOW, local_attention, tile_biases

    (bias,) = tile_biases([torch.zeros(WINDOW, WINDOW, 2, dtype=dtype)], 15, 15)
    q, k = torch.zeros(2, 1, 15, 15, 2, 8, dtype=dtype)
    v = (draw(1, 15, 15, 2, 8) + 4).to(dtype)
    middle = local_attention(q, k, v, bias)[0, 7, 7].float()  # sees all 225
    expected = v.float().mean(dim=(0, 1, 2)).flatten()
    torch.testing.assert_close(middle, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
@pytest.mark.parametrize("size", SIZES)
def test_half_precision_stays_near_float32(make_decoder, draw, size, dtype, tolerance):
    decoder = make_decoder(size)
    x_t, t, z = inputs(draw, decoder, rows=6, columns=5)
    expected = decoder(x_t, t, z)
    out = decoder.to(dtype)(x_t, t, z).float()
    assert (out - expected).abs().mean() < tolerance * expected.abs().mean()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_autocast_trains(make_decoder, draw, checkpointing):
    decoder = make_decoder()
    decoder.gradient_checkpointing = checkpointing
    arguments = inputs(draw, decoder, rows=3)
    expected = decoder(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        out = decoder(*arguments)
    assert (out.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
    out.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in decoder.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("train", [False, True])
def test_compiles_without_a_graph_break(make_decoder, draw, size, train):
    decoder = make_decoder(size)
    arguments = inputs(draw, decoder)
    torch._dynamo.reset()
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(train):
        torch.testing.assert_close(compiled(*arguments), decoder(*arguments), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_compiles_whole_in_inductor_and_with_checkpointing(make_decoder, draw):
    decoder = make_decoder()
    decoder.gradient_checkpointing = True
    arguments = inputs(draw, decoder)
    torch._dynamo.reset()
    out = torch.compile(decoder, fullgraph=True)(*arguments)
    torch.testing.assert_close(out, decoder(*arguments), atol=1e-4, rtol=1e-4)
    out.square().mean().backward()
    assert all(p.grad is not None for p in decoder.parameters())


WRONG = [
    ({"z": (2, 8, 2, 3)}, r"z with 4 channels, .* got \(2, 8, 2, 3\): load the encoder"),
    ({"z": (4, 2, 3)}, r"got \(4, 2, 3\)"),
    ({"z": (0, 4, 2, 3)}, r"got \(0, 4, 2, 3\)"),
    (
        {"x_t": (2, 3, 16, 16)},
        r"x_t of shape \(2, 3, 16, 24\) for these latents, got \(2, 3, 16, 16\): its sides are 8",
    ),
    ({"x_t": (1, 3, 16, 24)}, r"got \(1, 3, 16, 24\)"),
    ({"t": (3,)}, r"times t of shape \(2,\) or \(1,\) on cpu, got torch.float32 of shape \(3,\)"),
    ({"t": ()}, r"of shape \(\)"),
]


@pytest.mark.parametrize(("shapes", "message"), WRONG)
def test_wrong_shapes_are_named(make_decoder, shapes, message):
    shapes = {"x_t": (2, 3, 16, 24), "t": (2,), "z": (2, 4, 2, 3)} | shapes
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        make_decoder()(*(torch.zeros(shape) for shape in shapes.values()))


@pytest.mark.parametrize("values", [[1000.0, 1000.0], [-0.1, 0.5], [0.5, 1.01]])
def test_times_out_of_range_are_named(make_decoder, values):
    with pytest.raises(ValueError, match=r"times t in \[0, 1\] \(0 clean, 1 noise\), got values from"):
        make_decoder()(torch.zeros(2, 3, 8, 8), torch.tensor(values), torch.zeros(2, 4, 1, 1))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_wrong_dtypes_are_named(make_decoder, dtype):
    good = {"x_t": torch.zeros(1, 3, 8, 8), "t": torch.zeros(1), "z": torch.zeros(1, 4, 1, 1)}
    for name in good:
        with pytest.raises(ValueError, match=f"expected floating point .*{dtype}"):
            make_decoder()(**(good | {name: good[name].to(dtype)}))


def test_wrong_devices_are_named(make_decoder):
    good = {"x_t": torch.zeros(1, 3, 8, 8), "t": torch.zeros(1), "z": torch.zeros(1, 4, 1, 1)}
    for name in good:
        with pytest.raises(ValueError, match=r"expected .* on cpu, got .*meta"):
            make_decoder()(**(good | {name: good[name].to("meta")}))
