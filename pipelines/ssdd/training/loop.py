"""The one training loop. Every stage passes its step module in; read `train` from top to bottom."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import Dataset

from ssdd.data.step_sampler import StepSampler
from ssdd.meeting import init_method
from ssdd.number_formats import warn_once, why_slow
from ssdd.parameters import LoopParameters, RuntimeConfig
from ssdd.processes import choose_device
from ssdd.progress import TrainingBar
from ssdd.training.batches import Batch, pieces_per_process, run_batches, split, to_device
from ssdd.training.ema import Ema
from ssdd.training.gradient_strides import keep_strides
from ssdd.training.interface import AdversaryStep, TrainingStep
from ssdd.training.interrupts import Interrupted, Interrupts
from ssdd.training.ledger import Evaluate, Export, Ledger, TrainResult
from ssdd.training.optim import build_optimizer, learning_rate, usable_weights
from ssdd.training.resume_state import TrainingState
from ssdd.training.state_store import StateStore
from ssdd.training.threads import SlowdownWatch, is_measured
from ssdd.training.trackers import check_trackers, start_trackers

log = logging.getLogger(__name__)


def train(
    step: TrainingStep,
    images: Dataset[Any],
    stage: LoopParameters,
    runtime: RuntimeConfig,
    folder: Path,
    fingerprint: str,
    *,
    export: Export,
    evaluate: Evaluate | None = None,
    title: str = "training",
) -> TrainResult:
    """Trains until `stage.epochs` are done, from the newest state of this fingerprint or from the start.

    Args:
        step: the losses of a batch; its trainable children are trained in place.
        images: of the training split.
        stage, runtime: the parameters that decide the result; those that do not.
        folder: the run's own folder: states, checkpoints, history, trackers.
        fingerprint: of everything that decides the result except `epochs`; states of another one are not used.
        export: writes the exported networks, as they are when it is called, to a path (atomically).
        evaluate: figures of the networks as they are when it is called; called in every process.
        title: text before the progress bar.

    Raises:
        ValueError: a setting does not fit.
        NotFiniteError: a loss or gradient became NaN or infinite.
        Interrupted: SIGTERM, SIGINT or SIGUSR1 came; the state is saved.
    """
    accelerator = _accelerator(stage, runtime, folder)
    sampler, last_step = _sampler(images, stage, accelerator)
    store = StateStore(folder, fingerprint, *_part(runtime, accelerator))
    state = _resume(store, _new_state(step, stage, accelerator, store.ranks > 1), last_step, accelerator, title)
    networks = _prepare(step, state, accelerator, stage.compile)
    ledger = Ledger(accelerator, stage, folder, store, state, step, export, evaluate, sampler.steps_per_epoch)
    slowdown = SlowdownWatch(title, is_measured(stage, runtime))
    start_trackers(accelerator, folder, stage.model_dump(), state.progress.step)
    first_step, shown = state.progress.step, runtime.display if accelerator.is_main_process else False
    with (
        Interrupts() as interrupts,
        TrainingBar(title, last_step, first_step, shown, sampler.steps_per_epoch) as bar,
        closing(run_batches(images, sampler, first_step, last_step, runtime.workers)) as stream,
        closing(ledger.saving),
    ):
        ledger.evaluate_if_due()
        began = time.monotonic()
        for batch in stream:
            waited = time.monotonic() - began
            figures, signal_number = _step(networks, ledger, batch, interrupts)
            done, seconds = state.progress.step, max(time.monotonic() - began, 1e-9)
            slowdown.record(seconds - waited)
            bar.advance(figures["loss"], stage.batch_size / seconds, waited / seconds)
            ledger.record(figures, learning_rate(state.optimizers["main"]), seconds, waited)
            if signal_number or ledger.evaluation_due() or done % runtime.save_every == 0:
                ledger.save()  # before an evaluation too, so that a kill during it costs no steps
            if signal_number:
                raise Interrupted(signal_number, ledger.settle())
            ledger.evaluate_if_due()
            began = time.monotonic()  # images/s counts loading and training, not saving and evaluating
    return ledger.finish()


def trial_step(
    step: TrainingStep, images: Dataset[Any], stage: LoopParameters, runtime: RuntimeConfig, folder: Path
) -> Callable[[], object]:
    """Returns a function that makes one training step after another on the first batch, to be timed; it writes nothing.

    Args:
        step: networks for this use alone: gradients and the discriminator's buffers do not stay as they are.
        images, stage, runtime, folder: as for `train`.
    """
    # With a rate of 0 a step computes as much, and no number of steps on one batch can make a loss diverge.
    optim, gan = (group.model_copy(update={"lr": 0.0}) for group in (stage.optim, stage.gan))
    stage = stage.model_copy(update={"optim": optim, "gan": gan})
    accelerator = _accelerator(stage, runtime, folder)
    sampler, _ = _sampler(images, stage, accelerator)
    state = _new_state(step, stage, accelerator)
    networks = _prepare(step, state, accelerator, compiled=False)
    store = StateStore(folder, fingerprint="")
    ledger = Ledger(accelerator, stage, folder, store, state, step, lambda path: None, None, sampler.steps_per_epoch)
    with closing(run_batches(images, sampler, 0, 1, workers=0)) as stream:
        batch = next(stream)
    return lambda: _step(networks, ledger, batch, Interrupts())


@dataclass(frozen=True)
class _Networks:
    """Step and discriminator with their optimisers, as accelerate wraps them, and the step's trained parameters."""

    main: Any
    optimizer: Any
    trained: list[torch.nn.Parameter]
    adversary: Any = None
    adversary_optimizer: Any = None


