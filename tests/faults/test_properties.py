"""Properties of any configuration and any split of a batch.

Those of shapes, step counts, network configurations and samplers are in the packages' tests and in
tests/data_layer/test_step_sampler.py.
"""

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd.parameters import MOST_STEPS, EvaluateParameters, StageParameters, TargetParameters
from ssdd.training.batches import pieces_per_process, split
from ssdd.training.teacher_targets import spans
from ssdd_decoder.times import MAX_STEPS

counts = st.integers(1, 64)
rates = st.floats(1e-8, 1e3)
stages = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 1_000_000),
        "batch_size": st.integers(1, 2**20),
        "precision": st.sampled_from(["no", "bf16", "fp16"]),
        "seed": st.integers(0, 2**63 - 1),
        "im_size": st.integers(8, 16_384),
        "aug_scale": st.floats(1, 8),
        "optim": st.fixed_dictionaries({"lr": rates, "weight_decay": st.floats(0, 1), "eps": rates}),
        "ema": st.fixed_dictionaries({"decay": st.floats(0, 1, exclude_max=True), "start_step": st.integers(0, 2**40)}),
        "loss": st.fixed_dictionaries({"perceptual": st.sampled_from(["lpips", "msgrad", "none"]), "kl": rates}),
        "eval_metrics": st.sampled_from(["full", "offline", ("psnr", "ssim")]),
    },
)
evaluations = st.fixed_dictionaries(
    {},
    optional={
        "teacher_steps": st.lists(st.integers(1, 10_000), min_size=1, max_size=5).map(tuple),
        "noise_seed": st.integers(0, 2**63 - 1),
        "limit": st.none() | counts,
    },
)


def test_parameters_and_sampler_have_one_limit():
    assert MOST_STEPS == MAX_STEPS  # the parameters import no torch, so each says it


@settings(deadline=None)
@given(values=stages)
def test_stages_survive_yaml_and_json(values):
    survives(StageParameters, values)


@settings(deadline=None)
@given(values=evaluations)
def test_evaluations_survive_yaml_and_json(values):
    survives(EvaluateParameters, values)


def survives(kind, values):
    """Written and read again it is the same, and it holds what was given."""
    made = kind(**values)
    assert kind.model_validate_json(made.model_dump_json()) == made
    assert kind.model_validate(yaml.safe_load(yaml.safe_dump(made.model_dump(mode="json")))) == made
    held = made.model_dump()
    for name, value in values.items():
        assert (value.items() <= held[name].items()) if isinstance(value, dict) else held[name] == value


@settings(deadline=None)
@given(size=counts, pieces=counts)
def test_a_split_batch_is_the_batch(size, pieces):
    batch = {"image": torch.arange(size * pieces * 2.0).view(-1, 2), "index": torch.arange(size * pieces)}
    parts = list(split(batch, pieces))
    assert [len(part["index"]) for part in parts] == [size] * pieces
    for name, whole in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), whole)


@settings(deadline=None)
@given(batch_size=st.integers(1, 512), processes=st.integers(1, 16), accumulation=st.integers(1, 16))
def test_a_batch_is_shared_evenly_or_refused(batch_size, processes, accumulation):
    config = StageParameters(batch_size=batch_size, accumulation=accumulation)
    if batch_size % (processes * accumulation):
        with pytest.raises(ValueError, match=f"got {batch_size}: change batch_size"):
            pieces_per_process(config, processes)
    else:
        assert pieces_per_process(config, processes) * processes * accumulation == batch_size


@given(images=st.integers(1, 5000), size=st.integers(1, 6000))
def test_shards_hold_each_image_once(images, size):
    found = spans(images, TargetParameters(shard_size=size))
    assert [index for first, last in found for index in range(first, last)] == list(range(images))
    assert all(0 < last - first <= size for first, last in found)
