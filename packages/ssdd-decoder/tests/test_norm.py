"""Norm, modulation and SiLU as one function: against PyTorch's own, with gradients, in every precision and layout."""

import pytest
import torch
import torch.nn.functional as F

from ssdd_decoder.modulation import Modulation
from ssdd_decoder.norm import group_statistics, norm_silu

GROUPS, EPS = 2, 1e-5
# features (B, C, H, W), modulation (B or 1, h, w): a cell for several features, for all, for one, for a part of one
SHAPES = [
    ((2, 4, 6, 8), (2, 3, 2)),
    ((2, 4, 6, 8), (1, 1, 1)),
    ((1, 4, 5, 3), (1, 1, 1)),
    ((3, 6, 4, 4), (3, 4, 4)),
    ((2, 4, 2, 3), (2, 4, 5)),
]


def plainly(x, scale, shift):
    """The same with PyTorch's operators, and the modulation upsampled to the features."""
    scale, shift = (F.interpolate(each.permute(0, 3, 1, 2), x.shape[2:]) for each in (scale, shift))
    return F.silu(F.group_norm(x, GROUPS, eps=EPS) * scale + shift)


def fused(x, scale, shift, groups=GROUPS):
    return norm_silu(x, Modulation(scale, shift), groups, EPS)


def arguments(draw, shape, cells, dtype=torch.float64):
    x = (3 + 2 * draw(*shape, dtype=dtype)).contiguous(memory_format=torch.channels_last)
    scale, shift = (draw(*cells, shape[1], seed=seed, dtype=dtype) for seed in (1, 2))
    return tuple(each.requires_grad_() for each in (x, scale, shift))


@pytest.mark.parametrize(("shape", "cells"), SHAPES)
def test_equals_pytorchs_operators_with_gradients(draw, shape, cells):
    inputs = arguments(draw, shape, cells)
    expected, found = plainly(*inputs), fused(*inputs)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    gradient = draw(*shape, seed=3, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, inputs, gradient)
    for ours, theirs in zip(torch.autograd.grad(found, inputs, gradient), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(fused, inputs)


@pytest.mark.parametrize(("shape", "cells"), SHAPES)
def test_training_and_inference_are_equal(draw, shape, cells):
    for dtype in (torch.float32, torch.bfloat16):
        x, scale, shift = arguments(draw, shape, cells, dtype)
        trained = fused(x, scale, shift)
        with torch.no_grad():
            before = x.clone()
            assert torch.equal(fused(x, scale, shift), trained)
            assert torch.equal(x, before)
            assert torch.equal(norm_silu(x, Modulation(scale, shift), GROUPS, EPS, overwrite=True), trained)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(draw, dtype):
    """Features far from zero: their squares overflow float16, and bfloat16 cannot hold their sums."""
    eps = torch.finfo(dtype).eps
    x = (300 + 40 * draw(2, 16, 8, 8)).to(dtype).requires_grad_()
    ones = torch.ones(1, 1, 1, 16, dtype=dtype, requires_grad=True)
    zeros = torch.zeros(1, 1, 1, 16, dtype=dtype, requires_grad=True)
    gradient = draw(2, 16, 8, 8, seed=1).to(dtype)
    found = fused(x, ones, zeros)
    assert found.dtype == dtype
    wide = tuple(each.detach().float().requires_grad_() for each in (x, ones, zeros))
    expected = plainly(*wide)
    torch.testing.assert_close(found.float(), expected, atol=4 * eps, rtol=4 * eps)
    theirs = torch.autograd.grad(expected, wide, gradient.float())
    for ours, other in zip(torch.autograd.grad(found, (x, ones, zeros), gradient), theirs, strict=True):
        assert (ours.float() - other).norm() < 6 * eps * other.norm()


def test_keeps_its_input_alone(draw):
    kept = []
    inputs = arguments(draw, (2, 8, 32, 32), (2, 4, 4), torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        fused(*inputs)
        ours = sum(each.nbytes for each in kept)
        kept.clear()
        plainly(*inputs)
    modulation = inputs[1].nbytes + inputs[2].nbytes
    assert ours == inputs[0].nbytes + modulation
    assert sum(each.nbytes for each in kept) > 3 * ours


def test_features_may_be_anywhere_in_memory(draw):
    inputs = arguments(draw, (2, 4, 6, 8), (2, 3, 2))
    sliced = torch.cat([inputs[0].detach()] * 2, dim=1)[:, 2:6].contiguous(memory_format=torch.channels_last)
    wide = torch.stack([sliced, sliced], dim=-1)[..., 0]  # neither contiguous nor channels-last
    torch.testing.assert_close(fused(wide, *inputs[1:]), fused(sliced, *inputs[1:]), atol=1e-12, rtol=0)
    assert fused(wide, *inputs[1:]).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_are_those_of_float32(draw, dtype):
    x = (300 + 40 * draw(2, 16, 8, 8)).to(dtype)
    for ours, wide in zip(group_statistics(x, 4, EPS), group_statistics(x.float(), 4, EPS), strict=True):
        torch.testing.assert_close(ours, wide, atol=0, rtol=1e-5)


def test_the_compilers_operator_is_well_described(draw):
    for batch in (1, 3):
        x = draw(batch, 4, 6, 8).contiguous(memory_format=torch.channels_last)
        torch.library.opcheck(torch.ops.ssdd_decoder.group_statistics.default, (x, GROUPS, EPS))


@pytest.mark.slow
def test_compiled_loops_divide_no_index(draw):
    """Cells and groups must be loops of their own: an inner loop with a division cannot run in vectors."""
    from torch._inductor.utils import run_and_get_code

    inputs = [each.detach() for each in arguments(draw, (2, 64, 16, 16), (2, 4, 4), torch.bfloat16)]
    torch._dynamo.reset()
    with torch.no_grad():
        found, (code,) = run_and_get_code(torch.compile(fused, fullgraph=True), *inputs, 32)
        expected = fused(*(each.float() for each in inputs), 32)
        assert (found - expected).norm() < 1.01 * (fused(*inputs, 32) - expected).norm()
    assert "silu" in code
    assert "Vectorized<" in code
    assert "div_floor" not in code


def test_statistics_of_large_maps_are_exact(draw):
    """One sum over 2**20 features in float32, as PyTorch's group norm takes it, is off by 3e-4."""
    x = (1.3 * draw(1, 8, 1024, 1024) + 0.7).contiguous(memory_format=torch.channels_last)
    for each, exact in zip(group_statistics(x, 4, 1e-5), group_statistics(x.double(), 4, 1e-5), strict=True):
        torch.testing.assert_close(each.double(), exact, atol=1e-5, rtol=1e-5)
