"""Parameter groups, the schedule-free point of use, and the moving average."""

import pytest
import torch
from torch import nn

from ssdd.parameters import EmaConfig, OptimConfig
from ssdd.training.ema import Ema
from ssdd.training.optim import build_optimizer, learning_rate, parameter_groups, swapped, usable_weights
from ssdd_decoder import Decoder


def names_of(module: nn.Module, group: dict) -> set[str]:
    found = {id(p) for p in group["params"]}
    return {name for name, p in module.named_parameters() if id(p) in found}


def test_weights_of_linears_convs_and_norms_decay_and_nothing_else():
    decoder = Decoder("debug")
    decayed, plain = parameter_groups([decoder], 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    first, second = names_of(decoder, decayed), names_of(decoder, plain)
    assert first | second == {name for name, _ in decoder.named_parameters()}
    assert all(name.endswith(".weight") for name in first)
    assert all(name.endswith((".bias", "relative_bias_table")) for name in second)
    assert "conv_norm_out.weight" in first
    assert any("relative_bias_table" in name for name in second)


def test_embeddings_and_free_vectors_do_not_decay_and_frozen_parts_do_not_train():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.linear, self.frozen = nn.Embedding(3, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.free = nn.Parameter(torch.zeros(2))
            self.frozen.requires_grad_(False)

    module = Mixed()
    decayed, plain = parameter_groups([module], 0.1)
    assert names_of(module, decayed) == {"linear.weight"}
    assert names_of(module, plain) == {"embedding.weight", "linear.bias", "free"}
    with pytest.raises(ValueError, match="every network is frozen"):
        parameter_groups([module.frozen], 0.1)


def trained(kind: str, steps: int = 12):
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    optimizer = build_optimizer([net], OptimConfig(optimizer=kind, lr=0.05))
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    return net, optimizer


def test_usable_weights_are_what_the_library_evaluates_at_and_touch_nothing():
    net, optimizer = trained("radam_schedulefree")
    parameters = list(net.parameters())
    live = [p.detach().clone() for p in parameters]
    weights = usable_weights(optimizer, parameters)
    assert all(torch.equal(a, b) for a, b in zip(parameters, live, strict=True))
    assert not torch.equal(weights[0], live[0])
    optimizer.eval()
    assert all(torch.equal(a, b) for a, b in zip(parameters, weights, strict=True))
    assert learning_rate(optimizer) == optimizer.param_groups[0]["scheduled_lr"] > 0


def test_adamw_is_used_where_it_trains():
    net, optimizer = trained("adamw")
    assert all(a is b for a, b in zip(usable_weights(optimizer, list(net.parameters())), net.parameters(), strict=True))
    assert learning_rate(optimizer) == 0.05


def test_swapped_weights_come_back_bit_for_bit_even_after_an_error():
    net = nn.Linear(3, 3)
    own = [p.detach().clone() for p in net.parameters()]

    def fail():
        with swapped(list(net.parameters()), [torch.ones_like(p) for p in own]):
            assert all((p == 1).all() for p in net.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), own, strict=True))


def test_moving_average_follows_then_warms_up_then_settles():
    ema = Ema(EmaConfig(decay=0.9, start_step=3))
    assert [ema.decay(step) for step in (1, 3, 4)] == [0.0, 0.0, 0.0]
    assert ema.decay(5) == pytest.approx(2 / 11)
    assert ema.decay(6) == pytest.approx(3 / 12)
    assert ema.decay(10_000) == 0.9
    expected = None
    for step in range(1, 60):
        weight = torch.tensor([float(step) ** 2])
        ema.update(step, [weight])
        if step <= 3:
            assert ema.average is None
            continue
        n = step - 4
        decay = 0.0 if n <= 0 else min(0.9, (1 + n) / (10 + n))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
        assert ema.average is not None
        torch.testing.assert_close(ema.average[0], expected)


def test_published_moving_average_starts_at_50000():
    ema = Ema(EmaConfig())
    assert not ema.due(50_000)
    assert ema.due(50_001)
    assert ema.decay(10**7) == 0.999


@pytest.mark.parametrize("kind", ["radam_schedulefree", "adamw"])
def test_learns(kind):
    net, _ = trained(kind, 200)
    assert sum(p.square().sum() for p in net.parameters()) < 0.5
