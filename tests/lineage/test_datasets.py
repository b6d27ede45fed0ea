"""Datasets: what is saved comes back, files appear whole, previews are what Kedro-Viz draws."""

import base64
import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys

import numpy
import pandas
import pytest
from kedro.io.core import DatasetError
from safetensors.numpy import save_file

from ssdd.datasets import (
    CheckpointDataset,
    FolderDataset,
    HTMLDataset,
    JSONDataset,
    PlotlyDataset,
    PNGDataset,
    TableDataset,
    TextDataset,
)
from ssdd.datasets.checkpoint_dataset import read_header
from ssdd.lineage.content_hashes import Hashes

TABLE = pandas.DataFrame({"name": ["é", "b c", 'quote "'], "value": [0.1 + 0.2, -1.5e-300, float("nan")]})


def checkpoint(path, **tensors):
    save_file(tensors or {"a": numpy.ones((2, 3), numpy.float32)}, path, metadata={"config": "{}"})
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_come_back_exactly(tmp_path, suffix):
    dataset = TableDataset(filepath=str(tmp_path / f"deep/er/table.{suffix}"), metadata={"layer": "x"})
    assert not dataset.exists()
    dataset.save(TABLE)
    pandas.testing.assert_frame_equal(dataset.load(), TABLE, check_exact=True)
    assert dataset.preview(nrows=1) == {"columns": ["name", "value"], "index": [0], "data": [["é", 0.3]]}
    assert dataset.metadata == {"layer": "x"}
    first = (tmp_path / f"deep/er/table.{suffix}").read_bytes()
    dataset.save(TABLE)
    assert (tmp_path / f"deep/er/table.{suffix}").read_bytes() == first


def test_a_preview_is_shortened_for_the_eye(tmp_path):
    dataset = TableDataset(filepath=str(tmp_path / "a.csv"))
    dataset.save(pandas.DataFrame({"protocol": ["x" * 500], "psnr": [24.793141696558347], "steps": [8]}))
    assert dataset.preview()["data"] == [["x" * 48 + "…", 24.793, 8]]


def test_a_table_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"ending in .csv or .parquet"):
        TableDataset(filepath="table.xlsx")


@pytest.mark.parametrize(
    ("kind", "name", "data"),
    [
        (TextDataset, "a.txt", "é\nb"),
        (HTMLDataset, "a.html", "<p>é</p>"),
        (JSONDataset, "a.json", {"a": [1, None, "é"]}),
    ],
)
def test_documents_come_back(tmp_path, kind, name, data):
    dataset = kind(filepath=str(tmp_path / name))
    dataset.save(data)
    assert dataset.load() == data
    if kind is JSONDataset:
        assert json.loads(dataset.preview()) == data
    if kind is HTMLDataset:
        assert dataset.preview() == data


@pytest.mark.parametrize("kind", ["array", "pil", "matplotlib"])
def test_pictures_come_back_and_equal_pictures_are_equal_files(tmp_path, kind):
    from PIL import Image

    pixels = numpy.arange(4 * 5 * 3, dtype=numpy.uint8).reshape(4, 5, 3)
    data = pixels
    if kind == "pil":
        data = Image.fromarray(pixels)
    if kind == "matplotlib":
        from matplotlib.figure import Figure

        data = Figure(figsize=(2, 1))
        data.subplots().plot([1, 2])
    dataset = PNGDataset(filepath=str(tmp_path / "a.png"), dpi=50)
    dataset.save(data)
    first = (tmp_path / "a.png").read_bytes()
    loaded = dataset.load()
    if kind == "matplotlib":
        assert loaded.size == (100, 50)
    else:
        assert numpy.array_equal(numpy.asarray(loaded), pixels)
    dataset.save(data)
    assert (tmp_path / "a.png").read_bytes() == first
    assert Image.open(io.BytesIO(base64.b64decode(dataset.preview()))).size == loaded.size


def test_interactive_figures_come_back(tmp_path):
    import plotly.graph_objects as go

    dataset = PlotlyDataset(filepath=str(tmp_path / "a.json"))
    dataset.save(go.Figure(go.Scatter(y=[1, 3, 2])))
    assert list(dataset.load().data[0].y) == [1, 3, 2]
    assert dataset.preview()["data"][0]["type"] == "scatter"


