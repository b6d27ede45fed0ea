"""Every image of the index through the frozen encoder."""

from pathlib import Path
from typing import Any

from ssdd.generation_parameters import LatentsParameters
from ssdd.parameters import DataParameters, RuntimeConfig


def encode_latents(
    encoder: Path, index: Any, latents: LatentsParameters, data: DataParameters, runtime: RuntimeConfig
) -> Path:
    """Writes the latents of both splits, and goes on where an interrupted pass stopped.

    Args:
        encoder: its checkpoint.
        index: of the images.
        latents: resolution, dtype, what is kept.
        data: the images' source.
        runtime: device, processes, threads.

    Returns:
        a folder of shards with their manifest, see `ssdd.generation.latent_manifest`.
    """
    from ssdd.data.image_sets import open_images
    from ssdd.generation.latent_images import images_of
    from ssdd.generation.latent_shards import LatentJob, write_latents
    from ssdd.lineage import state_folder

    return write_latents(
        LatentJob(
            encoder=encoder,
            images=images_of(index, open_images(data), latents.im_size, latents.limit),
            parameters=latents,
            folder=state_folder() / "latents",
            runtime=runtime,
        )
    )
