"""Precision and recall of Kynkäänniemi et al. (2019), against examples worked by hand and a direct computation."""

import numpy as np
import pytest
import torch

from ssdd_metrics import PrecisionRecall, precision_recall

LINE = torch.tensor([[0.0], [1.0], [2.0], [10.0]])


@pytest.mark.parametrize(
    ("generated", "precision", "recall"),
    [
        # with k = 1 the balls of LINE have radii 1, 1, 1 and 8; those of the other set follow below
        ([0.5, 3.0], 1.0, 0.75),  # both inside; radii 2.5 each cover [-2, 5.5], but not 10
        ([-1.0, -1.5], 0.5, 0.0),  # -1 touches the ball round 0; radii 0.5 cover [-2, -0.5]
        ([18.0, 30.0], 0.5, 0.25),  # 18 touches the ball round 10; radii 12 reach down to 6
        ([100.0, 101.0], 0.0, 0.0),
    ],
)
def test_examples_on_a_line(generated, precision, recall):
    found = precision_recall(LINE, torch.tensor(generated)[:, None], neighbours=1)
    assert found == PrecisionRecall(precision, recall)


def direct(real, generated, k):
    def share(points, centres):
        inside = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = sorted(np.linalg.norm(centre - other) for j, other in enumerate(centres) if j != i)
                if np.linalg.norm(point - centre) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(points)

    return PrecisionRecall(share(generated, real), share(real, generated))


@pytest.mark.parametrize("k", [1, 3])
def test_a_direct_computation_gives_the_same(k):
    generator = torch.Generator().manual_seed(k)
    real = torch.randn(40, 5, generator=generator)
    generated = 0.7 * torch.randn(30, 5, generator=generator) + 0.4
    assert precision_recall(real, generated, k) == direct(real.double().numpy(), generated.double().numpy(), k)


def test_fewer_kinds_of_images_cost_recall_and_worse_ones_precision():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(300, 4, generator=generator)
    same = precision_recall(real, torch.randn(300, 4, generator=generator))
    narrow = precision_recall(real, 0.2 * torch.randn(300, 4, generator=generator))
    wide = precision_recall(real, 4 * torch.randn(300, 4, generator=generator))
    assert same.precision > 0.8
    assert same.recall > 0.8
    assert narrow.precision > 0.95
    assert narrow.recall < 0.5
    assert wide.precision < 0.4
    assert precision_recall(real, real) == PrecisionRecall(1.0, 1.0)


def test_repeated_images_are_neighbours_of_each_other():
    real = torch.tensor([[0.0], [0.0], [5.0]])
    assert precision_recall(real, torch.tensor([[0.0], [1.0]]), neighbours=1).precision == 1.0  # 5 has radius 5
    assert precision_recall(real[:2], torch.tensor([[0.0], [1.0]]), neighbours=1).precision == 0.5


@pytest.mark.parametrize(
    ("real", "generated", "said"),
    [
        (torch.zeros(3, 2), torch.zeros(9, 2), "more than 3 real features"),
        (torch.zeros(9, 2), torch.zeros(9), "more than 3 generated features"),
        (torch.zeros(9, 2), torch.zeros(9, 3), "equal feature sizes, got 2 and 3"),
        (torch.full((9, 2), torch.nan), torch.zeros(9, 2), "finite real features"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(real, generated, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        precision_recall(real, generated)
