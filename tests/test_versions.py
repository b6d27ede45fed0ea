"""Versions: one for all packages, and what the releases before have promised still holds, or the changelog says so."""

import importlib.util
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "ssdd": ROOT,
    **{name: ROOT / "packages" / name for name in ("ssdd-encoder", "ssdd-decoder", "ssdd-metrics")},
}
CHANGELOGS = {
    name: (ROOT / "pipelines" if folder == ROOT else folder) / "CHANGELOG.md" for name, folder in PACKAGES.items()
}
RELEASES = sorted(folder.name for folder in (ROOT / "tests/data/releases").iterdir())


@pytest.fixture(scope="module")
def record() -> Any:
    """The module that records a release."""
    spec = importlib.util.spec_from_file_location("release_record", Path(__file__).with_name("release_record.py"))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared() -> dict[str, str]:
    """Package -> its version."""
    read = {name: tomllib.loads((folder / "pyproject.toml").read_text("utf-8")) for name, folder in PACKAGES.items()}
    return {name: content["project"]["version"] for name, content in read.items()}


def newest_section(package: str) -> tuple[str, str]:
    """The first heading of a changelog, and what stands below it."""
    _, heading, text, *_ = re.split(r"^## (.*)\n", CHANGELOGS[package].read_text("utf-8"), flags=re.MULTILINE)
    return heading, text


def test_there_is_one_version_everywhere():
    (version,) = set(declared().values())
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    for name, folder in PACKAGES.items():
        module = name.replace("-", "_")
        source = ROOT / "pipelines/ssdd" if name == "ssdd" else folder / "src" / module
        assert f'__version__ = "{version}"' in (source / "__init__.py").read_text("utf-8") or name == "ssdd-metrics"
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    if tag := os.environ.get("SSDD_RELEASE"):
        assert tag == f"v{version}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_changelog_begins_with_the_present_version(package):
    heading, text = newest_section(package)
    version = declared()[package]
    assert heading in ((version,) if "SSDD_RELEASE" in os.environ else (version, f"{version} (unreleased)"))
    assert re.search(r"^- ", text, re.MULTILINE), f"{CHANGELOGS[package]} says nothing of {version}"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("package", PACKAGES)
def test_a_break_of_the_public_interface_stands_in_the_changelog(record, tmp_path, release, package):
    griffe = pytest.importorskip("griffe", reason="needs the group docs")
    broken = breakages(griffe, record, tmp_path, release, package)
    _, text = newest_section(package)
    silent = [what for name, what in broken if f"`{name}" not in text and f".{name}" not in text]
    assert not silent, f"name these in {CHANGELOGS[package]}, or take the change back: {silent}"


def breakages(griffe: Any, record: Any, folder: Path, release: str, package: str) -> list[tuple[str, str]]:
    """Name and explanation of each break of a package since a release."""
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new/interface.py").write_text(record.stubs()[package], "utf-8")
    (folder / "old").mkdir(exist_ok=True)
    (folder / "old/interface.py").write_text((record.RECORDS / release / f"{package}.pyi").read_text("utf-8"), "utf-8")
    old, new = (griffe.load("interface", search_paths=[folder / side]) for side in ("old", "new"))
    return [
        (broken.obj.name, broken.explain(griffe.ExplanationStyle.ONE_LINE))
        for broken in griffe.find_breaking_changes(old, new)
    ]


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ("def decode(self, z, steps=None)", "def decode(self, z)", "decode"),
        ("def decode(self, z)", "def decode(self, z, steps)", "decode"),
        ("def decode(self, z, *, steps=None)", "def decode(self, z, *, count=None)", "decode"),
        ("def decode(self, z)", "def encode(self, z)", "decode"),
    ],
)
def test_breaks_are_noticed_and_additions_are_none(tmp_path, before, after, name):
    griffe = pytest.importorskip("griffe", reason="needs the group docs")

    class Played:
        RECORDS = tmp_path

        @staticmethod
        def stubs() -> dict[str, str]:
            return {"p": f"class m:\n    {Played.now}: ...\n"}

    (tmp_path / "1").mkdir()
    (tmp_path / "1/p.pyi").write_text(f"class m:\n    {before}: ...\n")
    Played.now = after
    assert [found for found, _ in breakages(griffe, Played, tmp_path, "1", "p")] == [name]
    Played.now = before.replace(")", ", more=None)") + ": ...\n    def other(self)"
    (tmp_path / "again").mkdir()
    assert breakages(griffe, Played, tmp_path / "again", "1", "p") == []


@pytest.mark.parametrize("release", RELEASES)
def test_commands_options_parameters_and_pipelines_stay_or_are_named_in_the_changelog(record, release):
    lost = set((record.RECORDS / release / "surface.txt").read_text("utf-8").splitlines()) - set(record.surface())
    _, text = newest_section("ssdd")
    silent = [line for line in sorted(lost) if line.split()[-1] not in text]
    assert not silent, f"name these in {CHANGELOGS['ssdd']}: {silent}"


@pytest.mark.parametrize("release", RELEASES)
def test_files_of_every_release_load(record, release):
    folder = record.RECORDS / release
    expected, found = json.loads((folder / "expected.json").read_text("utf-8")), record.read_files(folder)
    for name in ("latent", "image", "features"):
        assert found.pop(name) == pytest.approx(expected.pop(name), abs=2e-3)
    assert found == expected


def test_a_file_of_a_later_layout_says_so(record, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    from ssdd.imaging.latent_header import read_header
    from ssdd_decoder import CheckpointError
    from ssdd_decoder.checkpoint import read
    from ssdd_metrics import load_references

    def later(name: str, key: str, value: str) -> Path:
        with safe_open(record.RECORDS / RELEASES[-1] / name, "pt") as file:
            tensors = {part: file.get_tensor(part) for part in file.keys()}  # noqa: SIM118
        save_file(tensors, tmp_path / name, metadata={key: value})
        return tmp_path / name

    with pytest.raises(CheckpointError, match="has layout '2', expected 1 at most: update"):
        read(later("ssdd.safetensors", "ssdd_format", "2"))
    with pytest.raises(ValueError, match="has layout 2, expected at most 1: update ssdd"):
        read_header(later("latents.safetensors", "ssdd_latents", '{"format": 2, "cells": 3}'))
    with pytest.raises(ValueError, match="has layout 2, expected 1: update ssdd-metrics"):
        load_references(later("references.safetensors", "reference_protocols", '{"format": 2}'), {})


def test_the_record_is_written_once(record, monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RECORDS", tmp_path)
    (tmp_path / record.present_version()).mkdir()
    monkeypatch.setattr(sys, "argv", ["release_record.py"])
    with pytest.raises(SystemExit, match="a release is recorded once"):
        record.main()
