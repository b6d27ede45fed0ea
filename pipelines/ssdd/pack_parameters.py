"""The parameters of a packed copy of the images, typed."""

from typing import Literal

from pydantic import Field

from ssdd.parameters import MOST_SIDE, Frozen


class PackParameters(Frozen):
    """The packed copy: training images are resized once, held-out images are stored as they are."""

    side: int = Field(default=256, ge=8, le=MOST_SIDE, description="short side of training images, pixels")
    stored_as: Literal["raw", "jpeg"] = Field(
        default="raw", description="raw: 0.26 MB each at 256 pixels, without loss, fastest; jpeg: a tenth of that"
    )
    shard_images: int = Field(default=4096, ge=1, description="images per file")
