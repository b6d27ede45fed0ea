"""Every command, its progress bar and its errors, on terminals that know few characters and have few columns.

The right value: the output decodes strictly in the terminal's own encoding, and the command ends as on any other.
"""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

CHARSETS = ["ascii", "cp1252", "latin-1", "utf-8", "cp437", "iso2022_jp"]
NAME = "grün 画 … ─ \u202e\U0001f600"


@pytest.fixture(scope="module")
def places(model, tmp_path_factory):
    """A project's files under names that few encodings hold."""
    from ssdd.lineage.stamps import Identity, Stamp, write_stamp

    root = tmp_path_factory.mktemp("narrow") / NAME
    (root / "in").mkdir(parents=True)
    Image.new("RGB", (24, 16), "red").save(root / f"in/{NAME}.png")
    (root / f"in/{NAME}.jpg").write_bytes(b"no picture")
    (root / "model.safetensors").write_bytes(model.read_bytes())
    rows = {"image": [0, 1], "path": [NAME, "b"], "model": [NAME, NAME], "steps": [1, 1], "psnr": [20.0, 30.0]}
    pd.DataFrame(rows).to_parquet(root / "a.parquet")
    identity = Identity(function=f"m:{NAME}", code={}, parameters={"a.b": NAME * 9}, inputs={}, packages={}, catalog={})
    about = {"run": NAME, "command": "kedro run " + NAME * 9, "why": [NAME], "files": {}}
    write_stamp(root / "a.parquet", Stamp(dataset="x", node="n", sha256="0" * 64, identity=identity, about=about))
    write_stamp(
        root / "model.safetensors", Stamp(dataset="x", node="n", sha256="0" * 64, identity=identity, about=about)
    )
    return root


def commands(root, out):
    model = ["--model", root / "model.safetensors"]
    return [
        ["encode", root / "in", "-o", out / f"{NAME}.safetensors", *model],
        ["decode", out / f"{NAME}.safetensors", "-o", out / NAME, *model],
        ["reconstruct", root / "in", "-o", out / f"re {NAME}", *model],
        ["z-stats", root / "in", "-o", out / f"{NAME}.json", *model, "--im-size", 16],
        ["info", root / "model.safetensors"],
        ["info", out / f"{NAME}.safetensors"],
        ["lineage", root / "a.parquet"],
        ["lineage", root / "a.parquet", "--json"],
        ["compare", root / "a.parquet", root / "a.parquet"],
        ["--help"],
        ["encode", "--help"],
    ]


@pytest.mark.parametrize("columns", [20, 80])
@pytest.mark.parametrize("charset", CHARSETS)
def test_every_command_ends_as_on_any_terminal(ssdd, places, tmp_path, tally, charset, columns):
    for arguments in commands(places, tmp_path):
        status, said, beside = ssdd(*arguments, charset=charset, columns=columns)  # decodes strictly
        assert status == 0, beside
        assert said.strip()
        if "--json" in arguments:
            [stamp] = json.loads(said).values()
            assert stamp["about"]["run"] == NAME
        tally("narrow terminals", tried=1, survived=1)


@pytest.mark.parametrize("charset", CHARSETS)
def test_every_error_is_said(ssdd, places, tmp_path, tally, charset):
    for arguments in (
        ["info", places / "in" / f"{NAME}.png"],
        ["info", NAME],
        ["lineage", places / "in" / f"{NAME}.png"],
        ["compare", places / "in" / f"{NAME}.png", places / "a.parquet"],
        ["compare", places / "a.parquet", places / "a.parquet", "--model-a", f"other {NAME}"],
        ["encode", places / f"{NAME} no", "-o", tmp_path / "x", "--model", "demo"],
        ["decode", places / "model.safetensors", "-o", tmp_path / "x", "--model", places / "model.safetensors"],
        [NAME],
    ):
        status, _, beside = ssdd(*arguments, charset=charset)
        assert status in (1, 2)
        assert "Error: " in beside
        assert "Traceback" not in beside
        tally("narrow terminals", tried=1, survived=1)


def test_what_the_encoding_holds_is_shown(ssdd, places):
    said = ssdd("compare", places / "a.parquet", places / "a.parquet", charset="utf-8")[1]
    assert "grün 画" in said
    assert "gr\\xfcn" in ssdd("compare", places / "a.parquet", places / "a.parquet", charset="ascii")[1]


@pytest.mark.slow
@pytest.mark.parametrize("charset", ["ascii", "cp1252", "utf-8"])
def test_real_terminals(places, tmp_path, charset):
    environment = {**os.environ, "PYTHONIOENCODING": f"{charset}:strict", "COLUMNS": "40", "TERM": "xterm"}
    environment["FORCE_COLOR"] = "1"  # rich draws bars as on a terminal
    for arguments in (
        ["lineage", places / "a.parquet"],
        ["reconstruct", places / "in", "-o", tmp_path / NAME, "--model", places / "model.safetensors"],
    ):
        code = "from ssdd.commands import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode(charset)
        done.stderr.decode(charset)


@pytest.mark.slow
@pytest.mark.parametrize("charset", ["ascii", "cp1252"])
def test_a_plan_and_its_error_in_few_characters(project, charset):
    environment = project.environment | {"PYTHONIOENCODING": f"{charset}:strict", "COLUMNS": "40"}
    command = [sys.executable, "-m", "kedro", "run", "--env=tiny", "--plan"]
    for name, status in (("x" * 90, 0), (NAME, 1)):
        done = subprocess.run(
            [*command, f"--params=run_name={name}"], cwd=project.folder, env=environment, capture_output=True
        )
        said = done.stdout.decode(charset) + done.stderr.decode(charset)
        assert done.returncode == status, said
        assert ("report" if status == 0 else "expected a run_name") in said
        assert "Traceback" not in said
