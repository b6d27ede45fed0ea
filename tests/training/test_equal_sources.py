"""The same images from files, shards, Parquet and an object store: the same losses, to the bit, also after a kill."""

import io
import logging
import os
import random
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


@pytest.fixture(scope="module")
def store(places, tmp_path_factory):
    """The environment of an S3 server on this machine that has the files and the shards in s3://equal."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"), "us-east-1")
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket="equal")
    for file in (*places.glob("files/*"), *places.glob("shards/*")):
        client.upload_file(str(file), "equal", file.relative_to(places).as_posix())
    yield {**keys, "AWS_ENDPOINT_URL": endpoint, "SSDD_REMOTE_CACHE": str(tmp_path_factory.mktemp("cache"))}
    server.stop()


def images_options(kind: str, root: str, **changes) -> dict:
    runtime = {"device": "cpu", "workers": 0, "save_every": 2, "trackers": [], "progress": "none", "threads": 1}
    return {
        "data": {"kind": kind, "root": root},
        "config": STAGE.model_dump(mode="json") | {"epochs": 4},
        "runtime": runtime,
        **changes,
    }


@pytest.fixture(scope="module")
def undisturbed(run_toy, places, results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    codes, output = run_toy(folder, images_options("folder", str(places / "files")))
    assert codes == [0], output
    return results(folder)


SEED = int(os.environ.get("SSDD_FAULT_SEED", "0"))
SOURCES = [
    ("folder", "files"),
    ("tar", "shards"),
    ("huggingface", "parquet"),
    ("folder", "s3://equal/files"),
    ("tar", "s3://equal/shards"),
    ("tar", "http://shards/train-{0..1}.tar"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "place"), SOURCES)
def test_killed_on_any_source_a_run_resumes_to_the_same_bytes(
    store, web_server, run_toy, places, results, undisturbed, kind, place, tmp_path
):
    """The bytes of all files, and so the losses in the history, are those of an undisturbed run from single files."""
    root = place if place.startswith("s3:") else str(places / place)
    if place.startswith("http:"):
        root = place.replace("http:/", web_server(places).url)
    step = random.Random(f"{SEED} {kind} {place}").randrange(5, 12)
    drawn = f"SSDD_FAULT_SEED={SEED}, killed at {step}"
    codes, output = run_toy(tmp_path, images_options(kind, root, environment=store, kill_all_at=step))
    assert codes == [-9], f"{drawn}: {output}"
    assert list(tmp_path.glob("state-*")), drawn
    codes, output = run_toy(tmp_path, images_options(kind, root, environment=store))
    assert codes == [0], f"{drawn}: {output}"
    assert results(tmp_path) == undisturbed, drawn


@pytest.mark.parametrize(("kind", "folder"), [("tar", "shards"), ("huggingface", "parquet")])
def test_losses_do_not_depend_on_the_form_of_the_images(places, expected, kind, folder, tmp_path):
    assert losses(DataParameters(kind=kind, root=str(places / folder)), tmp_path) == expected
