"""A small Kedro project with the real runner, hooks, command line and datasets.

source (CSV a person wrote) -> clean -> table -> measure -> (features, in memory) -> train -> weights +
history -> draw -> figure; history + weights -> tell -> summary
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "toy"
        project_name = "toy"
        kedro_init_version = "1.7.0"
        source_dir = "pipelines"
        """,
    "conf/base/globals.yml": "run_name: first\n",
    "conf/base/parameters.yml": """
        run_name: ${globals:run_name}
        teacher: null
        clean: {limit: 100}
        train: {lr: 0.5, epochs: 3, log_every: 1, optim: {decay: 0.0}}
        tell: {title: hello}
        runtime: {device: cpu, workers: 0, pause: 0.0}
        """,
    "conf/base/catalog.yml": """
        _run: data/${runtime_params:run_name,${globals:run_name}}
        source: {type: ssdd.datasets.TableDataset, filepath: source.csv}
        table: {type: ssdd.datasets.TableDataset, filepath: "${_run}/table.csv"}
        weights: {type: ssdd.datasets.CheckpointDataset, filepath: "${_run}/weights.safetensors"}
        weights_best: {type: ssdd.datasets.CheckpointDataset, filepath: "${_run}/weights_best.safetensors"}
        history: {type: ssdd.datasets.JSONDataset, filepath: "${_run}/history.json"}
        figure: {type: ssdd.datasets.PNGDataset, filepath: "${_run}/figure.png"}
        summary: {type: ssdd.datasets.TextDataset, filepath: "${_run}/summary.txt"}
        """,
    "conf/other/parameters.yml": "train: {lr: 0.25}\n",
    "source.csv": "x\n1\n2\n3\n",
    "pipelines/toy/__init__.py": "",
    "pipelines/toy/settings.py": """
        from dataclasses import replace

        from ssdd.hooks import ProjectHooks
        from ssdd.lineage.project_rules import ReplaceableDataset
        from ssdd.settings import *

        TEACHER = ReplaceableDataset("weights", best="weights_best", replaces=("data", "training"))
        RULES = replace(RULES, replaceable={"teacher": TEACHER})
        HOOKS = (ProjectHooks(RULES), RULES)
        """,
    "pipelines/toy/cli.py": "from ssdd.cli import cli\n",
    "pipelines/toy/notes.py": """
        import os
        from pathlib import Path

        def note(name):
            with open(os.environ["TOY_LOG"], "a") as file:
                file.write(name + chr(10))
        """,
    "pipelines/toy/parameters.py": """
        from typing import ClassVar
        from pydantic import BaseModel

        class Strict(BaseModel, frozen=True, extra="forbid"):
            pass

        class Optim(Strict):
            decay: float = 0.0

        class Train(Strict):
            extends: ClassVar[tuple[str, ...]] = ("epochs",)
            neutral: ClassVar[tuple[str, ...]] = ("log_every",)
            lr: float
            epochs: int
            log_every: int
            optim: Optim = Optim()

        class Runtime(Strict):
            device: str
            workers: int
            pause: float
        """,
    "pipelines/toy/helper.py": '''
        """Helps."""
        FACTOR = 2.0

        def step(weight, lr):
            """Takes a step."""
            # halves, or so
            return weight + lr * FACTOR

        def unrelated():
            return 1
        ''',
    "pipelines/toy/nodes.py": """
        from toy.notes import note
        from toy.parameters import Runtime, Train

        def clean(source, clean):
            note("clean")
            return source[source.x < clean["limit"]]

        def measure(table):
            note("measure")
            return {"mean": float(table.x.mean())}

        def draw(weights):
            note("draw")
            import numpy
            size = int(weights.stat().st_size) % 16 + 1
            return numpy.zeros((size, size, 3), dtype=numpy.uint8)

        def tell(weights, history, tell):
            note("tell")
            told = "no history" if history is None else str(len(history))
            return f"{tell['title']}: {told} epochs, {weights.name}" + chr(10)
        """,
    "pipelines/toy/training.py": """
        import json, os, signal, time

        import numpy
        from safetensors.numpy import save_file
        from toy.notes import note
        from toy.parameters import Runtime, Train
        from ssdd.files import atomic_write
        from ssdd.lineage import current_fingerprint, state_folder

        def train(features, train: Train, runtime: Runtime):
            from toy.helper import step
            folder = state_folder()
            file = folder / "state.json"
            state = {"weight": features["mean"], "losses": []}
            if file.exists():
                state = json.loads(file.read_text())
            note(f"train from {len(state['losses'])}")
            while len(state["losses"]) < train.epochs:
                state["weight"] = step(state["weight"], train.lr)
                state["losses"].append(state["weight"])
                time.sleep(runtime.pause)
                with atomic_write(file) as temporary:
                    temporary.write_text(json.dumps(state))
                note(f"epoch {len(state['losses'])}")
            for name in ("weights", "weights_best"):
                save_file({"w": numpy.full((4,), state["weight"])}, folder / f"{name}.safetensors")
            return folder / "weights.safetensors", folder / "weights_best.safetensors", state["losses"]
        """,
    "pipelines/toy/pipeline_registry.py": """
        from kedro.pipeline import Pipeline, node
        from toy.nodes import clean, draw, measure, tell
        from toy.training import train

        def register_pipelines():
            data = Pipeline(
                [
                    node(clean, ["source", "params:clean"], "table", name="clean", tags=["early"]),
                    node(measure, "table", "features", name="measure"),
                ],
                namespace="data", inputs={"source"}, outputs={"table", "features"},
                parameters={"params:clean"},
            )
            training = Pipeline(
                [
                    node(
                        train,
                        ["features", "params:train", "params:runtime"],
                        ["weights", "weights_best", "history"],
                        name="train", tags=["distributed"],
                    )
                ],
                namespace="training", inputs={"features"}, outputs={"weights", "weights_best", "history"},
                parameters={"params:train", "params:runtime"},
            )
            telling = Pipeline(
                [
                    node(draw, "weights", "figure", name="draw", tags=["late"]),
                    node(tell, ["weights", "history", "params:tell"], "summary", name="tell"),
                ]
            )
            return {"__default__": data + training + telling, "training": data + training}
        """,
}
LOGGING = Path(__file__).parents[2] / "conf" / "logging.yml"


