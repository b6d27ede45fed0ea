"""Gradients have the strides of their weights, without a copy, so that DDP need not copy them either."""

import torch
import torch.nn.functional as F
from torch import nn

from ssdd.training.gradient_strides import keep_strides


class Pointwise(nn.Module):
    """A 1x1 kernel that is applied as a matrix, one that is convolved, and a 3x3 kernel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix, self.convolved, self.wide = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 3)

    def forward(self, x):
        h = F.linear(x.permute(0, 2, 3, 1), self.matrix.weight.flatten(1), self.matrix.bias).permute(0, 3, 1, 2)
        return self.wide(self.convolved(h))


def gradients(kept: bool) -> tuple[Pointwise, dict[str, int]]:
    """The module after a backward pass, and where its gradients lay before anything was accumulated."""
    module = Pointwise().to(memory_format=torch.channels_last)
    places: dict[str, int] = {}
    if kept:
        keep_strides(module.parameters())
    for name, parameter in module.named_parameters():
        parameter.register_hook(lambda gradient, name=name: places.__setitem__(name, gradient.data_ptr()))
    x = torch.linspace(-1, 1, 2 * 4 * 8 * 8).view(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    module(x).square().sum().backward()
    return module, places


def test_strides_are_kept_without_a_copy():
    without, _ = gradients(kept=False)
    assert without.matrix.weight.grad.stride() != without.matrix.weight.stride()
    module, places = gradients(kept=True)
    for (name, parameter), other in zip(module.named_parameters(), without.parameters(), strict=True):
        assert parameter.grad.stride() == parameter.stride(), name
        assert torch.equal(parameter.grad, other.grad)
    assert module.matrix.weight.grad.data_ptr() == places["matrix.weight"]


def test_a_gradient_that_lies_otherwise_in_memory_is_left_alone():
    weight = nn.Parameter(torch.zeros(3, 4, 1))
    keep_strides([weight])
    given = torch.arange(12.0).view(4, 3, 1).transpose(0, 1)
    weight.backward(given)
    assert torch.equal(weight.grad, given)