def test_a_failed_save_keeps_the_previous_file(tmp_path):
    path = tmp_path / "a.json"
    dataset = JSONDataset(filepath=str(path))
    dataset.save({"a": 1})
    before = path.read_bytes()
    with pytest.raises(DatasetError):
        dataset.save({"a": object()})
    with pytest.raises(DatasetError):
        TextDataset(filepath=str(path)).save(3)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("kind", "name"), [(TableDataset, "a.csv"), (TableDataset, "a.parquet"), (PlotlyDataset, "a"), (JSONDataset, "a")]
)
def test_an_error_names_the_entry_and_its_cause(tmp_path, kind, name):
    dataset = kind(filepath=str(tmp_path / name))
    with pytest.raises(DatasetError, match=name) as saving:
        dataset.save(object())
    (tmp_path / name).write_bytes(b"\xff\xfe{")
    with pytest.raises(DatasetError, match=name) as loading:
        dataset.load()
    for caught in (saving, loading):
        assert "partial" not in str(caught.value)  # the temporary file
        assert "kedro_datasets" not in str(caught.value)
        assert not isinstance(caught.value.__cause__, DatasetError)


def test_files_are_the_same_bytes_whatever_encoding_the_machine_prefers(tmp_path):
    code = (
        "import sys, pandas; from ssdd.datasets import *; T = pandas.DataFrame({'name': ['\\xe9']}, index=[7]);"
        "TableDataset(filepath='a.csv').save(T); TextDataset(filepath='a.txt').save('\\xe9');"
        "JSONDataset(filepath='a.json').save({'a': ['\\xe9', 1e-17]});"
        "assert TableDataset(filepath='a.csv').load()['name'].tolist() == ['\\xe9'];"
        "assert TextDataset(filepath='a.txt').load() == '\\xe9';"
        "assert JSONDataset(filepath='a.json').load()['a'][0] == '\\xe9'"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "a.csv").read_bytes() == "name\né\n".encode()
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()
    assert (tmp_path / "a.json").read_bytes() == '{\n  "a": [\n    "é",\n    1e-17\n  ]\n}\n'.encode()