class Project:
    """The toy project; `run` returns what its nodes noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        self.data = folder / "data" / "first"
        self.environment = {**os.environ, "TOY_LOG": str(self.log), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / "pipelines" / "toy" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def load(self) -> None:
        """Loads the project as a new process does."""
        from kedro.framework.startup import bootstrap_project

        _forget_toy()
        bootstrap_project(self.folder)

    def run(
        self,
        runner: object = None,
        env: str | None = None,
        params: dict | None = None,
        again: bool = True,
        **options,
    ) -> list[str]:
        """Runs in this process as a new script does; not `again`: as a notebook that goes on."""
        from kedro.framework.session import KedroSession

        if again:
            self.load()
        self.log.write_text("")
        with KedroSession.create(self.folder, env=env, runtime_params=params) as session:
            session.run(runner=runner, **options)
        return self.notes()

    def notes(self) -> list[str]:
        return self.log.read_text().split("\n")[:-1]

    def plan(self, params: dict | None = None, force: bool = False) -> dict[str, tuple[str, str]]:
        """Returns node -> (decision, why), as `--plan` shows it."""
        from kedro.framework.project import pipelines
        from kedro.framework.session import KedroSession

        from ssdd.lineage.content_hashes import Hashes
        from ssdd.lineage.fingerprint import Fingerprints
        from ssdd.lineage.plan import plan

        with KedroSession.create(self.folder, runtime_params=params) as session, Hashes() as hashes:
            catalog = session.load_context().catalog
            pipeline = pipelines["__default__"]
            decisions = plan(pipeline, Fingerprints(pipeline, catalog, hashes, "toy"), self.data, force)
        return {item.node.rpartition(".")[2]: (item.action, item.why) for item in decisions}

    def start(self, *arguments: str) -> subprocess.Popen:
        """Starts the command line in a process of its own."""
        self.log.write_text("")
        return subprocess.Popen(
            [sys.executable, "-m", "kedro", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kedro(self, *arguments: str) -> tuple[int, str]:
        """Runs the command line in a process of its own; returns its exit code and all that it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output


def _forget_toy() -> None:
    for name in [name for name in sys.modules if name == "toy" or name.startswith("toy.")]:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    toy = Project(tmp_path / "project")
    for name, text in FILES.items():
        toy.write(name, text)
    toy.write("conf/logging.yml", LOGGING.read_text())
    toy.write(".telemetry", "consent: false\n")
    monkeypatch.setenv("TOY_LOG", str(toy.log))
    monkeypatch.chdir(toy.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    toy.load()
    yield toy
    _forget_toy()
