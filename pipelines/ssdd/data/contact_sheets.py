"""Contact sheets: several pictures side by side, for previews and reports."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ssdd_metrics import to_uint8


def to_picture(image: torch.Tensor) -> Image.Image:
    """Converts an image tensor to a picture, clamped and rounded to 8 bits.

    Args:
        image: (3, H, W) in [-1, 1].
    """
    # The metrics' own rounding: a picture on a sheet shows the very levels that were measured.
    levels = to_uint8(image.detach().float().add(1).div(2).clamp(0, 1))
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())


def contact_sheet(
    images: torch.Tensor | Sequence[Image.Image | np.ndarray | torch.Tensor],
    *,
    columns: int | None = None,
    gap: int = 2,
) -> Image.Image:
    """Pastes pictures on a white sheet, row by row; every cell has the size of the largest picture.

    Args:
        images: (B, 3, H, W) in [-1, 1], or a list of RGB pictures, (H, W, 3) uint8 arrays or (3, H, W)
            tensors.
        columns: pictures per row; by default the sheet is as square as possible.
        gap: white pixels between the cells.

    Raises:
        ValueError: there is no image, or `columns` is below 1.
    """
    pictures = [_picture(image) for image in images]
    if not pictures or (columns is not None and columns < 1):
        raise ValueError(f"expected at least one image and one column, got {len(pictures)} and {columns}")
    across = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    down = math.ceil(len(pictures) / across)
    width = max(picture.width for picture in pictures) + gap
    height = max(picture.height for picture in pictures) + gap
    sheet = Image.new("RGB", (across * width - gap, down * height - gap), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % across * width, i // across * height))
    return sheet


def _picture(image: Image.Image | np.ndarray | torch.Tensor) -> Image.Image:
    if isinstance(image, torch.Tensor):
        return to_picture(image)
    return image if isinstance(image, Image.Image) else Image.fromarray(image)
