import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from ssdd.data import BadImage, Reason, decode_image


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def png(depth: int, colour_type: int, pixels: np.ndarray) -> bytes:
    """A PNG written by hand from the standard: pixels (H, W, channels)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_rgb_is_exact(picture, encode, image_format):
    decoded = decode_image(encode(picture, image_format))
    assert decoded.mode == "RGB"
    assert (array(decoded) == array(picture)).all()


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("AVIF", {"quality": 95}), ("JPEG2000", {})],
)
def test_lossy_rgb_is_close(picture, encode, image_format, options):
    decoded = decode_image(encode(picture, image_format, **options))
    assert abs(array(decoded) - array(picture)).mean() < 4


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray_becomes_three_equal_channels(picture, encode, mode):
    gray = picture.convert(mode)
    decoded = array(decode_image(encode(gray)))
    assert (decoded == array(gray.convert("L"))[..., None]).all()


def test_palette_keeps_its_colours(picture, encode):
    palette = picture.quantize(64)
    for image_format in ("PNG", "GIF", "TIFF"):
        decoded = array(decode_image(encode(palette, image_format)))
        assert (decoded == array(palette.convert("RGB"))).all()
        assert abs(decoded - array(picture)).mean() < 12


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_cmyk_has_the_colours_of_the_rgb_it_came_from(picture, encode, image_format):
    options = {"quality": 95} if image_format == "JPEG" else {}
    decoded = decode_image(encode(picture.convert("CMYK"), image_format, **options))
    assert abs(array(decoded) - array(picture)).mean() < 4


def test_ycbcr_and_lab_tiffs_have_right_colours(picture, encode):
    stored = encode(
        picture.convert("YCbCr"), "TIFF", compression="tiff_lzw"
    )  # without, Pillow reads it only from 13 on
    assert abs(array(decode_image(stored)) - array(picture)).mean() < 4
    stored = encode(Image.new("LAB", (8, 8), (136, 128, 128)), "TIFF")
    assert bytes([136, 0, 0]) * 64 in stored  # L* = 136/255 * 100, a* = b* = 0 by TIFF's standard: a neutral gray
    red, green, blue = array(decode_image(stored))[0, 0]
    assert max(red, green, blue) - min(red, green, blue) <= 4
    assert abs(green - 127) <= 6  # CIE L* 53.3 is sRGB 127


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_gray_is_scaled_not_clipped(picture, encode, image_format):
    gray = np.asarray(picture.convert("L"))
    wide = Image.fromarray(gray.astype(np.uint16) * 257)
    decoded = array(decode_image(encode(wide, image_format)))
    assert (decoded == gray[..., None]).all()


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_by_the_standard(picture, colour_type, channels):
    colours = np.asarray(picture)[..., : 1 if channels < 3 else 3].astype(np.uint32) * 257
    opaque = np.full((*colours.shape[:2], 1), 65535)
    pixels = colours if channels in (1, 3) else np.concatenate([colours, opaque], axis=-1)
    decoded = array(decode_image(png(16, colour_type, pixels)))
    assert (decoded == colours // 257).all()


def test_alpha_is_composited_on_white(picture, encode):
    for image_format in ("PNG", "TIFF"):
        for alpha in (0, 100, 255):
            see_through = picture.copy()
            see_through.putalpha(alpha)
            expected = (array(picture) * alpha + 255 * (255 - alpha)) / 255
            assert abs(array(decode_image(encode(see_through, image_format))) - expected).max() <= 1


def test_transparent_palette_entry_and_key_colour_become_white(encode):
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(0, (0, 0, 4, 8))
    for image_format in ("PNG", "GIF"):
        decoded = array(decode_image(encode(palette, image_format, transparency=0)))
        assert (decoded[:, :4] == 255).all()
        assert (decoded[:, 4:] == (200, 100, 50)).all()
    keyed = Image.new("RGB", (8, 8), (1, 2, 3))
    keyed.paste((9, 9, 9), (0, 0, 4, 8))
    decoded = array(decode_image(encode(keyed, transparency=(9, 9, 9))))
    assert (decoded[:, :4] == 255).all()
    assert (decoded[:, 4:] == (1, 2, 3)).all()


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(encode, image_format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.n_frames == 3
    assert (array(decode_image(data)) == (255, 0, 0)).all()


UPRIGHT_FROM_STORED = {  # by the EXIF standard: where row 0 and column 0 of the stored pixels are to be shown
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(picture, encode, orientation, image_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {}
    decoded = decode_image(encode(picture, image_format, exif=exif, **options))
    expected = UPRIGHT_FROM_STORED[orientation](array(picture))
    assert (array(decoded) == expected).all()


def test_phone_jpeg_with_orientation_and_a_second_picture(picture, encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    small = picture.resize((30, 20))
    data = encode(picture, "MPO", save_all=True, append_images=[small], exif=exif, quality=95)
    assert decode_image(data).size == (picture.height, picture.width)


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_leaves_the_picture_as_stored(picture, encode):
    data = encode(picture, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\x01garbage")
    assert (array(decode_image(data)) == array(picture)).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_range_are_refused(picture, encode, mode):
    with pytest.raises(BadImage, match="8 or 16 bits") as caught:
        decode_image(encode(picture.convert("L").convert(mode), "TIFF"))
    assert caught.value.reason == Reason.PIXEL_TYPE


FORMATS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("BMP", {}),
    ("PPM", {}),
    ("JPEG2000", {}),
    ("AVIF", {}),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("image_format", "options"), FORMATS)
@pytest.mark.parametrize("careless_library", [False, True])
def test_half_a_file_never_passes_for_a_whole_one(
    picture, encode, monkeypatch, image_format, options, careless_library
):
    data = encode(picture, image_format, **options)
    whole = array(decode_image(data))
    refused = 0
    cuts = [*range(0, len(data), max(1, len(data) // 60)), len(data) - 1]
    for cut in cuts:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", careless_library)
        try:
            assert (array(decode_image(data[:cut])) == whole).all()
        except BadImage:
            refused += 1
    assert refused >= len(cuts) - 3


def test_flipped_bit_in_a_png_is_seen(picture, encode):
    data = bytearray(encode(picture))
    for place in range(40, len(data), 97):
        broken = data.copy()
        broken[place] ^= 0x10
        with pytest.raises(BadImage):
            decode_image(bytes(broken))


def test_png_without_its_end_mark_is_truncated(picture, encode):
    with pytest.raises(BadImage) as caught:
        decode_image(encode(picture)[:-12])
    assert caught.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b"hello, I am no image\n" * 20, Reason.NOT_AN_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.NOT_AN_IMAGE),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 100, Reason.UNREADABLE),
        (b"II*\0" + b"\xff" * 100, Reason.UNREADABLE),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_reasons(data, reason):
    with pytest.raises(BadImage) as caught:
        decode_image(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "PNG", "GIF"])
def test_cut_in_the_middle_is_called_truncated(picture, encode, image_format):
    data = encode(picture, image_format)
    with pytest.raises(BadImage) as caught:
        decode_image(data[: len(data) * 3 // 4])
    assert caught.value.reason == Reason.TRUNCATED


def test_bomb_is_refused_before_its_pixels_are_decoded(encode, monkeypatch):
    data = encode(Image.new("L", (300, 200)))
    assert decode_image(data, max_pixels=60_000).size == (300, 200)

    def explode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    with pytest.raises(BadImage, match="300 x 200") as caught:
        decode_image(data, max_pixels=59_999)
    assert caught.value.reason == Reason.BOMB


@pytest.mark.filterwarnings("ignore")
def test_gigantic_header_is_a_bomb_whatever_the_limit():
    data = png(8, 0, np.zeros((1, 1, 1)))
    header = b"IHDR" + struct.pack(">II", 2**30, 2**30) + data[24:29]
    huge = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    for limit in (1000, 2**62):
        with pytest.raises(BadImage) as caught:
            decode_image(huge, max_pixels=limit)
        assert caught.value.reason == Reason.BOMB
