"""Sound pictures that a decoder stumbles over, pictures that deserve a remark, and messages that differ between runs.

The right pixels are those of the same picture without the text, profile or damage; they are written by hand.
"""

import re
import struct
import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from ssdd.data import BadImage, ImageFolder, decode_image, index_images

NOTE = "note"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def chunk(kind, body, checksum=None):
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(*extra, behind=()):
    """A PNG file with further chunks before and behind its pixels."""
    header = struct.pack(">IIBBBBB", 60, 40, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))
    middle = [chunk(b"IDAT", data[:100]), chunk(b"IDAT", data[100:])]
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *extra, *middle, *behind, chunk(b"IEND", b"")])


LONG = b'{"nodes": [' + b"1234567, " * 300_000 + b"0]}"  # a workflow of 2.7 MB
PROFILE = np.random.default_rng(1).bytes(2**21)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="1"/></x:xmpmeta>'
EXTRA = {
    "long text": chunk(b"tEXt", b"workflow\0" + LONG),
    "long compressed text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG)),
    "long international text": chunk(b"iTXt", b"prompt\0\0\0\0\0" + LONG),
    "long compressed international text": chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(LONG)),
    "text that is a bomb": chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**28))),
    "XMP that is a bomb": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**24))),
    "EXIF text that is a bomb": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**24))),
    "long profile": chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(PROFILE)),
    "damaged profile": chunk(b"iCCP", b"sRGB\0\0" + b"no zlib"),
    "text with an unknown compression": chunk(b"zTXt", b"x\0\7abc"),
    "text without a keyword": chunk(b"tEXt", b"\0\0\0"),
    "a hundred megabytes of texts": b"".join(chunk(b"tEXt", b"x\0" + bytes(2**20 - 2)) for _ in range(100)),
    "private chunk": chunk(b"prVt", b"anything"),
    "physical size of nothing": chunk(b"pHYs", b""),
    "gamma of one byte": chunk(b"gAMA", b"\1"),
    "chromaticities of one byte": chunk(b"cHRM", b"\1"),
    "animation control of nothing": chunk(b"acTL", b""),
    "EXIF of nonsense": chunk(b"eXIf", b"nonsense"),
}
WRONG = {
    "text": chunk(b"tEXt", b"x\0y", 0),
    "profile": chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(b"x"), 0),
    "EXIF": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0", 0),
    "time": chunk(b"tIME", bytes(7), 0),
}


@pytest.mark.parametrize("what", EXTRA)
def test_texts_and_profiles_do_not_matter(what, tally):
    for data in (png(EXTRA[what]), png(behind=[EXTRA[what]])):
        picture = decode_image(data)
        assert (np.asarray(picture) == PIXELS).all()
        assert picture.info[NOTE] == ""
        tally("texts and profiles of PNG", tried=1, survived=1)


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_checksum_apart_from_the_pixels_is_a_remark(what, tally):
    for data in (png(WRONG[what]), png(behind=[WRONG[what]])):
        picture = decode_image(data)
        assert (np.asarray(picture) == PIXELS).all()
        assert picture.info[NOTE] == f"wrong checksum of {WRONG[what][4:8].decode()}, which holds no pixels"
        tally("wrong checksums of PNG", tried=1, survived=1)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"tRNS"])
def test_a_wrong_checksum_of_the_pixels_is_a_rejection(kind, tally):
    data = bytearray(png(chunk(b"tRNS", bytes(6))))
    place = data.index(kind)
    length = int.from_bytes(data[place - 4 : place], "big")
    data[place + 4 + length] ^= 1
    with pytest.raises(BadImage):
        decode_image(bytes(data))
    tally("wrong checksums of PNG", tried=1, survived=1)


