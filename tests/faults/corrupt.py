"""Alters one file of a finished run at a time and checks that it is noticed: corrupt.py RUN SEED COUNT.

Runs in a project's folder, in a child of the fork server. Prints a line of JSON: how many files of each kind were
altered, and which alterations were not noticed.
"""

import collections
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from safetensors.torch import load_file

from ssdd import SSDD
from ssdd.lineage.content_hashes import Hashes
from ssdd.lineage.fingerprint import Fingerprints
from ssdd.lineage.plan import plan
from ssdd.lineage.stamps import read_stamp
from ssdd.lineage.state_folders import state_kind
from ssdd.training.state_store import StateStore
from ssdd.training.teacher_targets import sound_shards

ARTEFACTS = {  # by kind; each kind is altered equally often
    "checkpoints": "models/*.safetensors",
    "shards": "training/teacher_targets/*",
    "index": "images/*.*",
    "histories": "training/*.csv",
    "results": "evaluation/*",
    "figures": "report/*",
}


def alter(content: bytes, chance: random.Random) -> bytes:
    """Cuts, flips, zeroes or swaps; never returns the same."""
    while True:
        bad = bytearray(content)
        place = chance.randrange(len(bad)) if chance.random() < 0.7 else chance.randrange(min(len(bad), 3000))
        length = chance.choice([1, 1, 8, 64, 4096])
        kind = chance.choice(["truncate", "flip", "zero", "swap"])
        if kind == "truncate":
            del bad[place:]
        elif kind == "flip":
            bad[place] ^= 1 << chance.randrange(8)
        elif kind == "zero":
            bad[place : place + length] = bytes(len(bad[place : place + length]))
        else:
            other = chance.randrange(len(bad))
            a, b = bad[place : place + length], bad[other : other + length]
            if len(a) == len(b) and abs(place - other) >= length:
                bad[place : place + length], bad[other : other + length] = b, a
        if bytes(bad) != content:
            return bytes(bad)


class Restored:
    """Stands for a training state; remembers what it was restored from."""

    step, best = -1, ""

    def wants(self, name: str) -> bool:
        return False  # no tensor is looked at

    def restore(self, tensors: dict, document: dict) -> None:
        self.step, self.best = document["progress"]["step"], document["progress"]["best"]["file"]


class Run:
    """A finished run and its plan."""

    def __init__(self, session: KedroSession, name: str) -> None:
        self.folder = Path("data") / name
        self.pipeline = pipelines["distill"]
        self.catalog = session.load_context().catalog
        self.hashes = Hashes(Path("data/.hashes.sqlite"))
        self.fingerprints = Fingerprints(self.pipeline, self.catalog, self.hashes, "ssdd")
        self.producers = {
            Path(path).resolve(): node.name
            for node in self.pipeline.nodes
            for path in self.fingerprints.output_files(node).values()
            if path is not None
        }
        self.state = self.folder / "state" / "distill.distill_teacher"
        self.marker = json.loads((self.state / "lineage.json").read_text())

    def is_redone(self, file: Path) -> bool:
        """Whether the node that made the file is to run again."""
        file = file.resolve()
        node = self.producers.get(file) or self.producers[file.parent]
        decisions = {item.node: item.action for item in plan(self.pipeline, self.fingerprints, self.folder)}
        return decisions[node] in ("run", "resume", "continue")

    def restored(self) -> Restored:
        """The state that the training would continue from; step -1 for none."""
        state = Restored()
        StateStore(self.state, self.marker["fingerprint"]).load(state, 10**6)  # type: ignore[arg-type]
        return state


def noticed(kind: str, file: Path, run: Run, good: dict) -> bool:
    """Whether an altered file is redone or refused, and not used."""
    if kind == "stamps":
        artefact = file.with_name(file.name.removesuffix(".lineage.json"))
        return read_stamp(artefact) is None and run.is_redone(artefact)
    if kind == "states":
        if file.name == "lineage.json":
            found = state_kind(run.state, run.marker["fingerprint"], run.marker["extends"])
            return found in ("other", "raised")  # raised: the state itself says how far it is
        used = run.restored()
        return used.best != file.name and not file.name.startswith(f"state-{used.step:08d}")
    if kind == "checkpoints":
        try:
            model = SSDD.from_pretrained(file)
        except ValueError as error:
            return len(str(error)) < 2000 and run.is_redone(file)
        same = all(torch.equal(value, good[file][key]) for key, value in model.state_dict().items())
        return same and run.is_redone(file)  # the name of an entry that decides nothing
    if kind == "shards" and file.suffix == ".safetensors":
        return file not in sound_shards(file.parent, good["targets"]).values() and run.is_redone(file)
    return run.is_redone(file)


def main(name: str, seed: str, count: int) -> None:
    chance = random.Random(seed)
    bootstrap_project(Path.cwd())
    params = {"run_name": name, "distill": {"epochs": 3}}
    with KedroSession.create(Path.cwd(), env="tiny", runtime_params=params) as session:
        run = Run(session, name)
        kinds = {kind: sorted(run.folder.glob(pattern)) for kind, pattern in ARTEFACTS.items()}
        kinds = {k: [f for f in files if f.is_file() and ".lineage." not in f.name] for k, files in kinds.items()}
        kinds["stamps"] = sorted(run.folder.glob("*/*.lineage.json"))
        states = [*run.state.glob("state-*.safetensors"), *run.state.glob("best-*.safetensors")]
        kinds["states"] = sorted([*states, run.state / "lineage.json"])
        good: dict = {file: load_file(file) for file in kinds["checkpoints"]}
        good["targets"] = (run.folder / "training/teacher_targets/fingerprint.txt").read_text()
        assert run.restored().step == 24, "the run is not whole"
        untouched = {item.action for item in plan(run.pipeline, run.fingerprints, run.folder)}
        assert untouched <= {"up to date", "not needed"}, untouched
        told = SimpleNamespace(tried=collections.Counter(), missed=[])
        for number in range(count):
            kind = sorted(kinds)[number % len(kinds)]
            file = chance.choice(kinds[kind])
            content = file.read_bytes()
            file.unlink()  # it may be a link
            file.write_bytes(alter(content, chance))
            try:
                if not noticed(kind, file, run, good):
                    told.missed.append(f"{number}: {file}")
            except Exception as error:
                told.missed.append(f"{number}: {file}: {type(error).__name__}: {error}")
            file.write_bytes(content)
            told.tried[kind] += 1
        print(json.dumps(vars(told)))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
