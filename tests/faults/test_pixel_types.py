"""Every mode, depth, photometric interpretation and transparency of PNG, TIFF, PNM and JPEG 2000: levels by hand.

The right value of a sample v in 0..M is 255 v / M, rounded; on white, of (v a + M (M - a)) / M with straight alpha, of
v + M - a with premultiplied alpha, and white where the sample is the key colour. PNG files are written here from the
standard. TIFF files are written by tifffile, which shares no code with the reader; it writes exactly the given samples.
"""

import itertools
import struct
import zlib
from fractions import Fraction
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL import __version__ as PILLOW

from ssdd.data import BadImage, Reason, decode_image

H, W = 7, 13
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # of each colour type of PNG
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def rows(samples, depth):
    """The rows of an image (h, w, C) as PNG stores them, each without a filter."""
    for row in samples.reshape(len(samples), -1):
        if depth < 8:
            bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :].ravel()
            yield b"\0" + np.packbits(bits).tobytes()
        else:
            yield b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes()


def png(samples, colour_type, depth, *, interlaced=False, extra=()):
    """A PNG file by the standard."""
    height, width = samples.shape[:2]
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    data = b"".join(line for part in parts if part.size for line in rows(part, depth))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    middle = b"".join(chunk(kind, body) for kind, body in extra)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def levels(colours, alpha, most, premultiplied=False):
    """The levels (H, W, 3) by the rules above, in exact fractions."""
    out = np.empty((*colours.shape[:2], 3), int)
    for y, x in np.ndindex(colours.shape[:2]):
        for c in range(3):
            v, a = int(colours[y, x, c % colours.shape[2]]), int(alpha[y, x]) if alpha is not None else most
            on_white = min(v + most - a, most) if premultiplied else Fraction(v * a + most * (most - a), most)
            out[y, x, c] = int(Fraction(255 * on_white, most) + Fraction(1, 2))
    return out


def draw(depth, channels):
    """Samples with every extreme among them."""
    most = 2**depth - 1
    chance = np.random.default_rng(depth * 10 + channels)
    samples = chance.integers(0, most + 1, (H, W, channels))
    samples[0, :4] = np.array([0, 1, most - 1, most])[:, None]
    samples[1, 0] = min(255, most)
    return samples


def decoded(data):
    return np.asarray(decode_image(data)).astype(int)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour_type", "depth"), [(c, d) for c, depths in DEPTHS.items() if c != 3 for d in depths])
def test_png(colour_type, depth, interlaced, tally):
    samples = draw(depth, CHANNELS[colour_type])
    alpha = samples[..., -1] if colour_type in (4, 6) else None
    colours = samples if alpha is None else samples[..., :-1]
    found = decoded(png(samples, colour_type, depth, interlaced=interlaced))
    assert (found == levels(colours, alpha, 2**depth - 1)).all()
    tally("pixel types", tried=1, survived=1)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour_type", "depth"), [(c, d) for c in (0, 2) for d in DEPTHS[c]])
def test_png_with_a_key_colour(colour_type, depth, interlaced, tally):
    samples = draw(depth, CHANNELS[colour_type])
    samples[2] = samples[3, 3]
    key = samples[3, 3]
    near = samples[4, 4] = (key + 1) % 2**depth  # another colour, which 8 bits may not tell apart
    alpha = np.where((samples == key).all(-1), 0, 2**depth - 1)
    assert alpha[4, 4] > 0
    assert (near != key).any()
    for stored in (key, key + (2**depth if depth < 16 else 0)):  # of 16 bits, those of the depth count
        extra = [(b"tRNS", struct.pack(f">{len(key)}H", *(int(value) for value in stored)))]
        found = decoded(png(samples, colour_type, depth, interlaced=interlaced, extra=extra))
        assert (found == levels(samples, alpha, 2**depth - 1)).all()
        tally("pixel types", tried=1, survived=1)


