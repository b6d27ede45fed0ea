"""An optimiser that is divided between two ranks: the bits of a whole one, half the memory, a state in two files."""

import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssdd.training.history import read_rows
from ssdd.training.resume_state import Snapshot
from ssdd.training.state_store import StateStore

TWO = {"processes": 2}
SHARDED = {"processes": 2, "sharding": "optimizer"}
SEED = int(os.environ.get("SSDD_FAULT_SEED", "0"))


@pytest.fixture(scope="module")
def sharded(run_toy, options, tmp_path_factory):
    """The folder of a run with a divided optimiser that nothing disturbed."""
    folder = tmp_path_factory.mktemp("sharded")
    codes, output = run_toy(folder, options(runtime=SHARDED))
    assert codes == [0], output
    return folder


def parts(folder: Path, step: int) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(folder.glob(f"state-{step:08d}-*"))]


@pytest.mark.slow
def test_a_divided_optimiser_gives_the_bits_of_a_whole_one(run_toy, options, sharded, tmp_path):
    codes, output = run_toy(tmp_path, options(runtime=TWO))
    assert codes == [0], output
    for name in ("history.csv", "last.safetensors", "best-00000040.safetensors"):
        assert (sharded / name).read_bytes() == (tmp_path / name).read_bytes()
    (whole,), divided = parts(tmp_path, 40), parts(sharded, 40)
    assert len(divided) == 2
    joined = {name: value for part in divided for name, value in part.items()}
    assert len(joined) == sum(map(len, divided))  # no rank has what another one has
    assert joined.keys() == whole.keys()
    assert all(torch.equal(joined[name], value) for name, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["optimizer.", "ema."])
def test_each_rank_holds_half_of_the_bytes(sharded, kind):
    held = [sum(v.nbytes for name, v in part.items() if name.startswith(kind)) for part in parts(sharded, 40)]
    weights = sum(value.nbytes for value in load_file(sharded / "last.safetensors").values())
    assert sum(held) == weights * (2 if kind == "optimizer." else 1)  # z and the second moment
    assert max(held) < 0.6 * sum(held)
    assert not any(name.startswith("network.") for name in parts(sharded, 40)[1])


@pytest.mark.slow
def test_killed_runs_go_on_exactly_with_the_switch_either_way(run_toy, options, results, sharded, tmp_path):
    first, second = sorted(random.Random(f"{SEED} sharded").sample(range(4, 38), 2))
    kills = [options(runtime=SHARDED, kill_at=[1, first]), options(runtime=TWO, term_at=second, term_parent=True)]
    codes, output = run_toy(tmp_path, *kills, options(runtime=SHARDED))
    drawn = f"SSDD_FAULT_SEED={SEED}, killed at {first} and stopped at {second}"
    assert codes == [1, 143, 0], f"{drawn}: {output}"
    assert results(tmp_path) == results(sharded), drawn


@pytest.mark.slow
def test_a_state_of_three_ranks_goes_on_with_one(run_toy, options, sharded, tmp_path):
    three = options(runtime={"processes": 3, "sharding": "optimizer"}, kill_all_at=23)
    run_toy(tmp_path, three)
    before = read_rows(tmp_path / "history.csv")
    assert before[-1]["step"] in (15, 20)
    assert len(parts(tmp_path, 18)) == 3
    codes, output = run_toy(tmp_path, options())
    assert codes == [0], output
    rows = read_rows(tmp_path / "history.csv")
    assert rows[: len(before)] == before
    for row, other in zip(rows, read_rows(sharded / "history.csv"), strict=True):
        assert row.keys() == other.keys()
        for name in {"loss", "gradient_norm", "error"} & row.keys():
            assert row[name] == pytest.approx(other[name], rel=1e-4)
    assert [len(path.name.split("-")) for path in sorted(tmp_path.glob("state-*"))] == [3, 3]  # no parts are left


def snapshot(step: int, rank: int, content: float = 0.0) -> Snapshot:
    tensors = {f"ema.{rank}": torch.full((2,), step + content)}
    return Snapshot(step, tensors, {"progress": {"step": step, "best": None}})


class Kept:
    """Stands for a training state of one rank."""

    def __init__(self, rank: int):
        self.rank, self.tensors, self.step = rank, {}, 0

    def wants(self, name: str) -> bool:
        return name == f"ema.{self.rank}"

    def restore(self, tensors, document) -> None:
        self.tensors, self.step = tensors, document["progress"]["step"]


def save(folder: Path, step: int, *ranks: int, of: int = 2, content: float = 0.0) -> list[Path]:
    return [StateStore(folder, "f", rank, of).save(snapshot(step, rank, content)) for rank in ranks]


def test_a_state_counts_only_when_all_its_parts_are_there_and_sound(tmp_path):
    store = StateStore(tmp_path, "f", 1, 2)
    save(tmp_path, 3, 1, 0)
    save(tmp_path, 6, 0)
    assert [path.name[:24] for path in store.newest(9)] == ["state-00000003-0000-0002", "state-00000003-0001-0002"]
    (late,) = save(tmp_path, 6, 1)
    state = Kept(1)
    assert store.load(state, 9)
    assert state.step == 6
    assert state.tensors.keys() == {"ema.1"}
    assert torch.equal(state.tensors["ema.1"], torch.full((2,), 6.0))
    assert store.newest(5)[0].name.startswith("state-00000003")
    content = bytearray(late.read_bytes())
    content[-1] ^= 1
    late.write_bytes(content)
    assert store.newest(9)[0].name.startswith("state-00000003")
    assert StateStore(tmp_path, "g").newest(9) == []


def steps(folder: Path) -> list[str]:
    return sorted(path.name[6:24] if path.name.count("-") > 2 else path.name[6:14] for path in folder.glob("state-*"))


def test_the_last_two_whole_states_stay_and_what_is_still_written(tmp_path):
    save(tmp_path, 3, 1, 0)
    save(tmp_path, 6, 1, 0)
    save(tmp_path, 9, 0)  # rank 1 is late
    save(tmp_path, 12, 0)
    later = ["00000009-0000-0002", "00000012-0000-0002"]
    both = [f"0000000{step}-000{rank}-0002" for step in (3, 6) for rank in (0, 1)]
    assert steps(tmp_path) == sorted(both + later)
    save(tmp_path, 9, 1)
    save(tmp_path, 12, 1)
    StateStore(tmp_path, "f", 0, 2).prune(12)
    assert steps(tmp_path) == [f"000000{step}-000{rank}-0002" for step in ("09", "12") for rank in (0, 1)]
    StateStore(tmp_path, "f").save(snapshot(12, 0))  # the same step, saved by one process for all
    assert steps(tmp_path) == ["00000009-0000-0002", "00000009-0001-0002", "00000012"]
    save(tmp_path, 8, 0, of=3)  # of a run that goes on from an earlier step
    assert steps(tmp_path) == ["00000008-0000-0003"]


def test_a_state_never_consists_of_two_runs(tmp_path):
    save(tmp_path, 3, 0, 1)
    save(tmp_path, 6, 1)
    store = StateStore(tmp_path, "f", 0, 2)
    store.drop_parts(3, 9)
    save(tmp_path, 6, 0, content=0.5)  # the run that goes on from step 3 is killed before rank 1 has written
    assert store.newest(9)[0].name.startswith("state-00000003")
