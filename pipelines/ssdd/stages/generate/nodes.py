"""Samples: latents of the generator, and the images that decoders make of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ssdd.generation_parameters import GenerateParameters, KLSamplesParameters
from ssdd.parameters import RuntimeConfig


def draw_latents(generator: Path, generate: GenerateParameters, runtime: RuntimeConfig) -> Path:
    """Draws latents; no decoder takes part, so that another one leaves them as they are.

    Args:
        generator: its checkpoint.
        generate: their number, seed and classes, and the sampler.
        runtime: device, threads.

    Returns:
        a folder of shards with `z`, `label` and `seed`.
    """
    from ssdd.generation.drawing import LATENTS, class_labels, draw_shards, with_steps
    from ssdd.generation.generator import Generator
    from ssdd.lineage import state_folder
    from ssdd.processes import choose_device, use_threads

    use_threads(runtime)
    network = Generator.from_pretrained(generator).to(choose_device(runtime.device))
    folder, seeds = state_folder() / "latents", range(generate.seed, generate.seed + generate.count)
    labels = class_labels(network.config, generate.count, generate.classes)
    names = {generate.steps: LATENTS} | {steps: with_steps(LATENTS, steps) for steps in generate.other_steps}
    for steps, name in names.items():
        title = f"drawing latents, {steps} steps" if runtime.progress != "none" else None
        sampling = generate.model_copy(update={"steps": steps})
        draw_shards(folder, network, seeds, labels, sampling, generate.batch_size, title, name)
    return folder


def decode_student_samples(
    latents: Path,
    distilled: Path,
    count: int,
    batch_size: int,
    other_steps: tuple[int, ...],
    runtime: RuntimeConfig,
) -> Path:
    """Decodes all latents with the student, in one step: a folder of shards with `image`, `label` and `seed`."""
    return _decode(latents, distilled, 1, count, batch_size, runtime, other_steps)


def decode_teacher_samples(
    latents: Path, finetuned: Path, steps: int, count: int, batch_size: int, runtime: RuntimeConfig
) -> Path:
    """Decodes the latents with the teacher, in so many steps: a folder of shards with `image`, `label` and `seed`."""
    return _decode(latents, finetuned, steps, count, batch_size, runtime)


def take_kl(kl: Path, kl_samples: KLSamplesParameters) -> Path:
    """Hands the KL-VAE on to the nodes below: without this node, which `kl_samples` switches, they get None."""
    return kl


def decode_kl_samples(latents: Path, kl: Path, count: int, batch_size: int, runtime: RuntimeConfig) -> Path:
    """Decodes the latents with the KL-VAE's decoder: a folder of shards, as of the student."""
    return _decode(latents, kl, 1, count, batch_size, runtime, kind="kl")


def draw_contact_sheet(samples: Path, shown: int) -> Any:
    """Puts the first samples on one sheet.

    Args:
        samples: the student's images.
        shown: their number.
    """
    from ssdd.data.contact_sheets import contact_sheet
    from ssdd.generation.drawing import IMAGES
    from ssdd.generation.sample_shards import read_shards

    first = next(read_shards(samples, IMAGES))["image"][:shown]
    return contact_sheet([image.permute(1, 2, 0).contiguous().numpy() for image in first])


def _decode(
    latents: Path,
    checkpoint: Path,
    steps: int,
    count: int,
    batch_size: int,
    runtime: RuntimeConfig,
    other_steps: Sequence[int] = (),
    kind: Literal["ssdd", "kl"] = "ssdd",
) -> Path:
    from ssdd.generation.drawing import IMAGES, LATENTS, decode_shards, decoded_by, open_decoder, with_steps
    from ssdd.lineage import state_folder
    from ssdd.processes import choose_device, use_threads

    use_threads(runtime)
    device = choose_device(runtime.device)
    decode = decoded_by(open_decoder(checkpoint, kind, device), steps)
    title, folder = "decoding samples" if runtime.progress != "none" else None, state_folder() / "images"
    further = [(with_steps(LATENTS, number), with_steps(IMAGES, number)) for number in other_steps]
    for names in ((LATENTS, IMAGES), *further):
        decode_shards(folder, latents, count, decode, device, batch_size, title, names)
    return folder
