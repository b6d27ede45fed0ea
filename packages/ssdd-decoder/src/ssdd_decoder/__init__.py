"""Single-step diffusion decoder: latents to pixels in one flow-matching step.

The import of torch takes seconds, so names that need it are imported on first use.
"""

from typing import TYPE_CHECKING

from ssdd_decoder.config import SIZES, DecoderConfig, decoder_config
from ssdd_decoder.sources import CheckpointError

if TYPE_CHECKING:
    from ssdd_decoder.conditioning import Conditioning
    from ssdd_decoder.decoder import Decoder
    from ssdd_decoder.unet import Prediction
else:  # type checkers would accept any name of a module with a `__getattr__`

    def __getattr__(name):
        from importlib import import_module

        if name in _ON_FIRST_USE:
            return getattr(import_module(f"{__name__}.{_ON_FIRST_USE[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["SIZES", "CheckpointError", "Conditioning", "Decoder", "DecoderConfig", "Prediction", "decoder_config"]
__version__ = "0.2.0"

_ON_FIRST_USE = {"Conditioning": "conditioning", "Decoder": "decoder", "Prediction": "unet"}
