"""Image encoders of latent diffusion: image to posterior to latent.

The import of torch takes seconds, so names that need it are imported on first use.
"""

from typing import TYPE_CHECKING

from ssdd_encoder.config import VARIANTS, EncoderConfig, encoder_config
from ssdd_encoder.sources import CheckpointError

if TYPE_CHECKING:
    from ssdd_encoder.encoder import Encoder
    from ssdd_encoder.latents import LatentAccumulator, LatentStatistics
    from ssdd_encoder.posterior import Posterior
else:  # type checkers would accept any name of a module with a `__getattr__`

    def __getattr__(name):
        from importlib import import_module

        if name in _ON_FIRST_USE:
            return getattr(import_module(f"{__name__}.{_ON_FIRST_USE[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "VARIANTS",
    "CheckpointError",
    "Encoder",
    "EncoderConfig",
    "LatentAccumulator",
    "LatentStatistics",
    "Posterior",
    "encoder_config",
]
__version__ = "0.2.0"

_ON_FIRST_USE = {
    "Encoder": "encoder",
    "LatentAccumulator": "latents",
    "LatentStatistics": "latents",
    "Posterior": "posterior",
}