def _accelerator(stage: LoopParameters, runtime: RuntimeConfig, folder: Path) -> Accelerator:
    """Makes accelerate's handle of the processes and the precision."""
    check_trackers(runtime.trackers)
    on_cpu = choose_device(runtime.device).type == "cpu"
    if stage.precision == "fp16" and on_cpu:
        raise ValueError("expected a GPU for precision 'fp16', running on CPU: set precision to 'bf16' or 'no'")
    if stage.precision == "bf16" and on_cpu and (reason := why_slow(torch.bfloat16, torch.device("cpu"))):
        warn_once(f"{reason}: set precision to 'no', unless memory is short")
    # accelerate keeps the first handle's settings for the whole process, but a process may train several stages.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    GradientState._reset_state()
    # With find_unused_parameters DDP never rebuilds its buckets after the first step. From three processes on the
    # order of additions depends on the buckets, and it must be the same before and after a resume.
    fixed_buckets = int(os.environ.get("WORLD_SIZE", "1")) > 2
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=stage.precision,
        log_with=list(runtime.trackers) or None,
        project_dir=str(folder),
        kwargs_handlers=[
            InitProcessGroupKwargs(init_method=init_method()),
            DistributedDataParallelKwargs(find_unused_parameters=fixed_buckets, gradient_as_bucket_view=True),
        ],
    )


def _part(runtime: RuntimeConfig, accelerator: Accelerator) -> tuple[int, int]:
    """Returns which part of the state this process holds and writes, and of how many: a rank and the ranks, or all."""
    if runtime.sharding == "none":
        return 0, 1
    return accelerator.process_index, accelerator.num_processes


def _new_state(
    step: TrainingStep, stage: LoopParameters, accelerator: Accelerator, sharded: bool = False
) -> TrainingState:
    """Moves the networks to the device and makes their optimisers: the state before the first step."""
    layout = torch.channels_last if stage.channels_last else torch.preserve_format
    step.to(accelerator.device).to(memory_format=layout).train()
    networks: dict[str, torch.nn.Module] = {"main": step}
    optimizers: dict[str, Optimizer] = {"main": build_optimizer([step], stage.optim, sharded)}
    if step.adversary is not None:
        networks["adversary"] = step.adversary.to(accelerator.device).train()
        # No decay: the discriminator's layers are spectrally normalised, so the size of their weights has no effect.
        optim = stage.optim.model_copy(update={"lr": stage.gan.lr, "weight_decay": 0.0})
        optimizers["adversary"] = build_optimizer([step.adversary], optim, sharded)
    return TrainingState(networks, optimizers, step.averaged(), Ema(stage.ema), accelerator.scaler)