def test_catalog_entries_are_made_without_the_libraries_of_their_formats(tmp_path):
    code = (
        "import sys; from ssdd.datasets import *;"
        "[kind(filepath='a.csv') for kind in (TableDataset, JSONDataset, TextDataset, PlotlyDataset, PNGDataset)];"
        "assert not {'pandas', 'numpy', 'plotly', 'fsspec', 'torch', 'PIL'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_previews_are_announced_to_kedro_viz():
    kinds = {
        TableDataset: "TablePreview",
        JSONDataset: "JSONPreview",
        CheckpointDataset: "JSONPreview",
        PNGDataset: "ImagePreview",
        PlotlyDataset: "PlotlyPreview",
        HTMLDataset: "HTMLPreview",
    }
    for kind, announced in kinds.items():
        annotation = kind.preview.__annotations__["return"]
        assert getattr(annotation, "__name__", annotation) == announced


def test_a_checkpoint_is_moved_to_its_place_and_loaded_as_a_path(tmp_path):
    dataset = CheckpointDataset(filepath=str(tmp_path / "run/model.safetensors"))
    made = checkpoint(tmp_path / "made.safetensors")
    content = made.read_bytes()
    dataset.save(made)
    assert not made.exists()
    assert dataset.load() == tmp_path / "run/model.safetensors"
    assert dataset.load().read_bytes() == content
    dataset.save(dataset.load())  # already there
    assert dataset.load().read_bytes() == content
    assert json.loads(dataset.preview()) == {"metadata": {"config": {}}, "tensors": 1, "parameters": 6}


def test_a_checkpoint_from_another_disk_is_copied_whole(tmp_path, monkeypatch):
    import ssdd.datasets.checkpoint_dataset as module

    replace = module.os.replace

    def other_disk(source, target):
        if "made" in str(source):
            raise OSError(18, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", other_disk)
    dataset = CheckpointDataset(filepath=str(tmp_path / "model.safetensors"))
    dataset.save(checkpoint(tmp_path / "made.safetensors"))
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]
    assert read_header(dataset.load())


def header(**entries):
    raw = json.dumps(entries).encode()
    return len(raw).to_bytes(8, "little") + raw


HOSTILE = {
    "empty": b"",
    "short": b"\x00\x01",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "huge header": (2**62).to_bytes(8, "little") + b"{}",
    "header of 200 MB": (200 * 2**20).to_bytes(8, "little") + b"{}",
    "no json": (4).to_bytes(8, "little") + b"{{{{",
    "list": (2).to_bytes(8, "little") + b"[]",
    "deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "cut": header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}) + b"\0" * 7,
    "too long": header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}) + b"\0" * 9,
    "absurd shape": header(a={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}) + b"\0" * 8,
    "negative shape": header(a={"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}) + b"\0" * 8,
    "overlap": header(
        a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        b={"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    )
    + b"\0" * 12,
    "gap": header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}) + b"\0" * 8,
    "no dtype": header(a={"shape": [1], "data_offsets": [0, 4]}) + b"\0" * 4,
    "text offsets": header(a={"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}) + b"\0" * 4,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_checkpoint_is_refused(tmp_path, name):
    path = tmp_path / "a.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match="expected"):
        read_header(path)
    with pytest.raises(DatasetError):
        CheckpointDataset(filepath=str(path)).load()
    with pytest.raises(DatasetError):
        CheckpointDataset(filepath=str(tmp_path / "b.safetensors")).save(path)
    assert path.exists()
    assert not (tmp_path / "b.safetensors").exists()


def test_a_folder_counts_by_names_and_contents(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"1")
    dataset = FolderDataset(filepath=str(folder))
    assert dataset.load() == folder
    seen = [Hashes().of(folder)]
    (folder / "a.png").touch()
    assert Hashes().of(folder) == seen[0]
    (folder / "sub/b.png").write_bytes(b"2")
    seen.append(Hashes().of(folder))
    (folder / "sub/b.png").rename(folder / "sub/c.png")
    seen.append(Hashes().of(folder))
    (folder / "a.png").write_bytes(b"3")
    seen.append(Hashes().of(folder))
    assert len(set(seen)) == 4
    with pytest.raises(DatasetError):
        FolderDataset(filepath=str(tmp_path / "nowhere")).load()
    with pytest.raises(DatasetError):
        dataset.save(1)
    nothing = FolderDataset()
    assert nothing.load() is None
    assert nothing.lineage_token() == "no folder"


def test_a_remembered_hash_is_that_of_the_content(tmp_path, monkeypatch):
    import ssdd.lineage.content_hashes as module

    monkeypatch.setattr(module, "_SETTLED_NS", 0)
    file, cache = tmp_path / "a", tmp_path / "cache.sqlite"

    def write(content):
        before = file.stat().st_ctime_ns if file.exists() else 0
        while not file.exists() or file.stat().st_ctime_ns == before:  # clocks tick in milliseconds
            file.write_bytes(content)
            os.utime(file, (1_600_000_000, 1_600_000_000))

    write(b"1")
    with Hashes(cache) as hashes:
        first = hashes.of(file)
        assert hashes.of(tmp_path / "none") is None
    with monkeypatch.context() as patch, Hashes(cache) as hashes:
        patch.setattr(module, "sha256_file", lambda path: pytest.fail(f"read {path} again"))
        assert hashes.of(file) == first
    write(b"2")  # same size, same mtime, same inode
    with Hashes(cache) as hashes:
        assert hashes.of(file) != first


def test_a_file_written_a_moment_ago_is_not_remembered(tmp_path):
    file, cache = tmp_path / "a", tmp_path / "cache.sqlite"
    file.write_bytes(b"1")
    with Hashes(cache) as hashes:
        first = hashes.of(file)
        file.write_bytes(b"2")  # perhaps within the same tick of the clock
        assert hashes.of(file) != first


def test_a_cache_in_use_by_another_run_is_kept(tmp_path):
    file, cache = tmp_path / "a", tmp_path / "cache.sqlite"
    file.write_bytes(b"1")
    with Hashes(cache) as hashes:
        known = hashes.of(file)
    with contextlib.closing(sqlite3.connect(cache)) as other:
        other.execute("BEGIN EXCLUSIVE")
        inode = cache.stat().st_ino
        with Hashes(cache) as hashes:
            assert hashes.of(file) == known
        assert cache.stat().st_ino == inode


def test_an_optional_document_may_be_missing(tmp_path):
    from ssdd.datasets import OptionalJSONDataset

    section = OptionalJSONDataset(filepath=str(tmp_path / "section.json"))
    missing = section.lineage_token()
    assert section.load() is None
    assert json.loads(section.preview()) == {}
    section.save({"html": "x" * 5000, "student": "sha256:1"})
    assert section.load()["student"] == "sha256:1"
    assert section.lineage_token() != missing
    assert json.loads(section.preview()) == {"student": "sha256:1"}
