import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssdd.data import EvalTransform, TrainTransform, contact_sheet, to_picture
from ssdd.data.transforms import to_tensor
from ssdd.parameters import RecolourConfig
from ssdd_metrics import to_uint8

sizes = st.integers(1, 90)


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_levels_map_to_minus_one_and_one_and_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(Image.fromarray(levels))
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 16, 16)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    assert torch.allclose(tensor, torch.from_numpy(levels / 255 * 2 - 1).permute(2, 0, 1).float(), atol=1e-6)
    assert (np.asarray(to_picture(tensor)) == levels).all()


def test_pictures_are_rounded_as_the_metrics_round():
    image = torch.linspace(-1.2, 1.2, 3 * 40 * 40).view(3, 40, 40)
    image[0, 0, :3] = torch.tensor([0.5, 1.5, 2.5]) / 127.5 - 1  # half a level
    levels = to_uint8((image + 1) / 2).permute(1, 2, 0).numpy()
    assert (np.asarray(to_picture(image)) == levels).all()


@settings(max_examples=60, deadline=None)
@given(width=sizes, height=sizes, size=st.integers(1, 40))
def test_evaluation_is_torchvisions_resize_and_centre_crop(width, height, size):
    from torchvision.transforms import v2

    image = noise(width, height)
    reference = v2.Compose([v2.Resize(size, v2.InterpolationMode.BILINEAR), v2.CenterCrop(size), v2.PILToTensor()])(
        image
    )
    ours = EvalTransform(im_size=size)(image)
    assert ours.shape == (3, size, size)
    assert torch.equal((ours + 1).mul(127.5).round().to(torch.uint8), reference)


@settings(max_examples=60, deadline=None)
@given(width=sizes, height=sizes, size=st.integers(1, 40), scale=st.floats(1, 3), key=st.integers(0, 2**40))
def test_training_images_have_the_right_shape_and_depend_on_the_key_alone(width, height, size, scale, key):
    image = noise(width, height)
    epoch, index = key % 1000, key // 1000
    transform = TrainTransform(im_size=size, aug_scale=scale, seed=3)
    first = transform(image, epoch, index)
    np.random.seed(key % 100)  # noqa: NPY002
    torch.manual_seed(key % 100)
    assert first.shape == (3, size, size)
    assert first.dtype == torch.float32
    assert first.is_contiguous()
    assert first.abs().max() <= 1
    assert torch.equal(transform(image, epoch, index), first)


def test_seed_epoch_and_index_each_change_the_augmentation():
    image = noise(64, 64)
    transform = TrainTransform(im_size=16, aug_scale=2)
    base = transform(image, 0, 0)
    others = [
        transform(image, 1, 0),
        transform(image, 0, 1),
        TrainTransform(im_size=16, aug_scale=2, seed=1)(image, 0, 0),
    ]
    assert not any(torch.equal(base, other) for other in others)


def ramp(size: int) -> Image.Image:
    """Red tells the column and green the row."""
    row, column = np.mgrid[0:size, 0:size]
    return Image.fromarray(np.stack([column, row, 0 * row], axis=-1).astype(np.uint8))


def test_crops_reach_every_place_and_half_are_flipped():
    image = ramp(20).crop((0, 0, 20, 16))  # short side is the size: columns alone are cropped
    transform = TrainTransform(im_size=16)
    lefts, flipped = [], 0
    for index in range(400):
        columns = ((transform(image, 0, index)[0, 0] + 1) * 127.5).round().int()
        flipped += int(columns[0] > columns[-1])
        lefts.append(int(columns.min()))
    assert set(lefts) == {0, 1, 2, 3, 4}
    assert min(np.bincount(lefts)) > 400 / 5 * 0.6
    assert 160 < flipped < 240
    unflipped = TrainTransform(im_size=16, flip=False)
    assert all(unflipped(image, 0, index)[0, 0].diff().min() > 0 for index in range(50))


def test_aug_scale_draws_every_size_of_its_range(monkeypatch):
    import ssdd.data.transforms as module

    drawn = []
    resize = module.resize_short_side

    def record(image, size, resize_filter):
        drawn.append((size, resize_filter))
        return resize(image, size, resize_filter)

    monkeypatch.setattr(module, "resize_short_side", record)
    image = noise(30, 30)
    for index in range(200):
        TrainTransform(im_size=10, aug_scale=1.5)(image, 0, index)
    assert {size for size, _ in drawn} == {10, 11, 12, 13, 14, 15}
    drawn.clear()
    TrainTransform(im_size=10)(image, 0, 0)
    EvalTransform(im_size=10)(image)
    assert drawn == [(10, "lanczos"), (10, "bilinear")]
    assert (TrainTransform.resize_filter, TrainTransform.crop) == ("lanczos", "random")
    assert (EvalTransform.resize_filter, EvalTransform.crop) == ("bilinear", "centre")


def test_training_resize_is_lanczos():
    image = noise(40, 40)
    ours = TrainTransform(im_size=16, flip=False)(image, 0, 0)
    assert torch.equal(ours, to_tensor(image.resize((16, 16), Image.Resampling.LANCZOS)))


def test_small_images_are_enlarged():
    image = Image.new("RGB", (7, 9), (200, 100, 50))
    for transform in (TrainTransform(im_size=32, aug_scale=2), EvalTransform(im_size=32)):
        tensor = transform(image, 0, 0)
        assert tensor.shape == (3, 32, 32)
        assert torch.allclose(tensor, (torch.tensor([200.0, 100, 50]) / 127.5 - 1)[:, None, None].expand_as(tensor))


@pytest.mark.parametrize("options", [{"im_size": 0}, {"im_size": 8, "aug_scale": 0.5}, {"im_size": 8, "seed": -1}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="expected im_size"):
        TrainTransform(**options)


def test_contact_sheet():
    images = torch.stack([torch.full((3, 8, 8), value) for value in (-1.0, 0.0, 1.0, -0.5, 0.5)])
    sheet = np.asarray(contact_sheet(images, columns=3))
    assert sheet.shape == (8 * 2 + 2, 8 * 3 + 4, 3)
    assert sheet[0, 0, 0] == 0
    assert sheet[0, 8, 0] == 255  # the gap
    assert sheet[0, 10, 0] == 128
    assert sheet[10, 10, 0] == 191
    mixed = contact_sheet([noise(5, 9), np.zeros((4, 4, 3), np.uint8)], gap=0)
    assert mixed.size == (10, 9)
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([])


def test_recolouring_changes_its_share_of_the_images_and_no_other_draw():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    plain, coloured = (
        TrainTransform(im_size=32, seed=3),
        TrainTransform(im_size=32, seed=3, recolour=RecolourConfig(probability=0.3)),
    )
    same = [torch.equal(plain(picture, 0, i), coloured(picture, 0, i)) for i in range(200)]
    assert 0.6 < sum(same) / 200 < 0.8
    changed = same.index(False)
    assert torch.equal(coloured(picture, 0, changed), coloured(picture, 0, changed))
    assert not torch.equal(coloured(picture, 0, changed), coloured(picture, 1, changed))
    turned = TrainTransform(im_size=32, seed=3, recolour=RecolourConfig(probability=1, saturation=(1, 1), value=(1, 1)))
    # a turn of the hue keeps the largest channel of every pixel, so size, place and flip are those of the plain one
    difference = (turned(picture, 0, 0).amax(0) - plain(picture, 0, 0).amax(0)).abs().max()
    assert difference <= 2 / 127.5
