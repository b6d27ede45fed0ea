import csv
import errno
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from ssdd.data import (
    BadImage,
    EmbeddedSample,
    HuggingFaceImages,
    ImageFolder,
    ImageNetFolder,
    Reason,
    decode_image,
    embedded_sample,
    index_images,
    open_source,
)
from ssdd.data.dead_leaves import paint_dead_leaves
from ssdd.data.decoding import read_image_file
from ssdd.data.embedded_sample import HELD_OUT_PHOTOGRAPHS, OWN_PHOTOGRAPHS, SKIMAGE_PHOTOGRAPHS, canvas
from ssdd.data.image_folders import search_folder
from ssdd.data.image_sets import KINDS
from ssdd.data.source import TRAIN, Listing, Source
from ssdd.parameters import DataParameters


def save(path: Path, side: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (side, 2, 3)).save(path, "PNG")


def rejections(source: ImageFolder) -> dict[str, str]:
    table = index_images(source, max_rejected=1, progress=False).rejected
    return dict(zip(table["path"], table["reason"], strict=True))


def test_folder_order_depends_on_names_alone(tmp_path):
    names = [
        "b.png",
        "a.png",
        "Z.JPG",
        "x/2.png",
        "x/10.png",
        "x/y/1.webp",
        "a b/new\nline.png",
        "a b/né 画.png",
    ]
    for root, order in (("one", names), ("two", names[::-1])):
        for name in order:
            save(tmp_path / root / name)
    first = ImageFolder(tmp_path / "one").listing()
    assert first.names == ImageFolder(tmp_path / "two").listing().names
    assert sorted(first.names["train"]) == sorted(names)
    assert first.rejected == []
    assert first.names["train"] == [
        *("Z.JPG", "a.png", "b.png"),
        *("a b/new\nline.png", "a b/né 画.png", "x/10.png", "x/2.png", "x/y/1.webp"),
    ]


def test_folder_passes_over_hidden_and_other_files(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".cache" / "b.png")
    (tmp_path / "notes.txt").write_text("no image")
    listing = ImageFolder(tmp_path).listing()
    assert listing.names == {"train": ["a.png"]}
    assert listing.rejected == []


