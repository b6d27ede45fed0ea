"""Single-step diffusion decoder: latents to pixels in one flow-matching step."""

from ssdd_decoder.conditioning import Conditioning
from ssdd_decoder.config import SIZES, DecoderConfig, decoder_config
from ssdd_decoder.decoder import Decoder
from ssdd_decoder.sources import CheckpointError
from ssdd_decoder.unet import Prediction

__all__ = ["SIZES", "CheckpointError", "Conditioning", "Decoder", "DecoderConfig", "Prediction", "decoder_config"]
__version__ = "0.2.0"
