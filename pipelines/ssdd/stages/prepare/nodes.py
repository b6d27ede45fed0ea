"""One pass over the images."""

from typing import Any

from ssdd.parameters import DataParameters, PrepareParameters, RuntimeConfig

SHEET = 32  # examples on the sheet


def prepare_images(
    images: Any, data: DataParameters, prepare: PrepareParameters, runtime: RuntimeConfig
) -> tuple[Any, Any, Any]:
    """Decodes every image once, and lists the usable ones.

    Args:
        images: the folder. It is unused, since the parameters open the source; as an input it makes the index stale
            when an image changes.
        data: the images' source.
        prepare: limits on the images.
        runtime: workers.

    Returns:
        the index (a row per usable image), the rejected files with reasons, and a sheet of examples; on other ranks
        than 0, which only help to decode, nothing.

    Raises:
        ValueError: nothing is usable, too many files are rejected, or there are no two different images.
    """
    from ssdd.data.contact_sheets import contact_sheet
    from ssdd.data.examiners import Examiners
    from ssdd.data.image_index import check_held_out, index_images
    from ssdd.data.image_sets import open_images
    from ssdd.processes import join_group

    source = open_images(data)
    rank, ranks = join_group()
    if rank:
        with Examiners(source, runtime.workers, rank, ranks) as examiners:
            examiners.serve()
        return None, None, None
    with _known_facts(data) as known:
        found = index_images(
            source,
            **prepare.model_dump(),
            workers=runtime.workers,
            ranks=ranks,
            known=known,
            progress=runtime.display,
        )
    check_held_out(found.index, prepare.held_out)
    chosen = found.index.iloc[:: max(len(found.index) // SHEET, 1)].head(SHEET)
    thumbnails = []
    for path in chosen["path"]:
        picture = source.open(path)
        picture.thumbnail((96, 96))
        thumbnails.append(picture)
    return found.index, found.rejected, contact_sheet(thumbnails, columns=8)


def _known_facts(data: DataParameters) -> Any:
    """Opens the facts that earlier passes over the same place have found, with the same code; none outside a run."""
    import os

    from ssdd.data.known_facts import KnownFacts
    from ssdd.lineage.running_node import running_node
    from ssdd.runs import fact_cache

    try:
        node = running_node()
    except RuntimeError:
        return KnownFacts(None)
    where = data.hub or os.path.abspath(os.path.expanduser(data.root or ""))
    place = f"{data.kind} {where} {sorted(data.options.items())}"
    return KnownFacts(fact_cache(node.run_folder), place, node.method, anew=node.discard_state)
