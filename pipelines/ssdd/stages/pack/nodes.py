"""The images once more, resized and in few files, from which training reads several times as fast."""

from pathlib import Path
from typing import Any

from ssdd.pack_parameters import PackParameters
from ssdd.parameters import DataParameters, RuntimeConfig


def pack_images(index: Any, data: DataParameters, pack: PackParameters, runtime: RuntimeConfig) -> Path:
    """Writes tar shards, which other runs take as `data.kind=tar`.

    Args:
        index: the table of usable images.
        data: the images' source.
        pack: size, format, images of a shard.
        runtime: display of the progress.

    Returns:
        the folder of the shards; an interrupted run goes on with the next shard.
    """
    from ssdd.data.image_sets import open_images
    from ssdd.data.packing import pack as write_shards
    from ssdd.lineage import state_folder
    from ssdd.processes import join_group, wait_for_all
    from ssdd.progress import bar

    rank, ranks = join_group()
    folder = state_folder() / "packed"
    folder.mkdir(parents=True, exist_ok=True)
    share = -(-len(index) // ranks)
    with bar("packing", share, runtime.display if rank == 0 else False) as advance:
        write_shards(index, open_images(data), pack, folder, rank, ranks, advance)
    wait_for_all()
    return folder
