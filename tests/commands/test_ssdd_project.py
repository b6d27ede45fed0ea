"""`ssdd project`: a folder in which kedro runs the installed pipelines."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_project_has_the_whole_configuration(ssdd, tmp_path):
    status, said, _ = ssdd("project", tmp_path / "a b/mine")
    mine = tmp_path / "a b/mine"
    assert (status, str(mine) in said) == (0, True)
    for file in (file for file in (ROOT / "conf").rglob("*") if file.is_file()):
        assert (mine / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    settings = tomllib.loads((mine / "pyproject.toml").read_text())["tool"]["kedro"]
    assert settings["package_name"] == "ssdd"
    assert (mine / ".telemetry").read_bytes() == (ROOT / ".telemetry").read_bytes()


def test_a_folder_with_files_is_left_alone(ssdd, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    status, _, error = ssdd("project", tmp_path)
    assert status == 1
    assert f"expected a new or empty folder, got {tmp_path}" in " ".join(error.split())
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
