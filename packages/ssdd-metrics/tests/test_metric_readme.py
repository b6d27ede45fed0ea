"""The examples of README and guide run as they stand, one after the other."""

import re
from pathlib import Path
from unittest import mock

from ssdd_metrics.registry import METRICS

PAGES = [Path(__file__).parents[1] / name for name in ("README.md", "docs/guide.md")]


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Examples that need downloaded weights are fenced as `py`.
    blocks = re.findall(r"```python\n(.*?)```", "\n".join(page.read_text() for page in PAGES), re.DOTALL)
    assert len(blocks) >= 5
    names: dict = {}
    with mock.patch.dict(METRICS):  # an example adds a metric, which other tests must not see
        for block in blocks:
            exec(block, names)
        assert {"psnr", "largest_error"} <= names["suite"].compute().keys()
    assert names["first"].compute()["swd"] == names["numbers"]["swd"]
