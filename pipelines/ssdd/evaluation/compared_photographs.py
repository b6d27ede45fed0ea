"""The whole photographs of the evaluation, decoded again by other decoders, for the figure of their differences."""

# H W pixels

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from ssdd.evaluation.compared import ComparedDecoder, place
from ssdd.evaluation.photographs import INPUT
from ssdd.imaging.canvas import pad, to_images
from ssdd.parameters import RuntimeConfig
from ssdd.processes import choose_device, use_threads
from ssdd.progress import bar
from ssdd_metrics import to_uint8


@torch.no_grad()
def decode_again(
    pictures: Mapping[str, Tensor], decoders: Sequence[ComparedDecoder], runtime: RuntimeConfig
) -> dict[str, Tensor]:
    """Decodes the inputs among the pictures of `photographs.decode_photographs`.

    Args:
        pictures: uint8 (3, H, W) by `<number>.<row>`.
        decoders: of this project; each decodes in one call.
        runtime: device and threads.

    Returns:
        uint8 (3, H, W) by `<number>.<name of the decoder>`.
    """
    use_threads(runtime)
    device = choose_device(runtime.device)
    inputs = {name.partition(".")[0]: picture for name, picture in pictures.items() if name.endswith(f".{INPUT}")}
    found: dict[str, Tensor] = {}
    with bar("photographs", len(inputs) * len(decoders), show=runtime.display) as advance:
        for decoder in decoders:
            model = place(decoder.open(), device, torch.float32)
            for number, picture in inputs.items():
                _, height, width = picture.shape
                photograph = Image.fromarray(picture.permute(1, 2, 0).numpy())
                canvas = pad(number, photograph, model.model.decoder.config.downscale)
                decoded = model.decode(model.encode(to_images([canvas], device)).mode(), 1, check_finite=True)
                levels = to_uint8(((decoded[0] + 1) / 2).clamp(0, 1)).cpu()
                found[f"{number}.{decoder.name}"] = levels[:, :height, :width]
                advance(1)
    return found
