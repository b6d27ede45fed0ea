"""Images on a web server of this machine, its failures, and addresses whose package is missing."""

import importlib
import pickle
import shutil
import sys

import pandas as pd
import pytest

from ssdd.data import ImageFolder, TarImages, index_images
from ssdd.data import remote_files as remote
from ssdd.data.image_sets import open_source
from ssdd.data.packing import pack
from ssdd.data.web_files import expanded
from ssdd.datasets import FolderDataset
from ssdd.pack_parameters import PackParameters


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "WAIT", 0.01)
    monkeypatch.setenv("SSDD_REMOTE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(image_folder, tmp_path):
    """The pictures in three shards, below a folder of the server."""
    index = facts(ImageFolder(image_folder))
    pack(index, ImageFolder(image_folder), PackParameters(side=24, shard_images=8), tmp_path / "site/shards")
    return tmp_path / "site/shards"


@pytest.fixture
def numbered(shards):
    """What stands for the shards in an address: `<name>-{00000..00002}.tar`."""
    names = sorted(path.name for path in shards.glob("*train*.tar"))
    assert len(names) > 1
    first, last = names[0].removesuffix(".tar"), names[-1].removesuffix(".tar")
    stem = first.rstrip("0123456789")
    return f"{stem}{{{first.removeprefix(stem)}..{last.removeprefix(stem)}}}.tar", names


def facts(source, **options):
    return index_images(source, progress=False, **options).index


def test_a_folder_on_a_server_has_the_index_of_its_folder(web_server, image_folder):
    for name in ("a name.png", "100%.png", "half #1.png", "b/größer.png"):
        shutil.copy(image_folder / "b/01.png", image_folder / name)
    (image_folder / "b/readme.txt").write_text("x")
    server = web_server(image_folder.parent)
    here = facts(ImageFolder(image_folder))
    assert len(here) == 27
    there = facts(open_source("folder", f"{server.url}/images"))
    pd.testing.assert_frame_equal(there, here)


def test_shards_are_found_by_the_index_page_and_by_numbers_in_braces(web_server, shards, numbered):
    server = web_server(shards.parent)
    here = facts(TarImages(shards))
    pd.testing.assert_frame_equal(facts(open_source("tar", f"{server.url}/shards"), workers=2), here)
    braces, names = numbered
    source = pickle.loads(pickle.dumps(open_source("tar", f"{server.url}/shards/{braces}")))
    assert source.shards == names
    for name in here[here["split"] == "train"]["path"].tolist()[::5]:
        assert source.read(name) == TarImages(shards).read(name)


def test_a_broken_connection_is_tried_again_and_then_named(web_server, shards, numbered, image_folder):
    server = web_server(image_folder)
    source = open_source("folder", server.url)
    expected = (image_folder / "b/01.png").read_bytes()
    server.faults[:] = ["cut", 503, "cut", 500]
    assert source.read("b/01.png") == expected
    assert server.faults == []
    server.faults[:] = [503, *["cut"] * 4]
    with pytest.raises(remote.RemoteError, match=rf"cannot read {server.url}/b/02.png: 5 tries.*ClientPayloadError"):
        source.read("b/02.png")
    server.faults[:] = [503] * 5
    with pytest.raises(remote.RemoteError, match="ClientResponseError 503"):
        source.read("b/02.png")
    server.faults[:] = [503] * 2  # index pages: a folder of which none comes is not left out
    assert len(source.listing().names["train"]) == 23
    server.stop()
    with pytest.raises(remote.RemoteError, match=rf"cannot read {server.url}/: 5 tries"):
        source.listing()
    with pytest.raises(remote.RemoteError, match=rf"cannot read {server.url}/train-0.tar: 5 tries"):
        open_source("tar", f"{server.url}/train-{{0..0}}.tar")


def test_what_cannot_be_read_says_why(web_server, shards, numbered):
    server = web_server(shards.parent)
    with pytest.raises(ValueError, match=rf"expected a file at {server.url}/shards/none-7.tar, found none"):
        open_source("tar", f"{server.url}/shards/none-{{7..7}}.tar")
    with pytest.raises(ValueError, match="found none: check the address"):
        open_source("folder", f"{server.url}/nowhere").listing()
    with pytest.raises(ValueError, match="without credentials or a query"):
        open_source("tar", f"{server.url}/a.tar?signature=secret")
    plain = web_server(shards.parent, ranges=False)
    with pytest.raises((remote.RemoteError, ValueError), match="sends whole files only"):
        facts(open_source("tar", f"{plain.url}/shards"))


def test_a_replaced_file_changes_the_lineage(web_server, shards, numbered):
    server = web_server(shards.parent)
    braces, names = numbered
    entry = FolderDataset(filepath=f"{server.url}/shards/{braces}")
    before = entry.lineage_token()
    assert entry.lineage_token() == before
    with open(shards / names[0], "ab") as file:
        file.write(bytes(1024))
    assert entry.lineage_token() != before


def test_braces_stand_for_names():
    assert expanded("train-{008..011}.tar") == [f"train-{number:03d}.tar" for number in range(8, 12)]
    assert expanded("{8..10}.tar") == ["8.tar", "9.tar", "10.tar"]
    assert expanded("{train,val}/{0..1}.tar") == ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]
    for text in ("{3..1}.tar", "{a}.tar", "{0..99999999}.tar", "{0..999}{0..999}.tar", "{a,{0..1}}.tar", "{0..1.tar"):
        with pytest.raises(ValueError, match=r"expected (braces|a range)"):
            expanded(text)


@pytest.mark.parametrize(
    ("address", "package", "extra"),
    [("gs://bucket/images", "gcsfs", "gs"), ("abfs://container/images", "adlfs", "azure"), ("s3://b/i", "s3fs", "s3")],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, address, package, extra):
    scheme = address.partition(":")[0]
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, scheme, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"cannot open {scheme}:// addresses: .*{package}.*'ssdd\[{extra}\]'"):
        open_source("folder", address)
