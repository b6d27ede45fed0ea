"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    # Later examples go on where earlier ones stopped; those that need downloaded weights are fenced as `py`.
    for block in BLOCKS[: number + 1]:
        exec(block, names)


def test_there_are_examples():
    assert len(BLOCKS) >= 5
