"""The embedded sample: images that need no download.

A third of the training images are crops of the colour photographs inside scikit-image's wheel, a third of photographs
in the folder `photographs` (its ATTRIBUTION.csv names authors and licences), and a third of dead leaves. Eight
photographs are held out whole: all validation images are crops of these eight, and no training image is.

scikit-image's photographs alone have few colours, and a colour that is not in the training images comes out gray.
"""

import functools
import hashlib
import importlib.util
import re
from pathlib import Path

import numpy as np
from PIL import Image

from ssdd.data.dead_leaves import paint_dead_leaves
from ssdd.data.decoding import BadImage, Reason, decode_image, read_image_file
from ssdd.data.source import TRAIN, VALIDATION, ImageFacts, Listing, Source

SKIMAGE_PHOTOGRAPHS = (
    "chelsea.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
OWN_PHOTOGRAPHS = (
    "citrus-fruits.jpg",
    "european-honey-bee.jpg",
    "flower.jpg",
    "forest-stream.jpg",
    "friends.jpg",
    "paint-brushes.jpg",
    "seeding.jpg",
    "sunset.jpg",
)
TRAIN_PHOTOGRAPHS = SKIMAGE_PHOTOGRAPHS + OWN_PHOTOGRAPHS
HELD_OUT_PHOTOGRAPHS = (
    "astronaut.png",
    "china.jpg",
    "cincinnati-bridge.jpg",
    "coffee.png",
    "crocodile.jpg",
    "moose.jpg",
    "panda.jpg",
    "picosdeeuropa.jpg",
)

_NAME = re.compile(r"(?P<canvas>[\w.-]+)/y(?P<top>\d+)x(?P<left>\d+)s(?P<side>\d+)")

MOST_CROPS, MOST_CANVASES = 1_000_000, 1000  # names and canvases stay in memory


class EmbeddedSample(Source):
    """Square crops, whose places and sizes are drawn once from the seed; each name states its crop.

    Crop sides are spread evenly over octaves, so that the same object appears at several scales. The canvases
    stay in memory (about 40 MB); all sources of the process share them.

    Args:
        train_images: number of training crops, a third from each family.
        validation_images: number of crops of the held-out photographs.
        crop_min: smallest side of a crop, pixels.
        crop_max: largest side; at most 300, the short side of the smallest photograph.
        canvases: number of dead-leaves canvases of 512 pixels; every second one has saturated colours.
        seed: seed of places, sizes and leaves.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        *,
        train_images: int = 4096,
        validation_images: int = 256,
        crop_min: int = 64,
        crop_max: int = 256,
        canvases: int = 12,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if train_images < 1 or validation_images < 0 or canvases < 1 or seed < 0:
            raise ValueError(
                "expected train_images and canvases of at least 1, validation_images and seed of at least 0, "
                f"got {train_images}, {canvases}, {validation_images}, {seed}"
            )
        if max(train_images, validation_images) > MOST_CROPS or canvases > MOST_CANVASES:
            raise ValueError(
                f"expected at most {MOST_CROPS:,} crops of the embedded sample and {MOST_CANVASES} canvases, got "
                f"{train_images}, {validation_images} and {canvases}: use images of your own"
            )
        if not 8 <= crop_min <= crop_max <= 300:
            raise ValueError(f"expected 8 <= crop_min <= crop_max <= 300, got {crop_min} and {crop_max}")
        self.counts = {TRAIN: train_images, VALIDATION: validation_images}
        self.crop_min, self.crop_max, self.canvases, self.seed = crop_min, crop_max, canvases, seed

    def __repr__(self) -> str:
        return f"EmbeddedSample(seed={self.seed})"

    def listing(self) -> Listing:
        """Returns the names of all crops, e.g. `chelsea.png/y12x40s128`."""
        leaves = tuple(f"leaves-{self.seed}-{number}" for number in range(self.canvases))
        train = self._crops(TRAIN, [SKIMAGE_PHOTOGRAPHS, leaves, OWN_PHOTOGRAPHS])
        return Listing(names={TRAIN: train, VALIDATION: self._crops(VALIDATION, [HELD_OUT_PHOTOGRAPHS])})

    def _crops(self, split: str, families: list[tuple[str, ...]]) -> list[str]:
        """Returns the names of one split's crops; families get equal shares, and so do the canvases of a family."""
        # A stream per split: another number of training crops leaves the validation crops as they are.
        rng = np.random.Generator(np.random.PCG64([4, self.seed, list(self.counts).index(split)]))
        names = []
        for i in range(self.counts[split]):
            family = families[i % len(families)]
            name = family[i // len(families) % len(family)]
            u_side, u_top, u_left = rng.random(3)
            side = round(self.crop_min * (self.crop_max / self.crop_min) ** u_side)
            width, height = canvas(name).size
            top, left = int(u_top * (height - side + 1)), int(u_left * (width - side + 1))
            names.append(f"{name}/y{top}x{left}s{side}")
        return names

    # Crops are stored nowhere as files, so `open` and `examine` skip the encoding and decoding of `Source`.

    def read(self, path: str) -> bytes:
        """Returns the raw RGB pixels of one crop, row by row."""
        return self.open(path).tobytes()

    def open(self, path: str, least_side: int | None = None) -> Image.Image:
        """Returns one crop.

        Args:
            path: a name from the listing.
            least_side: without effect, since nothing is decoded.

        Raises:
            BadImage: there is no such crop.
        """
        match = _NAME.fullmatch(path)
        if match is None:
            raise BadImage(Reason.MISSING, f"expected a name like 'chelsea.png/y12x40s128', got {path!r}")
        whole = canvas(match["canvas"])
        top, left, side = int(match["top"]), int(match["left"]), int(match["side"])
        if not (side >= 1 and left + side <= whole.width and top + side <= whole.height):
            raise BadImage(Reason.MISSING, f"{path!r} is outside of its {whole.width} x {whole.height} canvas")
        return whole.crop((left, top, left + side, top + side))

    def class_of(self, path: str) -> str:
        """Returns `leaves` or `photographs`: the sample has no other classes."""
        return "leaves" if path.startswith("leaves-") else "photographs"

    def photograph_of(self, path: str) -> str:
        """Returns the file name of the photograph that a crop is from."""
        return path.partition("/")[0]

    def open_photograph(self, name: str) -> Image.Image:
        """Returns a whole photograph."""
        return canvas(name)

    def examine(self, path: str) -> ImageFacts:
        """Returns the facts of one crop; size and hash are those of its raw pixels."""
        image = self.open(path)
        data = image.tobytes()
        digest = hashlib.sha256(data).hexdigest()
        return ImageFacts(width=image.width, height=image.height, size=len(data), sha256=digest)

    def preload(self) -> None:
        """Decodes the photographs and paints the canvases: about a second, once per process."""
        for name in (*TRAIN_PHOTOGRAPHS, *HELD_OUT_PHOTOGRAPHS):
            canvas(name)
        for number in range(self.canvases):
            canvas(f"leaves-{self.seed}-{number}")


@functools.cache
def canvas(name: str) -> Image.Image:
    """Returns a whole photograph or canvas; it stays cached for the life of the process, so do not draw on it.

    Args:
        name: a photograph's file name, or `leaves-<seed>-<number>`.

    Raises:
        BadImage: there is no such canvas.
    """
    leaves = re.fullmatch(r"leaves-(\d+)-(\d+)", name)
    if leaves is not None:
        number = int(leaves[2])
        return paint_dead_leaves(int(leaves[1]), number, saturated=number % 2 == 1)
    if name not in TRAIN_PHOTOGRAPHS + HELD_OUT_PHOTOGRAPHS:
        raise BadImage(Reason.MISSING, f"expected one of the sample's photographs, got {name!r}")
    own = Path(__file__).parent / "photographs" / name
    return decode_image(read_image_file(own if own.is_file() else _skimage_folder() / name))


def _skimage_folder() -> Path:
    """Returns the data folder of the installed scikit-image.

    scikit-image is not imported: that takes a second, and its `data` module may start a downloader.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ValueError("the embedded sample needs scikit-image: pip install 'ssdd[demo]'")
    return Path(spec.origin).parent / "data"
