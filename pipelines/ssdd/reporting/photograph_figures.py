"""Whole photographs for people: one picture, one table, and the data of the report's viewer."""

# H W pixels

import base64
import io
from typing import Any

INPUT = "input"
CELL = 400  # width of a photograph in the picture, pixels
GAP = 8
DETAIL = 3  # a detail shows this fraction of a photograph's sides


def summary(table: Any) -> list[dict[str, Any]]:
    """Sums up each row over all photographs, in the order of the table.

    Args:
        table: of `decode_photographs`.

    Returns:
        for each row its name, the median and the smallest gain in PSNR over the resize by F (dB), and the means of all
        figures that reports show.
    """
    from ssdd_metrics.registry import reported_metrics

    psnr = table.pivot(index="number", columns="row", values="psnr")
    resize = next(name for name in table["row"] if name.startswith("resize"))
    rows = []
    for name in dict.fromkeys(table["row"]):
        gains = psnr[name] - psnr[resize]
        values = table[table["row"] == name]
        means = {metric.name: values[metric.name].mean() for metric in reported_metrics(table.columns)}
        border = values["border_ratio"].mean()
        rows.append({"row": name, "gain": gains.median(), "worst": gains.min(), **means, "border_ratio": border})
    return rows


def photographs_figure(pictures: dict[str, Any], table: Any, count: int = 3) -> Any:
    """Draws the first photographs in columns: the input and the compared rows.

    Below each photograph stands a detail of it, enlarged without smoothing: the part with the most texture.

    Args:
        pictures: uint8 (3, H, W) by `<number>.<row>`.
        table: of the same photographs.
        count: photographs at most.

    Returns:
        A PIL image.
    """
    from PIL import Image, ImageDraw

    columns = (INPUT, *compared_rows(table))
    blocks = [[pictures[f"{number}.{name}"] for name in columns] for number in dict.fromkeys(table["number"])][:count]
    heights = [_scaled(block[0].shape[1], block[0].shape[2]) for block in blocks]
    header, detail = 36, CELL * 2 // 3
    total = header + sum(height + detail + 3 * GAP for height in heights)
    sheet = Image.new("RGB", (len(columns) * (CELL + GAP) - GAP, total), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((column * (CELL + GAP) + CELL // 2, header // 2), name, fill="black", font_size=22, anchor="mm")
    top = header
    for block, height in zip(blocks, heights, strict=True):
        box = _textured(block[0])
        for column, pixels in enumerate(block):
            left, image = column * (CELL + GAP), _picture(pixels)
            sheet.paste(image.resize((CELL, height), Image.Resampling.LANCZOS), (left, top))
            part = image.crop(box).resize((CELL, detail), Image.Resampling.NEAREST)
            sheet.paste(part, (left, top + height + GAP))
        top += height + detail + 3 * GAP
    return sheet


def viewer_data(pictures: dict[str, Any], table: Any) -> list[dict[str, Any]]:
    """Returns what the report's viewer needs of each photograph: its name, and each row's picture and figures.

    Pictures are WebP at quality 92, which keeps one file small enough for a phone; figures are of the exact ones.
    """
    from ssdd_metrics.registry import reported_metrics

    metrics = reported_metrics(table.columns)
    found = []
    for number, rows in table.groupby("number", sort=False):
        shown = [{"name": INPUT, "source": _embedded(pictures[f"{number}.{INPUT}"]), "figures": ""}]
        for row in rows.to_dict("records"):
            figures = ", ".join(f"{metric.title} {row[metric.name]:.{metric.digits}f}" for metric in metrics)
            shown.append(
                {"name": row["row"], "source": _embedded(pictures[f"{number}.{row['row']}"]), "figures": figures}
            )
        first = rows.iloc[0]
        size = {"width": int(first["width"]), "height": int(first["height"])}
        found.append({"name": str(first["photograph"]), **size, "rows": shown})
    return found


def compared_rows(table: Any) -> tuple[str, str, str]:
    """Returns the rows that a reader compares first: the last resize, the teacher's most steps, the student's fewest.

    The last resize has as many numbers as the latents. The first has far fewer, and a comparison with it means little.
    """
    rows = list(dict.fromkeys(table["row"]))
    resizes, teachers, students = ([row for row in rows if row.startswith(k)] for k in ("resize", "teacher", "student"))
    return resizes[-1], teachers[0], students[-1]


def _scaled(height: int, width: int) -> int:
    return round(CELL * height / width)


def _textured(pixels: Any) -> tuple[int, int, int, int]:
    """Returns the box (left, top, right, bottom) with the most gradient energy, a third of the width wide and 3 : 2."""
    import torch.nn.functional as F

    _, height, width = pixels.shape
    wide = width // DETAIL
    high = min(height, wide * 2 // 3)
    gray = pixels.double().mean(0)
    energy = (gray[:-1, 1:] - gray[:-1, :-1]).square() + (gray[1:, :-1] - gray[:-1, :-1]).square()
    sums = F.avg_pool2d(energy[None, None], (high - 1, wide - 1), stride=1)[0, 0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return left, top, left + wide, top + high


def _picture(pixels: Any) -> Any:
    from PIL import Image

    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _embedded(pixels: Any) -> str:
    buffer = io.BytesIO()
    _picture(pixels).save(buffer, format="WEBP", quality=92, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
