"""Shared by the decoder's tests: one thread, small networks whose weights are all random."""

import os
import shutil

import pytest
import torch

from ssdd_decoder import Decoder, DecoderConfig, decoder_config

# On a CPU, GPU kernels run in Triton's interpreter. Triton reads this when it is imported, which PyTorch does late.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _one_thread():
    """These networks are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_decoder():
    """Builds a decoder whose weights are all random: as initialised, whole branches would be zero."""

    def make(config: DecoderConfig | str = "debug", seed: int = 0, **latent_space: int) -> Decoder:
        generator = torch.Generator().manual_seed(seed)
        decoder = Decoder(decoder_config(config, **latent_space) if isinstance(config, str) else config)
        for name, parameter in decoder.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("relative_bias_table"):
                noise = 0.5 * noise
            elif parameter.ndim > 1:
                noise = noise / (parameter.numel() / parameter.shape[0]) ** 0.5
            else:
                noise = 0.1 * noise + name.endswith("weight")
            parameter.data.copy_(noise)
        return decoder.eval()

    return make


@pytest.fixture(scope="session")
def draw():
    """Draws normal numbers of a shape."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

    return make