@pytest.mark.parametrize("transparency", [None, "one entry", "every entry", "some entries"])
@pytest.mark.parametrize("depth", DEPTHS[3])
def test_png_with_a_palette(depth, transparency, tally):
    samples, chance = draw(depth, 1), np.random.default_rng(depth)
    palette = chance.integers(0, 256, (2**depth, 3))
    alphas = {
        None: [],
        "one entry": [255] * (2**depth - 1) + [0],
        "every entry": chance.integers(0, 256, 2**depth).tolist(),
        "some entries": [0, 100][: 2**depth - 1],
    }[transparency]
    extra = [(b"PLTE", palette.astype(np.uint8).tobytes())] + ([(b"tRNS", bytes(alphas))] if alphas else [])
    alpha = np.array(alphas + [255] * (2**depth - len(alphas)))[samples[..., 0]]
    found = decoded(png(samples, 3, depth, extra=extra))
    assert (found == levels(palette[samples[..., 0]], alpha, 255)).all()
    tally("pixel types", tried=1, survived=1)


def tiff(samples, **options):
    file = BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


@pytest.mark.parametrize("compression", [None, "adobe_deflate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("depth", [1, 8, 16])
def test_gray_tiff(depth, photometric, byteorder, compression, tally):
    samples = draw(depth, 1)
    stored = samples[..., 0].astype({1: bool, 8: np.uint8, 16: np.uint16}[depth])
    data = tiff(stored, photometric=photometric, byteorder=byteorder, compression=compression)
    tally("pixel types", tried=1, survived=1)
    if (depth, photometric, byteorder) == (16, "miniswhite", ">"):  # Pillow does not open it
        with pytest.raises(BadImage):
            decode_image(data)
        return
    most = 2**depth - 1
    assert (decoded(data) == levels(most - samples if photometric == "miniswhite" else samples, None, most)).all()


def test_sixteen_bits_where_zero_is_white():
    data = tiff(np.array([[0, 60000]], np.uint16), photometric="miniswhite")
    assert decoded(data)[0, :, 0].tolist() == [255, 22]


@pytest.mark.parametrize("compression", [None, "adobe_deflate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("kind", ["rgb", "unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("depth", [8, 16])
def test_colour_tiff(depth, kind, byteorder, compression, tally):
    samples = draw(depth, 3 if kind == "rgb" else 4)
    options = {} if kind == "rgb" else {"extrasamples": [kind]}
    stored = samples.astype(np.uint8 if depth == 8 else np.uint16)
    data = tiff(stored, photometric="rgb", byteorder=byteorder, compression=compression, **options)
    alpha = samples[..., 3] if kind.endswith("alpha") else None
    want = levels(samples[..., :3], alpha, 2**depth - 1, premultiplied=kind == "assocalpha")
    assert (decoded(data) == want).all()
    tally("pixel types", tried=1, survived=1)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_gray_tiff_with_alpha(kind, tally):
    samples = draw(8, 2)
    data = tiff(samples.astype(np.uint8), photometric="minisblack", extrasamples=[kind])
    alpha = samples[..., 1] if kind.endswith("alpha") else None
    try:
        found = decoded(data)
    except BadImage:
        assert kind != "unassalpha"  # the other two need a newer Pillow
        assert int(PILLOW.partition(".")[0]) < 13
        return
    assert (found == levels(samples[..., :1], alpha, 255, premultiplied=kind == "assocalpha")).all()
    tally("pixel types", tried=1, survived=1)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "adobe_deflate"])
def test_sixteen_bit_cmyk_is_rounded_as_the_other_modes(byteorder, compression, tally):
    samples = draw(16, 4)
    data = tiff(samples.astype(np.uint16), photometric="separated", byteorder=byteorder, compression=compression)
    eight = ((samples * 2 + 257) // 514).astype(np.uint8)
    want = np.asarray(Image.fromarray(eight, "CMYK").convert("RGB"))
    assert (decoded(data) == want).all()
    tally("pixel types", tried=1, survived=1)


def packed(depth, samples):
    """A gray TIFF of `depth` bits by hand: tifffile packs such samples only with an optional library."""
    bits = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(H, W, 2), axis=2)[..., 16 - depth :]
    data = np.packbits(bits.reshape(H, -1), axis=1).tobytes()
    tags = [(256, 3, W), (257, 3, H), (258, 3, depth), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 3, H), (279, 4, len(data))]
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("depth", [2, 4, 12])
def test_gray_tiff_of_other_depths(depth, tally):
    samples = draw(depth, 1)
    assert (decoded(packed(depth, samples[..., 0])) == levels(samples, None, 2**depth - 1)).all()
    tally("pixel types", tried=1, survived=1)


@pytest.mark.parametrize(
    ("maximum", "kind"), itertools.product([1, 100, 255, 1000, 4095, 65535], [b"P5", b"P6", b"P2", b"P3"])
)
def test_pnm(maximum, kind, tally):
    channels = 1 if kind in (b"P5", b"P2") else 3
    samples = np.random.default_rng(maximum).integers(0, maximum + 1, (H, W, channels))
    body = samples.astype(">u2" if maximum > 255 else "u1").tobytes()
    if kind in (b"P2", b"P3"):
        body = " ".join(str(value) for value in samples.ravel()).encode()
    found = decoded(b"%s %d %d %d\n" % (kind, W, H, maximum) + body)
    exact = 255 * samples / maximum
    assert (np.abs(found - exact) <= 0.5 + 1e-9).all()  # ties go either way
    tally("pixel types", tried=1, survived=1)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32, np.float32, np.float16, np.float64])
