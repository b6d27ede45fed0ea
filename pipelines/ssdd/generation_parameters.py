"""The parameters of generation, typed: latents in shards."""

from typing import Literal

from pydantic import Field

from ssdd.parameters import MOST_BATCH, MOST_SIDE, Frozen


class LatentsParameters(Frozen):
    """Latents of all images in shards: what a generator trains on."""

    im_size: int = Field(default=256, ge=8, le=MOST_SIDE, description="side of the square images, pixels")
    batch_size: int = Field(default=32, ge=1, le=MOST_BATCH, description="images at a time per process")
    limit: int | None = Field(default=None, ge=1, description="images per split; all by default")
    keep: Literal["posterior", "mode"] = Field(
        default="posterior", description="mean and logvar, from which latents can be sampled, or the mean alone"
    )
    flipped: bool = Field(default=False, description="also the latents of the mirrored images")
    dtype: Literal["float16", "bfloat16", "float32"] = Field(default="float16", description="of the stored latents")
    shard_size: int = Field(default=1024, ge=1, description="images per file")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="of the encoder's computation")
