"""The page on latents: its `ssdd` commands and its Python blocks run as written, in their order."""

import re
import shlex
from pathlib import Path

import torch
from click.testing import CliRunner

from ssdd import SSDD
from ssdd.commands.group import cli

PAGE = Path(__file__).parents[2] / "packages/ssdd-encoder/docs/latents.md"


def test_the_page_runs_as_written(tmp_path, monkeypatch, classes, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(classes)
    torch.manual_seed(0)
    model = SSDD("debug", "debug").save_pretrained(tmp_path / "quickstart.safetensors")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    commands, names = 0, {}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), names)
            continue
        for line in text.splitlines():
            words = shlex.split(line.replace("--model quickstart", f"--model {model}"))
            assert words[:2] == ["uv", "run"]
            if words[2] == "ssdd":  # Kedro's pipeline is run elsewhere
                done = CliRunner().invoke(cli, words[3:])
                assert done.exit_code == 0, done.output
                commands += 1
    assert commands == 5
    assert "cat/004.png 0 (4, 8, 8)" in capsys.readouterr().out
    assert names["images"].shape == (4, 4, 8, 8)
    assert sorted(path.name for path in (tmp_path / "decoded/cat").iterdir())[0] == "000.png"
