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
        the index (a row per usable image), the rejected files with reasons, and a sheet of examples.

    Raises:
        ValueError: nothing is usable, too many files are rejected, or there are no two different images.
    """
    from ssdd.data.contact_sheets import contact_sheet
    from ssdd.data.image_index import check_held_out, index_images
    from ssdd.data.image_sets import open_images

    source = open_images(data)
    found = index_images(source, **prepare.model_dump(), workers=runtime.workers, progress=runtime.display)
    check_held_out(found.index, prepare.held_out)
    chosen = found.index.iloc[:: max(len(found.index) // SHEET, 1)].head(SHEET)
    thumbnails = []
    for path in chosen["path"]:
        picture = source.open(path)
        picture.thumbnail((96, 96))
        thumbnails.append(picture)
    return found.index, found.rejected, contact_sheet(thumbnails, columns=8)