def _resume(
    store: StateStore, state: TrainingState, last_step: int, accelerator: Accelerator, title: str
) -> TrainingState:
    """Restores the newest usable state in every process; before that, rank 0 removes half-written files."""
    files: list[Path] = []
    if accelerator.is_main_process:
        store.sweep()
        files = store.newest(last_step)  # reads every byte, so one rank does it for all
        store.drop_parts(store.numbers(files[0])[0] if files else -1, last_step)
    (files,) = broadcast_object_list([files])
    if files:
        store.restore(state, files)
        log.info("%s goes on after step %d of %d", title, state.progress.step, last_step)
    return state


def _sampler(images: Dataset[Any], stage: LoopParameters, accelerator: Accelerator) -> tuple[StepSampler, int]:
    """Returns the sampler of this process, and the number of the last step."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    pieces_per_process(stage, processes)
    sampler = StepSampler(len(images), stage.batch_size, seed=stage.seed, rank=rank, world_size=processes)  # type: ignore[arg-type]
    return sampler, stage.epochs * sampler.steps_per_epoch


def _prepare(step: TrainingStep, state: TrainingState, accelerator: Accelerator, compiled: bool) -> _Networks:
    if compiled:
        step.compile_networks()
    trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
    if accelerator.num_processes > 1:
        keep_strides([*trained, *(step.adversary.parameters() if step.adversary is not None else ())])
    # The optimisers' states are where the weights are; a divided one has no whole state that could be moved.
    placed = [True, False]
    main, optimizer = accelerator.prepare(step, state.optimizers["main"], device_placement=placed)
    if step.adversary is None:
        return _Networks(main, optimizer, trained)
    adversary = accelerator.prepare(step.adversary, state.optimizers["adversary"], device_placement=placed)
    return _Networks(main, optimizer, trained, *adversary)


def _step(networks: _Networks, ledger: Ledger, batch: Batch, interrupts: Interrupts) -> tuple[dict[str, float], int]:
    """Makes one optimiser step, of the discriminator too if there is one.

    Returns:
        the figures of the step, averaged over processes, and the signal that any process received (0: none).
    """
    accelerator, stage, state = ledger.accelerator, ledger.stage, ledger.state
    batch = to_device(batch, accelerator.device, stage.channels_last)
    done = state.progress.step
    terms, seen = _backward(accelerator, networks.main, split(batch, stage.accumulation), done)
    norm = accelerator.clip_grad_norm_(networks.trained, stage.optim.clip)
    terms["gradient_norm"] = torch.as_tensor(norm, device=accelerator.device)
    # Before the optimiser's step, so that a value that is not finite leaves the weights unchanged.
    figures, signal_number = ledger.agree(terms, batch, interrupts.received)
    networks.optimizer.step()
    networks.optimizer.zero_grad(set_to_none=True)
    if ledger.step.adversary is not None:
        figures |= _adversary_step(networks, ledger, ledger.step.adversary, seen, batch)
    state.progress.step = done + 1
    if state.ema.due(done + 1):
        state.ema.update(done + 1, usable_weights(state.optimizers["main"], state.own_averaged()))
    return figures, signal_number


def _backward(
    accelerator: Accelerator, network: Any, pieces: Sequence[Batch], step: int
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Accumulates the gradient of the batch's mean loss; processes exchange it in the last piece.

    Returns:
        the means of the losses by name, and the discriminator's input piece by piece.
    """
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


def _adversary_step(
    networks: _Networks, ledger: Ledger, adversary: AdversaryStep, seen: list[dict[str, Tensor]], batch: Batch
) -> dict[str, float]:
    """Makes the discriminator's optimiser step, after the main one."""
    accelerator = ledger.accelerator
    if not adversary.active(ledger.state.progress.step):
        return {"discriminator": 0.0}  # in every row, so that the history has one set of columns
    loss = torch.zeros((), device=accelerator.device)
    for number, piece in enumerate(seen, 1):
        with nullcontext() if number == len(seen) else accelerator.no_sync(networks.adversary):
            part = networks.adversary(piece) / len(seen)
            accelerator.backward(part)
        loss += part.detach().float()
    accelerator.clip_grad_norm_(list(adversary.parameters()), ledger.stage.optim.clip)
    figures, _ = ledger.agree({"discriminator": loss}, batch, seen=seen)
    networks.adversary_optimizer.step()
    networks.adversary_optimizer.zero_grad(set_to_none=True)
    return figures