@pytest.mark.parametrize("place", ["eXIf", "XMP"])
def test_the_orientation_is_read_all_the_same(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.replace(b'"1"', b'"6"')
    extra = chunk(b"eXIf", exif.tobytes()[6:]) if place == "eXIf" else chunk(b"iTXt", xmp)
    assert (np.asarray(decode_image(png(EXTRA["long text"], extra))) == PIXELS.transpose(1, 0, 2)[:, ::-1]).all()


def test_what_follows_the_end_does_not_matter():
    assert (np.asarray(decode_image(png() + b"trailing bytes" * 1000)) == PIXELS).all()


def test_prepare_takes_a_folder_of_workflows(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(EXTRA["long compressed text"], chunk(b"tEXt", bytes([number]))))
    found = index_images(ImageFolder(tmp_path), progress=False)
    assert len(found.index) == 4


def dark(most, shape=(40, 60)):
    file = BytesIO()
    samples = np.linspace(0, most, np.prod(shape)).reshape(shape).astype(np.uint16)
    tifffile.imwrite(file, samples, photometric="minisblack" if len(shape) == 2 else "rgb")
    return file.getvalue()


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
@pytest.mark.parametrize(
    ("most", "remark"), [(1023, True), (4095, True), (16383, True), (16384, False), (65535, False)]
)
def test_data_of_fewer_bits_in_sixteen_is_a_remark(most, remark, shape, tally):
    note = decode_image(dark(most, shape)).info[NOTE]
    assert note == (f"16-bit samples end at {most} of 65535, so it is dark: if it is data of fewer bits, scale it to "
                    "16 bits" if remark else "")  # fmt: skip
    tally("dark pictures of 16 bits", tried=1, survived=1)


def test_remarks_are_told_by_every_command_and_by_prepare(ssdd, model, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    for number in range(7):
        (tmp_path / f"in/{number}.tif").write_bytes(dark(4095 + number))
    for arguments in (
        ["encode", tmp_path / "in", "-o", tmp_path / "l"],
        ["reconstruct", tmp_path / "in", "-o", tmp_path / "out"],
        ["z-stats", tmp_path / "in", "-o", tmp_path / "s", "--im-size", 16],
    ):
        caplog.clear()
        assert ssdd(*arguments, "--model", model)[0] == 0
        assert "'4.tif': 16-bit samples end at 4099 of 65535" in caplog.text
        assert "5.tif" not in caplog.text
        assert "and 2 more images with such remarks" in caplog.text


BROKEN = [b"\x89PNG\r\n\x1a\n" + b"\xff" * 100, png()[:-30], png()[:50], b"II*\0" + b"\xff" * 100, b"BM" + bytes(60)]
BROKEN += [b"\xff\xd8\xff\xe0" + bytes(100), b"GIF89a" + bytes(20), b"P6\n3 x", b"RIFF\x10\0\0\0WEBPVP8 ", dark(9)[:99]]
BROKEN += [b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), b"\0\0\0\x1cftypavif" + bytes(40), png()[:40] + b"\0" + png()[40:]]
SHOW = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from ssdd.data import BadImage, decode_image
waste = [bytearray(int(sys.argv[2]) * 1000 + n) for n in range(200)]  # other addresses in every process
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode_image(file.read_bytes())
    except BadImage as bad:
        print(file.name, bad)
"""


def test_reasons_are_the_same_in_every_run(tmp_path, tally):
    for number, data in enumerate(BROKEN):
        (tmp_path / f"{number:02d}").write_bytes(data)
    said = [
        subprocess.run([sys.executable, "-c", SHOW, tmp_path, seed], capture_output=True, text=True, check=True).stdout
        for seed in "12"
    ]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == len(BROKEN)
    assert not re.search(r"0x[0-9a-f]{6}|object at|/tmp", said[0])
    tally("messages of libraries", tried=len(BROKEN), survived=len(BROKEN))


@pytest.mark.parametrize(
    ("message", "steady"),
    [
        ("cannot identify image file <_io.BytesIO object at 0x7f34ce29a250>", "cannot identify image file"),
        ("<a.B object at 0x7F00AA> failed at 0x7f34ce29a250, code 0x1f", " failed at 0x..., code 0x1f"),
        ("<function f at 0x7f34ce29a250> is bad", " is bad"),
        ("no such file: '{tmp}/tmpab12/x.png'", "no such file: 'x.png'"),
        ("{tmp}/x.png: gone", "x.png: gone"),
        ("nothing of that kind", "nothing of that kind"),
    ],
)
def test_messages_lose_what_differs_between_runs(message, steady):
    import tempfile

    from ssdd.texts import steady as shorten

    assert shorten(message.replace("{tmp}", tempfile.gettempdir())) == steady


def test_the_reasons_of_any_source_are_the_same_in_every_run(tmp_path):
    from ssdd.data.source import Rejection

    bad = BadImage("unreadable", "cannot read <Reader object at 0x7f34ce29a250>")
    assert Rejection.of("x", bad).detail == "cannot read"
