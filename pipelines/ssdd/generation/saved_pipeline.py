"""A generator and a decoder as a folder that `DiffusionPipeline.from_pretrained` loads: diffusers' `DiTPipeline`.

The pipeline adds no mean and takes row 1000 of the table of classes for no class. So the mean and deviation of the
latents are within the decoder, `AutoencoderSSDD`, and the table is drawn out to 1000 classes. Its scheduler is
DPM-Solver++ of order 1 on the times of flow matching, which is Euler's method.
"""

# N classes, D width

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssdd.autoencoder import SSDD
from ssdd.generation.drawing import check_decoder
from ssdd.generation.generator import TIME_STEPS, Generator, make_transformer
from ssdd.integrations.autoencoder_ssdd import AutoencoderSSDD

PIPELINE_CLASSES = 1000  # that DiTPipeline knows
TABLE = "embedding_table.weight"


def save_pipeline(
    generator: Generator, decoder: str | os.PathLike[str], folder: Path, decoder_steps: int = 1, shift: float = 1.0
) -> Path:
    """Writes the folder, whole or not at all.

    Args:
        generator: the generator.
        decoder: a checkpoint of this project, with encoder and decoder.
        folder: a new one, or an empty one.
        decoder_steps: of the decoder.
        shift: of the sampler's times.

    Raises:
        ValueError: the folder is not empty, or the decoder is of other latents.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"expected a new or empty folder, got {folder}: choose another name")
    pipeline = make_pipeline(generator, decoder, decoder_steps, shift)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name[:40]}.", suffix=".partial", dir=folder.parent) as temporary:
        written = Path(temporary) / "pipeline"
        pipeline.save_pretrained(written)
        os.replace(written, folder)
    return folder


def make_pipeline(
    generator: Generator, decoder: str | os.PathLike[str], decoder_steps: int = 1, shift: float = 1.0
) -> Any:
    """Returns the `DiTPipeline`; see `save_pipeline`."""
    from diffusers import DiTPipeline, DPMSolverMultistepScheduler

    config = generator.config
    check_decoder(config, SSDD.config_of(decoder)[1], decoder)
    vae = AutoencoderSSDD.from_pretrained(
        decoder,
        normalization="none",
        num_inference_steps=decoder_steps,
        inner_mean=list(config.latents_mean),
        inner_std=list(config.latents_std),
        sample_size=config.grid * config.downscale,
    )
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=TIME_STEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        solver_order=1,
    )
    return DiTPipeline(transformer=pipeline_transformer(generator), vae=vae, scheduler=scheduler)


def pipeline_transformer(generator: Generator) -> Any:
    """Returns the transformer with a table of 1000 classes: the N of the generator, and no class in all other rows.

    Where the generator has no classes, all rows are its only one, so that any class and any guidance give the same.
    """
    wide = make_transformer(replace(generator.config, classes=PIPELINE_CLASSES), empty=True)
    wide.register_to_config(out_channels=generator.config.latent_channels)  # with which the pipeline reckons
    weights = {}
    for name, weight in generator.transformer.state_dict().items():
        if name.endswith(TABLE):
            classes = weight[: generator.config.rows]
            rest = weight[0] if not generator.config.classes else weight[generator.no_label]
            weight = torch.cat([classes, rest.expand(PIPELINE_CLASSES + 1 - len(classes), -1)])
        weights[name] = weight.detach().cpu().clone()
    wide.load_state_dict(weights, strict=True, assign=True)
    return wide.requires_grad_(False).eval()
