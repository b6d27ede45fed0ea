"""The same images from files, tar shards, Parquet and an object store: the same losses, to the bit."""

import io
import logging
import tarfile

import datasets
import numpy as np
import pytest
from PIL import Image

from ssdd.data import index_images
from ssdd.data.image_sets import open_images, training_images
from ssdd.parameters import DataParameters, LossWeights, OptimConfig, RuntimeConfig, StageParameters
from ssdd.training.history import read_rows
from ssdd.training.jobs import TrainingJob, run_job

STAGE = StageParameters(
    epochs=2,
    batch_size=4,
    im_size=16,
    aug_scale=2,
    precision="no",
    log_every=1,
    optim=OptimConfig(lr=0.01),
    loss=LossWeights(perceptual="msgrad", repa=0),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same 17 pictures as files, in two shards, and in Parquet."""
    root, rng = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    (root / "files").mkdir()
    (root / "shards").mkdir()
    (root / "parquet").mkdir()
    datas = {}
    for number in range(17):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((48 + number, 36), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        datas[f"{number:03d}.jpg"] = buffer.getvalue()
        (root / "files" / f"{number:03d}.jpg").write_bytes(buffer.getvalue())
    for shard in range(2):
        with tarfile.open(root / f"shards/train-{shard}.tar", "w") as tar:
            for name in sorted(datas)[10 * shard : 10 * shard + 10]:
                item = tarfile.TarInfo(name)
                item.size = len(datas[name])
                tar.addfile(item, io.BytesIO(datas[name]))
    datasets.disable_progress_bars()
    rows = {"image": [{"bytes": data, "path": None} for data in datas.values()]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "parquet/train-00000-of-00001.parquet")
    return root


def losses(data, folder, **changes):
    index = index_images(open_images(data), progress=False, held_out=0.1).index
    runtime = RuntimeConfig(device="cpu", workers=0, trackers=(), progress=False, **changes)
    images = training_images(index, data, STAGE)
    job = TrainingJob(
        kind="autoencoder",
        encoder="debug",
        decoder="debug",
        images=images,
        stage=STAGE,
        runtime=runtime,
        folder=folder,
        fingerprint="f",
    )
    return [row["loss"] for row in read_rows(run_job(job).history)], images.content


@pytest.fixture(scope="module")
def expected(places, tmp_path_factory):
    found = losses(DataParameters(kind="folder", root=str(places / "files")), tmp_path_factory.mktemp("run"))
    assert len(set(found[0])) == 2 * 3  # epochs of three batches, since some images are held out
    return found


@pytest.fixture
def store(places, monkeypatch, tmp_path):
    """The address of an S3 server on this machine, with the files and the shards."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("SSDD_REMOTE_CACHE", str(tmp_path / "cache"))
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="equal")
    for file in (*places.glob("files/*"), *places.glob("shards/*")):
        client.upload_file(str(file), "equal", file.relative_to(places).as_posix())
    yield "s3://equal"
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "folder"), [("folder", "files"), ("tar", "shards")])
def test_losses_are_the_same_from_an_object_store(store, expected, kind, folder, tmp_path):
    data = DataParameters(kind=kind, root=f"{store}/{folder}")
    assert losses(data, tmp_path / "run") == expected


@pytest.mark.parametrize(("kind", "folder"), [("tar", "shards"), ("huggingface", "parquet")])
def test_losses_do_not_depend_on_the_form_of_the_images(places, expected, kind, folder, tmp_path):
    assert losses(DataParameters(kind=kind, root=str(places / folder)), tmp_path) == expected
