"""Folders of good and bad images, a stand-in for a model that loses nothing, and a small real one."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

SCALE = 8
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: the camera was turned by 90 degrees


class CallableParts(SimpleNamespace):
    """Attributes, and a call that goes to one of them."""

    def __call__(self, *arguments, **options):
        return self.called(*arguments, **options)


class Lossless:
    """Encodes and decodes without loss, through (B, 192, h, w); can add its noise and remembers its batches."""

    def __init__(self, noise=0.0):
        self.amount = noise
        self.batches = []
        shape = SimpleNamespace(downscale=SCALE, latent_channels=3 * SCALE**2, upscale=1)
        self.upscale = 1
        weight = SimpleNamespace(weight=torch.zeros(1))
        large = {"confines": lambda height, width: height > 100}
        self.encoder = CallableParts(
            called=self.encode, config=shape, parameters=lambda: iter([weight.weight]), **large
        )
        self.decoder = SimpleNamespace(config=shape, conv_in=weight, decode=self.decode)

    def encode(self, x):
        self.batches.append(tuple(x.shape))
        assert not x.shape[2] % SCALE
        assert not x.shape[3] % SCALE
        return SimpleNamespace(mode=lambda: pixel_unshuffle(x, SCALE))

    def decode(self, z, steps, noise, check_finite, tile, progress):
        return pixel_shuffle(z, SCALE) + self.amount * noise


def picture(height, width, seed=0):
    """Smooth colours and some noise, so that a flipped or shifted copy is another picture."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack([x * 3, y * 5, x + y], axis=-1) + np.random.default_rng(seed).integers(0, 20, (height, width, 3))
    return Image.fromarray((levels % 256).astype(np.uint8))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GOOD = {
    "one.png": encoded(picture(1, 1)),
    "odd.png": encoded(picture(33, 517)),
    "deep/er/tall.webp": encoded(picture(70, 9), "WEBP", lossless=True),
    "gray.png": encoded(picture(20, 30).convert("L")),
    "alpha.png": encoded(picture(24, 24).convert("RGBA").resize((40, 31))),
    "half.png": encoded(Image.merge("LA", [Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 51)])),
    "cmyk.jpg": encoded(picture(40, 50).convert("CMYK"), "JPEG", quality=95),
    "turned.jpg": encoded(picture(20, 48), "JPEG", exif=TURNED),
    "deep/SHOUT.PNG": encoded(picture(64, 64)),
}
BAD = {
    "cut.png": (encoded(picture(64, 64))[:600], "truncated"),
    "cut.jpg": (encoded(picture(64, 64), "JPEG")[:900], "truncated"),
    "deep/text.jpg": (b"this is not a picture", "not an image"),
    "empty.png": (b"", "truncated"),
    "notes.txt": (b"nor is this", "not an image"),
}


@pytest.fixture
def folder(tmp_path):
    """All of `GOOD` and `BAD`, and hidden files, which nobody looks at."""
    for name, data in [*GOOD.items(), *((name, data) for name, (data, _) in BAD.items())]:
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "in/.hidden.png").write_bytes(GOOD["odd.png"])
    return tmp_path / "in"


@pytest.fixture
def small(tmp_path):
    """A folder of three sound images of two sizes."""
    for name, (height, width) in {"a.png": (16, 20), "b/c.png": (90, 70), "d.png": (20, 16)}.items():
        file = tmp_path / "small" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(height, width, seed=len(name))))
    return tmp_path / "small"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The quickstart's model with random weights in every layer (some start at zero)."""
    from ssdd import SSDD

    generator = torch.Generator().manual_seed(0)
    model = SSDD("quickstart", "quickstart")
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "ssdd.safetensors")


@pytest.fixture
def ssdd():
    """Runs the command line: (exit status, standard output, error output)."""
    from ssdd.commands.group import cli

    def run(*arguments):
        result = CliRunner(catch_exceptions=False, env={"COLUMNS": "160"}).invoke(
            cli, [str(argument) for argument in arguments]
        )
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def lossless():
    return Lossless


@pytest.fixture
def good():
    return GOOD


@pytest.fixture
def bad():
    return {name: reason for name, (_, reason) in BAD.items()}


@pytest.fixture
def one_line():
    """Returns the last line of what a command said of an error, which must be one line of it."""

    def last(error):
        lines = error.strip().splitlines()
        assert "Traceback" not in error
        assert len([line for line in lines if line.startswith("Error: ")]) == 1
        return lines[-1]

    return last
