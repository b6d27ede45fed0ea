"""`data.decoding=fast`: the same crop as exact decoding, with nearly the same pixels; never in evaluation."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from ssdd.data import EvalTransform, ImageFolder, TrainTransform, decode_image, index_images, open_source
from ssdd.data.decoding import SIZE
from ssdd.data.embedded_sample import canvas
from ssdd.data.image_dataset import ImageDataset
from ssdd.data.image_sets import held_out_images, training_images
from ssdd.parameters import DataParameters, StageParameters


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEGs of 500 x 375 pixels, one of them on its side."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("china.jpg", "moose.jpg", "panda.jpg", "astronaut.png"):
        ImageOps.fit(canvas(name), (500, 375)).save(folder / f"{name[:5]}.jpg", quality=92)
    exif = Image.Exif()
    exif[0x0112] = 6
    ImageOps.fit(canvas("coffee.png"), (500, 375)).save(folder / "turned.jpg", quality=92, exif=exif)
    ImageOps.fit(canvas("coffee.png"), (500, 375)).save(folder / "exact.png")
    return folder


def datasets(folder, **options):
    source = ImageFolder(folder)
    index = index_images(source, held_out=0, progress=False).index
    return [
        ImageDataset(index, source, TrainTransform(im_size=64, aug_scale=2, decoding=decoding, **options))
        for decoding in ("exact", "fast")
    ]


def test_crops_are_those_of_exact_decoding(photographs):
    exact, fast = datasets(photographs)
    for index in range(len(exact)):
        for epoch in range(12):
            one, two = exact[epoch, index]["image"], fast[epoch, index]["image"]
            assert two.shape == (3, 64, 64)
            difference = (one - two).abs().mean() * 127.5
            assert difference < 12, exact.path(index)
            # Borders are whole pixels, so up to half a pixel off; a crop that is two pixels off differs by far more.
            assert (one[..., 2:] - two[..., :-2]).abs().mean() * 127.5 > 1.5 * difference


def test_a_picture_that_was_decoded_whole_differs_by_the_borders_of_its_crop_alone(photographs):
    exact, fast = datasets(photographs)
    number = [exact.path(i) for i in range(len(exact))].index("exact.png")
    for epoch in range(12):
        assert (exact[epoch, number]["image"] - fast[epoch, number]["image"]).abs().mean() * 127.5 < 3


def test_no_more_is_decoded_than_the_crop_needs(photographs):
    data = (photographs / "china.jpg").read_bytes()
    assert decode_image(data, least_side=40).size == (63, 47)
    half = decode_image(data, least_side=187)
    assert (half.size, half.info[SIZE]) == ((250, 188), (500, 375))
    whole = decode_image(data, least_side=188)
    assert whole.size == (500, 375)
    assert SIZE not in whole.info
    turned = decode_image((photographs / "turned.jpg").read_bytes(), least_side=40)
    assert (turned.size, turned.info[SIZE]) == ((47, 63), (375, 500))


def test_a_replaced_file_is_noticed(photographs, tmp_path):
    Image.new("RGB", (500, 375)).save(tmp_path / "a.jpg")
    _, fast = datasets(tmp_path)
    Image.new("RGB", (500, 376)).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="500 x 376 pixels, the index says 500 x 375"):
        fast[0, 0]


def test_the_parameter_reaches_training_and_never_evaluation(photographs):
    index = index_images(ImageFolder(photographs), held_out=0.3, progress=False).index
    for decoding in ("exact", "fast"):
        data = DataParameters(kind="folder", root=str(photographs), decoding=decoding)
        assert training_images(index, data, StageParameters()).transform.decoding == decoding
        assert held_out_images(index, data, 64).transform == EvalTransform(im_size=64)
    assert DataParameters().decoding == "exact"


def test_the_embedded_sample_has_nothing_to_decode():
    source = open_source("sample", train_images=4, validation_images=0, canvases=1)
    index = index_images(source, held_out=0, progress=False).index
    exact, fast = (
        ImageDataset(index, source, TrainTransform(im_size=32, decoding=decoding)) for decoding in ("exact", "fast")
    )
    for number in range(4):
        assert np.abs(exact[0, number]["image"].numpy() - fast[0, number]["image"].numpy()).mean() * 127.5 < 3