def test_one_search_lists_images_and_other_files(tmp_path):
    for name in ("a.png", "b/c.JPG", "b/notes.txt", "b/.hidden.txt", ".cache/d.txt", "readme", "x.png/inner.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / os.fsdecode(b"latin\xe9.txt")).touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "to_notes").symlink_to("b/notes.txt")
    found = search_folder(tmp_path)
    assert found.images == ["a.png", "x.png", "b/c.JPG"]
    assert found.others == [os.fsdecode(b"latin\xe9.txt"), "readme", "to_notes", "b/notes.txt"]
    assert [(bad.path, str(bad.reason)) for bad in found.rejected] == [("gone", "missing")]


def test_odd_entries_are_rejected_with_a_reason(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png")
    save(tmp_path / "real" / "in.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "gone_folder").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "zlink").symlink_to("real")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / os.fsdecode(b"latin\xe9.png")).touch()
    source = ImageFolder(tmp_path)
    assert rejections(source) == {
        "folder.png": "is a directory",
        "text.png": "not an image",
        "empty.jpg": "truncated",
        "gone.png": "missing",
        "gone_folder": "missing",
        "self.png": "symlink loop",
        "self": "symlink loop",
        "real/up": "link to a folder already searched",
        "zlink": "link to a folder already searched",
        "pipe.png": "not a regular file",
        "latin\\udce9.png": "name is not Unicode",
    }
    index = index_images(source, max_rejected=1, progress=False, held_out=0).index
    assert list(index["path"]) == ["0.png", "1.png", "2.png", "real/in.png"]


def test_links_to_files_and_folders_elsewhere_are_followed(tmp_path):
    save(tmp_path / "elsewhere" / "deep" / "a.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "class").symlink_to(tmp_path / "elsewhere")
    (root / "one.png").symlink_to(tmp_path / "elsewhere" / "deep" / "a.png")
    assert ImageFolder(root).listing().names["train"] == ["one.png", "class/deep/a.png"]


def test_unreadable_permissions():
    root = Path(tempfile.mkdtemp())
    user = os.geteuid()
    try:
        save(root / "fine.png")
        save(root / "secret.png")
        save(root / "locked" / "in.png")
        root.chmod(0o755)
        (root / "secret.png").chmod(0)
        (root / "locked").chmod(0)
        if user == 0:
            os.seteuid(65534)  # root may read everything: look with the eyes of nobody
        found = rejections(ImageFolder(root))
    finally:
        os.seteuid(user)
        (root / "locked").chmod(0o755)
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        root.rmdir()
    assert found == {"secret.png": "permission denied", "locked": "permission denied"}


@pytest.mark.parametrize("layout", ["folder", "imagenet"])
def test_a_root_that_cannot_be_searched_is_an_error(tmp_path, monkeypatch, layout):
    (tmp_path / "train").mkdir()
    source = {"folder": ImageFolder, "imagenet": ImageNetFolder}[layout](tmp_path)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        source.listing()


def test_disk_error_and_oversized_file_are_reasons(tmp_path, monkeypatch):
    save(tmp_path / "a.png")

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(BadImage, match="Input/output") as caught:
            read_image_file(tmp_path / "a.png")
    assert caught.value.reason == Reason.UNREADABLE
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(BadImage) as caught:
        read_image_file(tmp_path / "sparse.png")
    assert caught.value.reason == Reason.TOO_LARGE


def test_paths_of_an_index_cannot_leave_the_root(tmp_path):
    save(tmp_path / "root" / "a.png")
    save(tmp_path / "b.png")
    source = ImageFolder(tmp_path / "root")
    for path in ("../b.png", str(tmp_path / "b.png"), "x/../../b.png"):
        with pytest.raises(ValueError, match="inside"):
            source.read(path)


def test_imagenet_layout(tmp_path):
    for name in ("train/n01/a.JPEG", "train/n02/b.JPEG", "val/c.JPEG", "test/d.JPEG"):
        save(tmp_path / name)
    source = ImageNetFolder(tmp_path)
    assert source.listing().names == {
        "train": ["train/n01/a.JPEG", "train/n02/b.JPEG"],
        "validation": ["val/c.JPEG"],
    }
    assert list(index_images(source, progress=False).index["split"]) == ["train", "train", "validation"]
    with pytest.raises(ValueError, match="'train' and 'val'"):
        ImageNetFolder(tmp_path / "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "foldr", "path": "x"}, "did you mean 'folder'"),
        ({"kind": "folder"}, "give its path"),
        ({"kind": "sample", "path": "x"}, "leave the path out"),
        ({"kind": "folder", "path": "/nonexistent"}, "nothing there"),
        ({"kind": "folder", "path": __file__}, "found a file"),
        ({"kind": "sample", "imagse": 3}, "imagse"),
        ({"kind": "sample", "crop_max": 400}, "crop_max <= 300"),
        ({"kind": "sample", "seed": -1}, "seed of at least 0"),
    ],
)
def test_wrong_parameters_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        open_source(**arguments)


def test_parameters_and_sources_have_the_same_kinds():
    assert set(get_args(DataParameters.model_fields["kind"].annotation)) == set(KINDS)


def test_the_example_of_a_new_source_is_complete(monkeypatch):
    code = textwrap.dedent(re.search(r"```python\n(.*?)```", Source.__doc__, re.DOTALL)[1])
    names = {"Source": Source, "Listing": Listing, "TRAIN": TRAIN, "__name__": __name__}
    exec(code, names)
    monkeypatch.setitem(KINDS, "sample", names["Greys"])
    index = index_images(open_source("sample"), progress=False, held_out=0.25).index
    assert index["split"].value_counts().to_dict() == {"train": 192, "validation": 64}
    assert set(zip(index["width"], index["height"], strict=True)) == {(64, 64)}
    assert open_source("sample").open("200").getpixel((63, 63)) == (200, 200, 200)


def test_finding_and_decoding_images_needs_no_torch(image_folder):
    code = (
        "import sys, ssdd.data.huggingface, ssdd.imaging.picture_files as files; from pathlib import Path;"
        "found, _ = files.find_images([Path(sys.argv[1])]); assert len(list(files.read_images(found))) > 5;"
        "assert not {'torch', 'pandas', 'datasets'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, image_folder], check=True, timeout=120)


def test_every_source_survives_pickling(image_folder):
    for source in (
        ImageFolder(image_folder),
        EmbeddedSample(train_images=4, validation_images=2, canvases=1),
    ):
        copy = pickle.loads(pickle.dumps(source))
        name = source.listing().names["train"][0]
        assert copy.open(name).tobytes() == source.open(name).tobytes()


def test_fingerprint_changes_with_the_files_but_opens_none(tmp_path, monkeypatch):
    for i in range(3):
        save(tmp_path / f"{i}.png", 20 + i)
    monkeypatch.setattr(Path, "read_bytes", None)
    source = ImageFolder(tmp_path)
    found = [source.fingerprint()]
    assert source.fingerprint() == found[0]
    os.utime(tmp_path / "0.png", (1, 1))
    found.append(source.fingerprint())
    (tmp_path / "1.png").unlink()
    found.append(source.fingerprint())
    save(tmp_path / "3.png")
    found.append(source.fingerprint())
    (tmp_path / "gone.png").symlink_to("nowhere")
    found.append(source.fingerprint())
    assert len(set(found)) == 5
    one, two = (EmbeddedSample(train_images=4, validation_images=1, seed=seed) for seed in (0, 1))
    assert one.fingerprint() != two.fingerprint()


# The embedded sample


def test_sample_has_three_families_and_holds_eight_photographs_out_whole():
    names = EmbeddedSample(train_images=600, validation_images=60).listing().names
    canvases = [name.split("/")[0] for name in names["train"]]
    for family in (SKIMAGE_PHOTOGRAPHS, OWN_PHOTOGRAPHS):
        crops = [name for name in canvases if name in family]
        assert len(crops) == 200
        assert set(crops) == set(family)
    assert sum(name.startswith("leaves-") for name in canvases) == 200
    held_out = {name.split("/")[0] for name in names["validation"]}
    assert held_out == set(HELD_OUT_PHOTOGRAPHS) >= {"astronaut.png", "coffee.png"}
    assert not held_out & set(canvases)


def test_every_photograph_of_the_project_has_an_author_a_free_licence_and_its_hash():
    folder = Path(embedded_sample.__file__).parent / "photographs"
    with open(folder / "ATTRIBUTION.csv", newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert (
        set(rows)
        == {file.name for file in folder.glob("*.jpg")}
        == {*OWN_PHOTOGRAPHS, *HELD_OUT_PHOTOGRAPHS} - {"astronaut.png", "coffee.png"}
    )
    for name, row in rows.items():
        assert row["author"]
        assert row["licence"].startswith(("CC0", "CC-BY-", "public domain"))
        assert row["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert row["split"] == ("train" if name in OWN_PHOTOGRAPHS else "validation")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000


def test_every_second_canvas_of_leaves_has_saturated_colours():
    chroma = [np.ptp(np.asarray(canvas(f"leaves-0-{number}")).astype(int), axis=2).mean() for number in range(4)]
    assert min(chroma[1::2]) > 2 * max(chroma[::2])


def test_sample_crops_are_parts_of_their_canvas_at_many_scales():
    source = EmbeddedSample(train_images=200, validation_images=4, crop_min=32, crop_max=256)
    names = source.listing().names["train"]
    sides = []
    for name in names:
        crop = source.open(name)
        sides.append(crop.width)
        assert crop.width == crop.height
        assert f"s{crop.width}" in name
    assert 32 <= min(sides) <= 40
    assert 200 <= max(sides) <= 256
    assert 32 < np.median(sides) < 128  # even over octaves: half are below the geometric mean, about 90
    whole = np.asarray(canvas("chelsea.png"))
    assert (np.asarray(source.open("chelsea.png/y5x7s50")) == whole[5:55, 7:57]).all()


def test_sample_is_a_pure_function_of_its_seed():
    first, again, other = (EmbeddedSample(train_images=30, validation_images=4, canvases=1, seed=s) for s in (1, 1, 2))
    assert first.listing().names == again.listing().names
    assert first.listing().names["train"] != other.listing().names["train"]
    canvas.cache_clear()
    one = index_images(first, progress=False).index
    canvas.cache_clear()
    assert index_images(again, progress=False).index.equals(one)


@pytest.mark.parametrize("name", ["chelsea.png", "cat.png/y0x0s9", "chelsea.png/y0x0s999", "../x.png/y0x0s9", ""])
def test_sample_refuses_names_that_it_does_not_have(name):
    with pytest.raises(BadImage):
        EmbeddedSample().open(name)


def test_sample_photographs_come_from_the_wheel_without_importing_its_downloader():
    code = (
        "import sys; from ssdd.data.embedded_sample import EmbeddedSample; EmbeddedSample().preload();"
        "assert not {'skimage', 'pooch', 'datasets', 'requests'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_dead_leaves_have_the_statistics_they_are_painted_for():
    fine, again = paint_dead_leaves(0, 0, 256), paint_dead_leaves(0, 0, 256)
    coarse = paint_dead_leaves(0, 5, 256)
    assert fine.size == (256, 256)
    assert fine.tobytes() == again.tobytes()
    assert fine.tobytes() != paint_dead_leaves(1, 0, 256).tobytes()
    pixels = np.asarray(fine).astype(float)
    chroma = pixels.max(axis=-1) - pixels.min(axis=-1)
    assert chroma.mean() < 60  # desaturated
    assert pixels.mean(axis=-1).std() > 30  # of all brightnesses

    def edges(image: Image.Image) -> float:
        gray = np.asarray(image.convert("L")).astype(float)
        return float((abs(np.diff(gray, axis=1)) > 8).mean())

    assert edges(fine) > 1.4 * edges(coarse) > 0.05  # r_min 3 against 8


# Hugging Face


@pytest.fixture
def hugging_face(monkeypatch, tmp_path, picture):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    rotated = Image.Exif()
    rotated[0x0112] = 6
    buffers = []
    for i in range(5):
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(picture) // (i + 1)).save(buffer, "PNG", exif=rotated)
        buffers.append(buffer.getvalue())
    return datasets, buffers


@pytest.mark.parametrize("column", ["image", "img"])
@pytest.mark.parametrize("storage", ["save_to_disk", "save_split_dict", "parquet", "plain_parquet", "arrow"])
def test_hugging_face_folders(hugging_face, tmp_path, storage, column):
    datasets, buffers = hugging_face
    rows = {"label": list(range(5)), column: [{"bytes": data, "path": None} for data in buffers]}
    table = datasets.Dataset.from_dict(rows)
    if storage != "plain_parquet":
        table = table.cast_column(column, datasets.Image())
    root = tmp_path / "set"
    root.mkdir()
    if storage == "save_to_disk":
        table.save_to_disk(root)
    elif storage == "save_split_dict":
        datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(root)
    elif storage == "arrow":
        table.save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(root / "train.arrow")
    else:
        table.to_parquet(root / "train-00000-of-00001.parquet")
    source = open_source("huggingface", str(root))
    listing = source.listing()
    assert listing.names["train"] == [f"train/{i:08d}" for i in range(5)]
    assert listing.names.get("validation") == (["test/00000000"] if storage == "save_split_dict" else None)
    for name, data in zip(listing.names["train"], buffers, strict=True):
        assert source.read(name) == data
        assert source.open(name).tobytes() == decode_image(data).tobytes()
    index = index_images(source, progress=False, held_out=0).index
    assert source.fingerprint() == source.fingerprint()
    assert (index["width"] == 40).all()  # the stored 60 x 40 shown upright
    assert pickle.loads(pickle.dumps(source)).read("train/00000003") == buffers[3]


def test_hugging_face_id_of_the_hub(hugging_face, monkeypatch):
    datasets, buffers = hugging_face
    asked = []

    def load(*arguments):
        asked.append(arguments)
        table = datasets.Dataset.from_dict({"image": [{"bytes": data, "path": None} for data in buffers]})
        return datasets.DatasetDict({"train": table, "validation": table.select([1])})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_source("huggingface", "owner/name", config="small")
    assert asked == [("owner/name", "small")]
    assert source.listing().names == {
        "train": [f"train/{i:08d}" for i in range(5)],
        "validation": ["validation/00000000"],
    }
    assert source.read("validation/00000000") == buffers[1]


def test_hugging_face_null_rows_and_broken_bytes_are_rejected(hugging_face, tmp_path):
    datasets, buffers = hugging_face
    stored = [None, {"bytes": b"junk", "path": None}, {"bytes": buffers[0], "path": None}]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": stored}, features=features).save_to_disk(tmp_path / "set")
    result = index_images(HuggingFaceImages(tmp_path / "set"), max_rejected=1, progress=False)
    assert list(result.rejected["reason"]) == ["missing", "not an image"]
    assert list(result.index["path"]) == ["train/00000002"]


def test_hugging_face_mistakes_are_explained(hugging_face, tmp_path):
    datasets, buffers = hugging_face
    two = {name: [{"bytes": data, "path": None} for data in buffers] for name in ("left", "right")}
    datasets.Dataset.from_dict({**two, "label": [0] * 5}).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match="found 2 among 'left', 'right', 'label'"):
        HuggingFaceImages(tmp_path / "set")
    assert len(HuggingFaceImages(tmp_path / "set", column="right").listing().names["train"]) == 5
    with pytest.raises(ValueError, match="expected a column 'middle'"):
        HuggingFaceImages(tmp_path / "set", column="middle")
    with pytest.raises(ValueError, match="expected images in column 'label'"):
        HuggingFaceImages(tmp_path / "set", column="label")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Parquet or Arrow"):
        HuggingFaceImages(tmp_path / "empty")


def test_the_class_of_an_image_is_its_first_folder(tmp_path):
    (tmp_path / "train").mkdir()
    folder, imagenet, sample = ImageFolder(tmp_path), ImageNetFolder(tmp_path), EmbeddedSample(train_images=3)
    assert [folder.class_of(path) for path in ("cat/a.png", "cat/deep/a.png", "a.png")] == ["cat", "cat", ""]
    names = ("train/n01440764/a.JPEG", "val/n01440764/b.JPEG", "val/b.JPEG")
    assert [imagenet.class_of(path) for path in names] == ["n01440764", "n01440764", ""]
    crops = sample.listing().names["train"]
    assert {sample.class_of(path) for path in crops} == {"leaves", "photographs"}
