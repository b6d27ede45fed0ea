"""Images in tar files: indexed once, read in any order, the same pictures as in a folder."""

import io
import pickle
import tarfile

import pandas as pd
import pytest

from ssdd.data import BadImage, ImageFolder, TarImages, index_images, open_source


def write_tar(path, files, mode="w", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as tar:
        for name, data in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))


def files_of(folder):
    names = ImageFolder(folder).listing().names["train"]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def shards(image_folder, tmp_path):
    """The pictures of the folder in three shards, in their order, one under a name too long for a plain header."""
    files = list(files_of(image_folder).items())
    for number in range(3):
        write_tar(tmp_path / f"shards/train-{number:05d}.tar", dict(files[8 * number : 8 * number + 8]))
    return tmp_path / "shards"


def facts(source, **options):
    return index_images(source, progress=False, **options).index


def test_a_shard_holds_the_pictures_of_its_folder(image_folder, shards):
    here, there = facts(ImageFolder(image_folder)), facts(TarImages(shards), workers=2)
    columns = ["split", "width", "height", "bytes", "sha256", "label"]
    pd.testing.assert_frame_equal(here[columns], there[columns])
    source = pickle.loads(pickle.dumps(open_source("tar", str(shards))))
    for one, two in reversed(list(zip(here["path"], there["path"], strict=True))):
        assert two.endswith(f"/{one}")
        assert source.open(two).tobytes() == ImageFolder(image_folder).open(one).tobytes()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_webdataset_keys_long_names_and_other_files(tmp_path, encode, picture, form):
    data, long = encode(picture), "deep/" * 18 + "ü" * 8
    files = {
        "000.json": b"{}",
        "000.png": data,
        "000.cls": b"7\n",
        "001.cls": b"8",
        "001.png": data,
        "002.png": data,
        f"{long}.png": data,
        "._003.png": b"junk",
        "readme.txt": b"x",
    }
    write_tar(tmp_path / "a-val-0.tar", {"x.jpg": encode(picture, "JPEG")}, format=form)
    write_tar(tmp_path / "b.tar", files, format=form)
    source = TarImages(tmp_path)
    names = source.listing().names
    assert [name.partition("+")[2].partition("/")[2] for name in names["train"]] == [
        "7/000.png",
        "8/001.png",
        "002.png",
        f"{long}.png",
    ]
    assert [source.class_of(name) for name in names["train"]] == ["7", "8", "", "deep"]
    assert len(names["validation"]) == 1
    assert all(source.read(name) == data for name in names["train"])


def test_what_is_no_plain_file_is_rejected(tmp_path, encode, picture):
    write_tar(tmp_path / "a.tar", {f"{n}.png": encode(picture) for n in range(3)})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = index_images(TarImages(tmp_path), max_rejected=1, progress=False)
    assert found.rejected["path"].tolist() == ["a.tar/link.png"]
    assert len(found.index) == 3


def test_a_replaced_or_cut_shard_is_noticed(tmp_path, encode, picture):
    write_tar(tmp_path / "a.tar", {"1.png": encode(picture), "2.png": encode(picture)})
    source = TarImages(tmp_path)
    names = source.listing().names["train"]
    write_tar(tmp_path / "a.tar", {"1.png": encode(picture), "0.txt": b"x" * 3000, "2.png": encode(picture)})
    with pytest.raises(BadImage, match="changed since it was indexed"):
        source.read(names[1])
    with pytest.raises(BadImage, match="missing"):
        source.read(names[0].replace("a.tar", "b.tar"))


def test_names_of_other_sources_and_outside_are_refused(shards):
    for name in ("a/01.png", "../a.tar/512+10/x.png", "/a.tar/512+10/x.png"):
        with pytest.raises(ValueError, match="prepare the index again"):
            TarImages(shards).read(name)


def test_what_cannot_be_indexed_says_why(tmp_path, encode, picture):
    with pytest.raises(ValueError, match="expected tar files"):
        TarImages(tmp_path / "nothing")
    write_tar(tmp_path / "a.tar.gz", {"1.png": encode(picture)}, "w:gz")
    with pytest.raises(ValueError, match="is compressed"):
        TarImages(tmp_path)
    (tmp_path / "b.tar").write_bytes(b"junk" * 2000)
    with pytest.raises(ValueError, match=r"cannot list the images in 'b\.tar' .*copy the shard again"):
        TarImages(tmp_path).listing()
