"""Where things run."""

import torch

from ssdd.training.config import RuntimeConfig


def device_of(runtime: RuntimeConfig, rank: int = 0) -> torch.device:
    """Returns the device that a process should use.

    Raises:
        ValueError: a CUDA device is asked for and there is none.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device, found none: set runtime.device to 'auto' or 'cpu'")
    if runtime.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def use_threads(runtime: RuntimeConfig) -> None:
    """Limits torch to `runtime.threads` CPU threads, which the processes of a stage then share."""
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
