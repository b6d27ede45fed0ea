"""Local attention against a dense mask over all pairs of tokens; its cost; the compiled form."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssdd_decoder import Decoder, DecoderConfig
from ssdd_decoder.attention import WINDOW, local_attention, tile_biases

SMALL = DecoderConfig(base_channels=8, multipliers=(1, 1, 2, 2), transformer_blocks=2, heads=2, norm_groups=4)
HEADS, CHANNELS = 2, 4
GRIDS = [
    (1, 1),
    (1, 40),
    (3, 8),
    (7, 15),
    (16, 16),
    (22, 22),
    (22, 23),
    (23, 23),
    (24, 31),
    (30, 32),
    (33, 47),
    (50, 9),
]


def dense_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Softmax over all pairs, with one bias (K, N, N): (B, H, W, K, d) -> (B, H, W, K d)."""
    height, width = q.shape[1:3]
    y, x = (p.flatten() for p in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    dy, dx = y[:, None] - y, x[:, None] - x
    bias = table[dy.clamp(-7, 7) + 7, dx.clamp(-7, 7) + 7].permute(2, 0, 1)
    bias = bias.masked_fill((dy.abs() > 7) | (dx.abs() > 7), -math.inf)
    q, k, v = (part.flatten(1, 2).transpose(1, 2) for part in (q, k, v))  # (B, K, N, d)
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + bias
    out = scores.softmax(dim=3) @ v
    return out.transpose(1, 2).unflatten(1, (height, width)).flatten(3)


@pytest.fixture
def tokens(draw):
    """q, k, v and table of a grid, in float64, with gradients recorded."""

    def make(height: int, width: int, batch: int = 2) -> list[Tensor]:
        parts = draw(3, batch, height, width, HEADS, CHANNELS, dtype=torch.float64).unbind()
        table = draw(WINDOW, WINDOW, HEADS, seed=1, dtype=torch.float64)
        return [part.clone().requires_grad_() for part in (*parts, table)]

    return make


@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_equals_dense_mask_in_value_and_gradient(tokens, draw, height, width):
    inputs = tokens(height, width)
    q, k, v, table = inputs
    out = local_attention(q, k, v, tile_biases([table], height, width)[0])
    expected = dense_attention(*inputs)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    weight = draw(*out.shape, seed=2, dtype=torch.float64)
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    for gradient, same in zip(gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, same, atol=1e-10, rtol=1e-10)


def test_products_and_biases_grow_linearly_with_tokens(tokens):
    def products(side: int) -> int:
        q, k, v, table = tokens(side, side, batch=1)
        biases = tile_biases([table], side, side)[0]
        with FlopCounterMode(display=False) as counter:
            local_attention(q, k, v, biases).sum().backward()
        return counter.get_total_flops()

    def bias_numbers(side: int) -> int:
        return sum(bias.numel() for bias in tile_biases([torch.zeros(WINDOW, WINDOW, 1)], side, side)[0])

    assert products(128) / products(64) < 4.4  # four times the tokens, and fewer of them at a border
    assert bias_numbers(1000) == bias_numbers(32)  # the kinds of tile are the same


def test_saved_for_backward_grows_linearly_with_tokens(tokens):
    def saved(side: int) -> int:
        total: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            total[storage.data_ptr()] = storage.nbytes()
            return tensor

        q, k, v, table = tokens(side, side, batch=1)
        biases = tile_biases([table], side, side)[0]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = local_attention(q, k, v, biases)
        assert out.requires_grad
        return sum(total.values())

    assert saved(96) / saved(48) < 4.8


def test_work_of_a_decode_is_linear_in_pixels_and_steps(draw):
    decoder = Decoder(SMALL).eval()

    def products(cells: int, steps: int) -> int:
        with FlopCounterMode(display=False) as counter:
            decoder.decode(draw(1, 4, cells, cells), steps, draw(1, 3, 8 * cells, 8 * cells))
        return counter.get_total_flops()

    small = products(32, 1)
    assert products(64, 1) < 4.4 * small
    assert products(32, 4) < 3.99 * small  # what depends on the latent alone is not done again


@pytest.mark.slow
def test_compiled_decode_is_one_graph_and_is_not_compiled_again(monkeypatch, draw):
    from torch._dynamo.utils import counters

    import ssdd_decoder.decoder

    def traced(method):
        return compiled.setdefault(method, torch.compile(method, backend="eager", fullgraph=True))

    compiled = {}
    monkeypatch.setattr(ssdd_decoder.decoder, "_compiled", traced)
    torch._dynamo.reset()
    counters.clear()
    # the fewest layers with attention and a resize: the time goes into compiling them
    decoder = Decoder(replace(SMALL, multipliers=(1, 2), downscale=2, resnets_per_level=1, transformer_blocks=1)).eval()

    def graphs(batch: int, height: int, width: int, steps: int) -> int:
        z, noise = draw(batch, 4, height, width), draw(batch, 3, 2 * height, 2 * width, seed=1)
        out = decoder.decode(z, steps, noise, compile=True)
        torch.testing.assert_close(out, decoder.decode(z, steps, noise), atol=1e-5, rtol=1e-5)
        return counters["stats"]["unique_graphs"]

    first = graphs(2, 5, 7, steps=1)
    assert first == 2  # the latent's part, and a step
    assert graphs(2, 5, 7, steps=5) == first
    dynamic = graphs(3, 6, 8, steps=1)  # another size: sizes become dynamic
    assert dynamic == first + 2
    assert graphs(5, 9, 8, steps=3) == graphs(4, 21, 13, steps=2) == dynamic
    graphs(2, 24, 26, steps=1)  # grids beyond one tile have other biases
    large = graphs(3, 30, 27, steps=1)
    assert large <= dynamic + 3
    assert graphs(2, 40, 51, steps=2) == graphs(7, 33, 37, steps=1) == large
    assert not counters["graph_break"]
