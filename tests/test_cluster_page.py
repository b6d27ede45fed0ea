"""The files of the page about clusters: their syntax, and that the names in them are those of the project."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ssdd.parameters import RuntimeConfig
from ssdd.pipeline_registry import PIPELINES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "pipelines" / "docs" / "cluster.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


def commands() -> list[str]:
    """Each file's shell code or arguments, on one line."""
    texts = [*blocks("bash")]
    for text in blocks("yaml"):
        for document in yaml.safe_load_all(text):
            if "run" in document:
                texts.append(document["run"])
            elif document["kind"] == "Job":
                (container,) = document["spec"]["template"]["spec"]["containers"]
                texts.append(" ".join([*container["command"], *container["args"]]))
    return [text.replace("\\\n", " ") for text in texts]


def test_there_is_a_file_for_each_of_three_schedulers():
    assert {kind for kind, _ in BLOCKS} == {"bash", "yaml", "sh", "text"}  # text: for more GPUs than a test has
    assert len(commands()) == 3


@pytest.mark.parametrize("text", [*blocks("bash"), *blocks("text"), *(c for c in commands() if "torchrun" in c)])
def test_shell_code_is_sound(text):
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", commands())
def test_commands_name_what_there_is(text):
    assert re.search(r"-m +kedro run ", " ".join(text.split()))
    assert re.search(r"--pipeline=(\w+)", text)[1] in PIPELINES
    assert (ROOT / "conf" / re.search(r"--env=(\w+)", text)[1] / "parameters.yml").is_file()
    for name in re.findall(r"runtime\.(\w+)=", text):
        assert name in RuntimeConfig.model_fields


def test_slurm_requeues_after_the_code_that_the_run_is_given():
    (script,) = blocks("bash")
    code = re.search(r"runtime\.requeue_code=(\d+)", script)[1]
    assert re.search(rf"^  {code} \|", script, re.MULTILINE)
