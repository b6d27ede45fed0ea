"""Shared by the encoder's tests: one thread, small networks whose weights are all random."""

import pytest
import torch

from ssdd_encoder import Encoder, EncoderConfig


@pytest.fixture(autouse=True)
def _one_thread():
    """These networks are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_encoder():
    """Builds an encoder whose weights are all random: zeros and ones, as initialised, would hide mistakes."""

    def make(config: EncoderConfig | str = "debug", seed: int = 0) -> Encoder:
        generator = torch.Generator().manual_seed(seed)
        encoder = Encoder(config)
        for name, parameter in encoder.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                noise = noise / (parameter.numel() / parameter.shape[0]) ** 0.5
            else:
                noise = 0.1 * noise + ("norm" in name and name.endswith("weight"))
            parameter.data.copy_(noise)
        return encoder.eval()

    return make


@pytest.fixture
def images():
    """Makes images in [-1, 1]."""

    def make(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
        return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1

    return make
