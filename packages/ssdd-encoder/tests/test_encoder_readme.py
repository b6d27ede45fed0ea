"""The Python blocks of README and guide run as written, one after the other."""

import re
from pathlib import Path


def test_readme_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages = [Path(__file__).parents[1] / name for name in ("README.md", "docs/guide.md")]
    text = "\n".join(page.read_text() for page in pages)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
