"""Samples against the held-out images: distances, precision and recall, and the time of sampling and decoding."""

from pathlib import Path
from typing import Any

from ssdd.generation_parameters import GenerateParameters, SampleSpeedParameters, SpeedOfSpaces
from ssdd.parameters import DataParameters, PretrainedNetworks, RuntimeConfig
from ssdd.reporting.comparison_table import KL


def make_reference_samples(
    generator: Path,
    latents: Path,
    distilled: Path,
    generate: GenerateParameters,
    init_seed: int,
    runtime: RuntimeConfig,
) -> Path:
    """Decodes noise, samples of an untrained generator, and encoded training images: a folder of shards.

    Args:
        generator: for its shape, and the normalisation of its latents.
        latents: folder of the encoded training images.
        distilled: the student, in one step.
        generate: number and seeds of the images, and the sampler.
        init_seed: of the untrained generator's weights.
        runtime: device, threads.
    """
    from ssdd.generation.drawing import decoded_by, open_decoder
    from ssdd.generation.generator import Generator
    from ssdd.generation.reference_samples import write_reference_samples
    from ssdd.lineage import state_folder
    from ssdd.processes import choose_device, use_threads

    use_threads(runtime)
    device = choose_device(runtime.device)
    return write_reference_samples(
        state_folder() / "images",
        Generator.from_pretrained(generator),
        latents,
        decoded_by(open_decoder(distilled, "ssdd", device), 1),
        generate,
        init_seed,
        device,
        "reference samples" if runtime.progress != "none" else None,
    )


def measure_samples(
    samples: Path,
    teacher_samples: Path,
    kl_samples: Path | None,
    reference_samples: Path,
    latents: Path,
    index: Any,
    references: Path,
    generate: GenerateParameters,
    data: DataParameters,
    im_size: int,
    limit: int | None,
    metrics: Any,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> Any:
    """Measures all samples: a table with a row for each decoder, number of sampler steps and reference.

    Args:
        samples, teacher_samples, kl_samples: of the stage `generate`; the last are None where they are switched off.
        reference_samples: of `make_reference_samples`.
        latents: folder of the shards, for the classes of the held-out images: other samples do not count.
        index: of the images.
        references: statistics of the held-out images, those of rFID.
        generate: number of sampler steps.
        data: the images' source.
        im_size, limit, metrics: of the evaluation.
        pretrained_networks: the pretrained networks of the metrics.
        runtime: device, threads.
    """
    import pandas

    from ssdd.data.image_sets import held_out_images
    from ssdd.generation import reference_samples as beside
    from ssdd.generation.drawing import IMAGES, with_steps
    from ssdd.generation.sample_quality import held_out_labels, judged_against, measure_files
    from ssdd.processes import choose_device, use_threads

    use_threads(runtime)
    device = choose_device(runtime.device)
    dataset = held_out_images(index, data, im_size, limit)
    judged = judged_against(dataset, references, im_size, metrics, pretrained_networks, device, runtime.workers)
    sets = [
        ("noise, decoded", 1, 0, reference_samples, beside.NOISE),
        ("untrained generator", 1, generate.steps, reference_samples, beside.UNTRAINED),
        ("training images, decoded", 1, 0, reference_samples, beside.TRAINING),
        *(("student", 1, steps, samples, with_steps(IMAGES, steps)) for steps in sorted(generate.other_steps)),
        ("student", 1, generate.steps, samples, IMAGES),
        ("teacher", generate.teacher_steps, generate.steps, teacher_samples, IMAGES),
        *([(KL, 1, generate.steps, kl_samples, IMAGES)] if kl_samples else []),
    ]
    labels = held_out_labels(latents)
    rows = [
        {"images_of": name, "decoder_steps": own, "sampler_steps": steps}
        | measure_files(folder, file, judged, device, labels)
        for name, own, steps, folder, file in sets
    ]
    return pandas.DataFrame(rows)


def measure_sampling_speed(
    generator: Path,
    distilled: Path,
    finetuned: Path,
    kl: Path | None,
    generate: GenerateParameters,
    sample_speed: SampleSpeedParameters,
    runtime: RuntimeConfig,
) -> Any:
    """Times sampling, and decoding by each decoder, apart; sums them for each number of sampler steps."""
    import pandas

    from ssdd.benchmarking.machine import prepare_device
    from ssdd.benchmarking.sampling_speed import TimedDecoder, measure_sampling
    from ssdd.generation.drawing import decoded_by, open_decoder
    from ssdd.generation.generator import Generator

    device = prepare_device(runtime.device, sample_speed.threads)
    decoders = []
    for name, file, steps in (("student", distilled, 1), ("teacher", finetuned, generate.teacher_steps), (KL, kl, 1)):
        if file is None:
            continue  # switched off
        model = open_decoder(file, "kl" if name == KL else "ssdd", device)
        decoders.append(TimedDecoder(name, steps, decoded_by(model, steps), model.decoder))
    network = Generator.from_pretrained(generator).to(device)
    counts = sorted({generate.steps, *generate.other_steps})
    rows = measure_sampling(network, decoders, generate, counts, sample_speed.batch_size, sample_speed.rounds, device)
    return pandas.DataFrame(rows)


def draw_sample_quality(sample_metrics: Any, sampling_speed: Any) -> Any:
    """Draws the samples' distance over the time of sampling and decoding together."""
    from ssdd.reporting.generation_figures import sample_quality_figure

    return sample_quality_figure(sample_metrics, sampling_speed)


def benchmark_spaces(generation_speed: SpeedOfSpaces, runtime: RuntimeConfig) -> Any:
    """Times one transformer on latents of several spaces, with decoders of random weights."""
    import pandas

    from ssdd.benchmarking.machine import prepare_device
    from ssdd.benchmarking.sampling_speed import measure_spaces

    device = prepare_device(runtime.device, generation_speed.threads)
    return pandas.DataFrame(measure_spaces(generation_speed, device, runtime.display))