def test_samples_without_a_known_range_are_refused(dtype, tally):
    with pytest.raises(BadImage):
        decode_image(tiff(np.ones((H, W), dtype), photometric="minisblack"))
    tally("pixel types", tried=1, survived=1)


@pytest.mark.parametrize("compression", [None, "adobe_deflate"])
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint16, 3), (np.uint16, 4), (np.uint8, 2)])
def test_planes_that_the_decoder_mixes_up_are_refused(dtype, channels, compression, tally):
    options = {"photometric": "minisblack" if channels == 2 else "rgb", "planarconfig": "separate"}
    options |= {"extrasamples": ["unassalpha"]} if channels != 3 else {}
    data = tiff(np.ones((channels, H, W), dtype), compression=compression, **options)
    with pytest.raises(BadImage, match="separate planes"):
        decode_image(data)
    tally("pixel types", tried=1, survived=1)


@pytest.mark.parametrize("compression", [None, "adobe_deflate"])
def test_planes_of_eight_bits(compression, tally):
    samples = draw(8, 3)
    data = tiff(samples.astype(np.uint8).transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate")
    assert (decoded(data) == samples).all()
    tally("pixel types", tried=1, survived=1)


def test_planes_of_premultiplied_colours(tally):
    samples = draw(8, 4)
    samples[..., :3] = np.minimum(samples[..., :3], samples[..., 3:])
    stored = samples.astype(np.uint8).transpose(2, 0, 1).copy()
    options = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["assocalpha"]}
    found = decoded(tiff(stored, compression="adobe_deflate", **options))
    want = levels(samples[..., :3], samples[..., 3], 255, premultiplied=True)
    assert np.abs(found - want).max() <= 1  # Pillow divides by the alpha first
    tally("pixel types", tried=1, survived=1)


def jpeg2000(image):
    file = BytesIO()
    image.save(file, "JPEG2000", irreversible=False)
    return file.getvalue()


def test_gray_jpeg2000_of_sixteen_bits(tally):
    samples = draw(16, 1)
    assert (decoded(jpeg2000(Image.fromarray(samples[..., 0].astype(np.uint16)))) == levels(samples, None, 65535)).all()
    tally("pixel types", tried=1, survived=1)


def test_jpeg2000_colours_of_more_than_eight_bits_are_refused(tally):
    data = bytearray(jpeg2000(Image.new("RGB", (W, H), "white")))
    sizes = data.index(b"\xff\x4f\xff\x51") + 42
    for component in range(3):
        data[sizes + 3 * component] = 15  # 16 bits, less one
    with pytest.raises(BadImage, match="JPEG 2000 colours of 16 bits") as caught:
        decode_image(bytes(data))
    assert caught.value.reason == Reason.PIXEL_TYPE
    tally("pixel types", tried=1, survived=1)
