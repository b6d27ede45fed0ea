"""The one training loop. Every stage passes its step module in; read `train` from top to bottom."""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.step_sampler import StepSampler
from ssdd.parameters import RuntimeConfig, TrainConfig, pieces_per_process
from ssdd.progress import TrainingBar
from ssdd.training.batches import Batch, run_batches, split, to_device
from ssdd.training.ema import Ema
from ssdd.training.interface import TrainingStep
from ssdd.training.interrupts import Interrupted, Interrupts
from ssdd.training.ledger import Evaluate, Evaluation, Export, Run, TrainResult
from ssdd.training.optim import build_optimizer, learning_rate, usable_weights
from ssdd.training.resume_state import StateStore, TrainingState
from ssdd.training.trackers import check_trackers, start_trackers

__all__ = ["Evaluation", "TrainResult", "train"]

log = logging.getLogger(__name__)


def train(
    step: TrainingStep,
    dataset: ImageDataset,
    config: TrainConfig,
    runtime: RuntimeConfig,
    folder: Path,
    fingerprint: str,
    *,
    export: Export,
    evaluate: Evaluate | None = None,
    title: str = "training",
) -> TrainResult:
    """Trains until `config.epochs` are done, from the newest state of this fingerprint or from the start.

    Args:
        step: the losses of a batch; its trainable children are trained in place.
        dataset: training images.
        config: what decides the result.
        runtime: what does not.
        folder: the run's own folder: states, checkpoints, history, trackers.
        fingerprint: of everything that decides the result except `epochs`; another one starts anew.
        export: writes the exported networks, as they are when it is called, to a path (atomically).
        evaluate: figures of the networks as they are when it is called; called in every process.
        title: what the progress bar says.

    Raises:
        ValueError: a setting does not fit.
        NotFiniteError: a loss or gradient became NaN or infinite.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    accelerator = _accelerator(config, runtime, folder)
    pieces_per_process(config, accelerator.num_processes)
    layout = torch.channels_last if config.channels_last else torch.preserve_format
    step.to(accelerator.device).to(memory_format=layout).train()
    adversary = step.adversary
    optimizer = build_optimizer([step], config.optim)
    players: dict[str, Any] = {"main": step}
    optimizers = {"main": optimizer}
    if adversary is not None:
        adversary.to(accelerator.device).train()
        players["adversary"] = adversary
        game = config.optim.model_copy(update={"lr": config.gan.lr, "weight_decay": 0.0})
        optimizers["adversary"] = build_optimizer([adversary], game)
    state = TrainingState(players, optimizers, step.averaged(), Ema(config.ema), accelerator.scaler)
    sampler = StepSampler(
        len(dataset),
        config.batch_size,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    last_step = config.epochs * sampler.steps_per_epoch
    store = StateStore(folder, fingerprint)
    if accelerator.is_main_process:
        store.clean()
    accelerator.wait_for_everyone()
    if store.load(state, last_step):
        log.info("%s goes on after step %d of %d", title, state.progress.step, last_step)
    if config.compile:
        step.compile_networks()
    network, main_optimizer = accelerator.prepare(step, optimizer)
    opponent = None if adversary is None else accelerator.prepare(adversary, optimizers["adversary"])
    run = Run(accelerator, config, folder, store, state, step, export, evaluate, sampler.steps_per_epoch)
    start_trackers(accelerator, folder, config.model_dump(), state.progress.step)
    first_step = state.progress.step
    main = accelerator.is_main_process
    with (
        Interrupts() as interrupts,
        TrainingBar(title, last_step, first_step, main and runtime.progress) as bar,
        closing(run_batches(dataset, sampler, first_step, last_step, runtime.workers)) as stream,
    ):
        run.evaluate_if_due()
        began = time.monotonic()
        for batch in stream:
            batch = to_device(batch, accelerator.device, config.channels_last)
            done = state.progress.step
            terms, seen = _backward(accelerator, network, split(batch, config.accumulation), done)
            norm = accelerator.clip_grad_norm_(run.trained, config.optim.clip)
            terms["gradient_norm"] = torch.as_tensor(norm, device=accelerator.device)
            figures, signal_number = run.agree(terms, batch, interrupts.received)
            main_optimizer.step()
            main_optimizer.zero_grad(set_to_none=True)
            if opponent is not None and adversary is not None:
                figures |= run.answer(opponent, adversary, seen, batch)
            state.progress.step = done + 1
            if state.ema.due(done + 1):
                state.ema.update(done + 1, usable_weights(optimizer, state.averaged))
            seconds = time.monotonic() - began
            bar.advance(figures["loss"], config.batch_size / max(seconds, 1e-9))
            run.record(figures, learning_rate(optimizer), seconds)
            if signal_number or run.evaluation_due() or (done + 1) % runtime.save_every == 0:
                run.save()
            if signal_number:
                raise Interrupted(signal_number, done + 1)
            run.evaluate_if_due()
            began = time.monotonic()  # images/s counts loading and training, not saving and evaluating
    return run.finish()


def _accelerator(config: TrainConfig, runtime: RuntimeConfig, folder: Path) -> Accelerator:
    """Makes accelerate's handle; a process may train several stages one after the other."""
    check_trackers(runtime.trackers)
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device, found none: set runtime.device to 'auto' or 'cpu'")
    on_cpu = runtime.device == "cpu" or not torch.cuda.is_available()
    if config.precision == "fp16" and on_cpu:
        raise ValueError("expected a GPU for precision 'fp16', running on CPU: set precision to 'bf16' or 'no'")
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    GradientState._reset_state()
    # With find_unused_parameters DDP never rebuilds its buckets after the first step. From three processes on the
    # order of additions depends on the buckets, and it must be the same before and after a resume.
    fixed_buckets = int(os.environ.get("WORLD_SIZE", "1")) > 2
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=config.precision,
        log_with=list(runtime.trackers) or None,
        project_dir=str(folder),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=fixed_buckets)],
    )


def _backward(
    accelerator: Accelerator, network: Any, pieces: Sequence[Batch], step: int
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Accumulates the gradient of the batch's mean loss; processes exchange it in the last piece."""
    sums: dict[str, Tensor] = {}
    seen: list[dict[str, Tensor]] = []
    for number, piece in enumerate(pieces, 1):
        with nullcontext() if number == len(pieces) else accelerator.no_sync(network):
            losses = network(piece, step)
            accelerator.backward(losses.total / len(pieces))
        for name, value in {"loss": losses.total, **losses.terms}.items():
            sums[name] = sums.get(name, 0) + value.detach().float() / len(pieces)
        if losses.for_adversary is not None:
            seen.append(losses.for_adversary)
    return sums, seen
