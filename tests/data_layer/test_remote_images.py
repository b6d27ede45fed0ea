"""Images in a store: a real S3 server on this machine, its failures, and the bounded cache."""

import logging
import pickle

import boto3
import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from ssdd.data import BadImage, ImageFolder, TarImages, index_images
from ssdd.data import remote_files as remote
from ssdd.data.image_sets import open_images, open_source
from ssdd.data.packing import pack
from ssdd.datasets import FolderDataset
from ssdd.pack_parameters import PackParameters
from ssdd.parameters import DataParameters

SECRET = "very-secret-key"


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "SSDD_REMOTE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "WAIT", 0.01)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="images")
    yield client
    for item in client.list_objects_v2(Bucket="images").get("Contents", []):
        client.delete_object(Bucket="images", Key=item["Key"])


def upload(bucket, folder, prefix):
    for file in sorted(folder.rglob("*.*")):
        bucket.upload_file(str(file), "images", f"{prefix}/{file.relative_to(folder).as_posix()}")


def facts(source, **options):
    return index_images(source, progress=False, **options).index


def test_a_bucket_has_the_index_of_its_folder(bucket, image_folder):
    upload(bucket, image_folder, "set")
    bucket.put_object(Bucket="images", Key="set/b/readme.txt", Body=b"x")
    here = facts(ImageFolder(image_folder))
    pd.testing.assert_frame_equal(facts(open_source("folder", "s3://images/set")), here)
    pd.testing.assert_frame_equal(facts(open_source("folder", "s3://images/set/"), workers=2), here)
    source = pickle.loads(pickle.dumps(open_images(DataParameters(kind="folder", root="s3://images/set"))))
    name = here["path"][3]
    assert np.array_equal(np.asarray(source.open(name)), np.asarray(ImageFolder(image_folder).open(name)))
    with pytest.raises(BadImage, match="missing"):
        source.read("b/none.png")


def test_shards_in_a_bucket_are_those_of_a_folder(bucket, image_folder, tmp_path):
    index = facts(ImageFolder(image_folder))
    pack(index, ImageFolder(image_folder), PackParameters(side=24, shard_images=8), tmp_path / "shards")
    upload(bucket, tmp_path / "shards", "shards")
    here = facts(TarImages(tmp_path / "shards"))
    there = facts(open_source("tar", "s3://images/shards"), workers=2)
    pd.testing.assert_frame_equal(here, there)
    source = open_source("tar", "s3://images/shards")
    for name in here["path"][::5]:
        assert source.read(name) == TarImages(tmp_path / "shards").read(name)


def test_a_broken_connection_is_tried_again_and_then_named(bucket, image_folder, monkeypatch):
    upload(bucket, image_folder, "set")
    source = open_source("folder", "s3://images/set")
    name = source.listing().names["train"][0]
    expected = source.read(name)
    failures = []

    class Broken:
        def cat_file(self, where, start, end):
            failures.append(where)
            if len(failures) < 3:
                raise ConnectionResetError(f"signed {SECRET}")
            return expected

    monkeypatch.setattr(source.files, "_filesystem", Broken)
    assert source.read(name) == expected
    assert len(failures) == 3
    failures[:] = [""] * -10
    monkeypatch.setattr(Broken, "cat_file", lambda *arguments, **options: (_ for _ in ()).throw(TimeoutError(SECRET)))
    with pytest.raises(
        remote.RemoteError, match=rf"cannot read s3://images/set/{name}: 5 tries.*TimeoutError"
    ) as error:
        source.read(name)
    assert SECRET not in str(error.value)


def test_credentials_are_neither_taken_nor_told(bucket, image_folder):
    for address in ("s3://key:very-secret-key@images/set", f"https://store.org/set?signature={SECRET}"):
        with pytest.raises(ValueError, match="without credentials") as error:
            open_source("folder", address)
        assert SECRET not in str(error.value)
    upload(bucket, image_folder, "set")
    index = index_images(open_source("folder", "s3://images/set"), progress=False).index
    assert SECRET not in index.to_csv()
    assert SECRET not in repr(open_source("folder", "s3://images/set"))


def test_the_cache_saves_a_second_read_and_stays_within_its_size(bucket, image_folder, tmp_path, monkeypatch):
    upload(bucket, image_folder, "set")
    names = open_source("folder", "s3://images/set").listing().names["train"]
    source = open_source("folder", "s3://images/set")
    first = [source.read(name) for name in names]
    upload_of = bucket.list_objects_v2(Bucket="images")["Contents"]
    for item in upload_of:
        bucket.delete_object(Bucket="images", Key=item["Key"])
    assert [source.read(name) for name in names] == first
    whole = sum(map(len, first))
    monkeypatch.setenv("SSDD_REMOTE_CACHE_GB", str(whole / 2 / 1e9))
    remote.shrink_cache()
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in kept) <= whole / 2
    monkeypatch.setenv("SSDD_REMOTE_CACHE_GB", "0")
    with pytest.raises(BadImage, match="missing"):
        source.read(names[0])


def test_a_replaced_object_changes_the_lineage_and_is_read_anew(bucket, image_folder):
    upload(bucket, image_folder, "set")
    entry = FolderDataset(filepath="s3://images/set")
    before, old = entry.lineage_token(), facts(open_source("folder", "s3://images/set"))
    assert entry.lineage_token() == before
    (image_folder / "b/01.png").write_bytes((image_folder / "b/02.png").read_bytes())
    upload(bucket, image_folder, "set")
    assert entry.lineage_token() != before
    new = facts(open_source("folder", "s3://images/set"))
    assert old.loc[old["path"] == "b/01.png", "sha256"].item() != new.loc[new["path"] == "b/01.png", "sha256"].item()
    read = open_source("folder", "s3://images/set").read("b/01.png")  # as training does, through the cache
    assert read == (image_folder / "b/01.png").read_bytes()


def test_what_cannot_be_opened_says_why(bucket):
    with pytest.raises(ValueError, match="found none: check the address"):
        open_source("folder", "s3://images/nothing").listing()
    with pytest.raises(ValueError, match="expected a kind among folder, tar"):
        open_source("imagenet", "s3://images/set")
    with pytest.raises(ValueError, match="cannot open nope:// addresses"):
        open_source("folder", "nope://images/set")
