"""Image encoders of latent diffusion: image to posterior to latent."""

from ssdd_encoder.checkpoint import CheckpointError
from ssdd_encoder.config import EncoderConfig, encoder_config
from ssdd_encoder.encoder import Encoder
from ssdd_encoder.latents import LatentAccumulator, LatentStatistics
from ssdd_encoder.posterior import Posterior

__all__ = [
    "CheckpointError",
    "Encoder",
    "EncoderConfig",
    "LatentAccumulator",
    "LatentStatistics",
    "Posterior",
    "encoder_config",
]
__version__ = "0.1.0"
