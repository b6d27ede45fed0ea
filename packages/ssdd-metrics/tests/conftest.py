"""Image pairs, and weight files of pretrained networks: random content in the published formats."""

from pathlib import Path

import pytest
import torch
from skimage import data
from torch import Tensor


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photographs() -> Tensor:
    """Three crops of photographs, (3, 3, 96, 96) uint8."""
    crops = [data.astronaut()[:96, 160:256], data.coffee()[100:196, 200:296], data.chelsea()[60:156, 120:216]]
    return torch.stack([torch.from_numpy(crop.copy()).permute(2, 0, 1) for crop in crops])


@pytest.fixture(scope="session")
def pairs(photographs) -> dict[str, tuple[Tensor, Tensor]]:
    """Reference and reconstruction, uint8: random ones, and photographs with blur or noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, 3, 50, 41), generator=generator, dtype=torch.uint8)
    other = torch.randint(0, 256, (2, 3, 50, 41), generator=generator, dtype=torch.uint8)
    blurred = torch.nn.functional.avg_pool2d(photographs.float(), 3, 1, 1).round().to(torch.uint8)
    noisy = photographs.float() + 12 * torch.randn(photographs.shape, generator=generator)
    return {
        "random": (noise, other),
        "blurred photographs": (photographs, blurred),
        "noisy photographs": (photographs, noisy.round().clamp(0, 255).to(torch.uint8)),
    }


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty torch hub folder and Hugging Face cache, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hf"))

    def refuse(url, timeout):
        raise OSError(f"no network in tests: {url}")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="session")
def inception_pth(tmp_path_factory) -> Path:
    """A randomly filled file in the format of `weights-inception-2015-12-05`."""
    import torch_fidelity.feature_extractor_inceptionv3 as library

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = library.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for name, buffer in network.named_buffers():  # as trained networks have, not mean 0 and variance 1
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape) * 0.2 + (0.9 if name.endswith("var") else -0.1))
    path = tmp_path_factory.mktemp("networks") / "random-inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def trunk_pths(tmp_path_factory) -> dict[str, Path]:
    """Randomly filled torchvision VGG16 and AlexNet files; of the classifiers, which LPIPS ignores, only biases."""
    import torchvision

    paths = {}
    for net, build in {"vgg": torchvision.models.vgg16, "alex": torchvision.models.alexnet}.items():
        with torch.device("meta"):
            network = build(weights=None)
        generator = torch.Generator().manual_seed(1)
        state = {
            f"features.{name}": torch.randn(value.shape, generator=generator)
            / (value[0].numel() ** 0.5 if value.ndim > 1 else 10)
            * 1.4
            for name, value in network.features.state_dict().items()
        }
        state |= {f"classifier.{layer}.bias": torch.zeros(size) for layer, size in ((0, 4096), (3, 4096), (6, 1000))}
        paths[net] = tmp_path_factory.mktemp("trunks") / f"random-{net}.pth"
        torch.save(state, paths[net])
    return paths
