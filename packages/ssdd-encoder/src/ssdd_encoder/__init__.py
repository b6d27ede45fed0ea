"""Image encoders of latent diffusion: image to posterior to latent."""

from ssdd_encoder.config import VARIANTS, EncoderConfig, encoder_config
from ssdd_encoder.encoder import Encoder
from ssdd_encoder.latents import LatentAccumulator, LatentStatistics
from ssdd_encoder.posterior import Posterior
from ssdd_encoder.sources import CheckpointError

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
