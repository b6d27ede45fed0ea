"""Weight files of the pretrained networks: found, checked by SHA-256, read without executing pickled code.

A file is looked for at the caller's path. Without one, the usual cache comes first (torch hub's folder, the Hugging
Face cache), then a download. The SHA-256 is computed before a byte is interpreted, and goes into the protocol.
"""

import os
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssdd_metrics.files import LFS_POINTER, LFS_REMEDY, atomic_write, first_bytes, sha256_file

CONNECT_SECONDS = 10


class NetworkUnavailable(ValueError):
    """The weights of a pretrained network are not on this machine and cannot be fetched."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A published weight file.

    Args:
        network: the network's name in messages and protocols.
        names: file names in torch hub's folder, the published one first.
        url: the place of publication.
        sha256: the published leading digits of the SHA-256; None if none are published.
        hub: the repository on the Hugging Face hub that has it as `model.safetensors`, if any.
    """

    network: str
    names: tuple[str, ...]
    url: str
    sha256: str | None = None
    hub: str | None = None


INCEPTION = WeightFile(
    network="inception-2015-12-05",
    # torch-fidelity and pytorch-fid have named the same file differently; either copy will do.
    names=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
)
VGG16 = WeightFile(
    network="vgg16",
    names=("vgg16-397923af.pth",),
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af",
)
ALEXNET = WeightFile(
    network="alexnet",
    names=("alexnet-owt-7be5be79.pth",),
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    sha256="7be5be79",
)


def dinov2_file(model: str) -> WeightFile:
    """Returns the file of one of timm's DINOv2 models, such as `vit_base_patch14_dinov2.lvd142m`."""
    return WeightFile(
        network=model,
        names=(f"{model}.safetensors",),
        url=f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors",
        hub=f"timm/{model}",
    )


def find_weights(file: WeightFile, path: str | os.PathLike[str] | None = None, sha256: str | None = None) -> Path:
    """Finds, or else downloads, a pretrained network's weights.

    Args:
        file: the published file.
        path: a local file, used instead of cache and download.
        sha256: leading digits of the SHA-256 to insist on, instead of the published ones: for weights of your
            own.

    Returns:
        The path of a file whose SHA-256 is as expected.

    Raises:
        NetworkUnavailable: there is no file at the path; or none in the cache, and none can be fetched. The message
            says which file to put where.
        ValueError: the file is not the expected one.
    """
    if path is not None:
        found = Path(os.path.expanduser(path))
        # A path that was named and is wrong must not end in a silent download of other weights.
        if not found.is_file():
            raise NetworkUnavailable(
                f"expected the weights of {file.network} at {path}, found no file. {_remedy(file)}"
            )
    else:
        found = cached_weights(file) or _download(file)
    _check(file, found, sha256)
    return found


def cached_weights(file: WeightFile) -> Path | None:
    """Returns the file in the usual cache, unchecked; None if it is not there. Nothing is downloaded."""
    for name in file.names:
        # A conversion under the published name is taken as readily, so that a folder need not keep any pickle.
        for candidate in (torch_hub_folder() / name, (torch_hub_folder() / name).with_suffix(".safetensors")):
            if candidate.is_file():
                return candidate
    if file.hub:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(file.hub, "model.safetensors")
        return Path(found) if isinstance(found, str) else None
    return None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a `.safetensors` file or of a published `.pth` file, on the CPU."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return read_pth_weights(path)


def read_pth_weights(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a PyTorch `.pth` file without executing what it contains.

    Inception, VGG16 and AlexNet are published in this format only, as is the calibration inside the `lpips`
    package. `weights_only=True` is PyTorch's restricted reader: it accepts tensors, storages and plain
    containers, and refuses every other instruction of the pickle format instead of running it (sound since
    PyTorch 2.6, the oldest version that this package accepts). The callers check the SHA-256 first.
    After one `convert_to_safetensors`, no pickle is read any more.

    Raises:
        ValueError: the file holds anything but tensors by name.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"expected a .pth file of named tensors, {path} cannot be read as one: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"expected a .pth file of named tensors, {path} holds other things: pass a state dict")
    return dict(state)


def convert_to_safetensors(
    file: WeightFile,
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    sha256: str | None = None,
) -> Path:
    """Checks a pretrained network's published `.pth` file and writes its tensors as safetensors.

    The header of the new file records the SHA-256 of the source, by which the loaders recognise the conversion.

    Raises:
        ValueError: the source is not the expected file, see `find_weights`.
    """
    found = find_weights(file, source, sha256)
    state = {name: tensor.contiguous() for name, tensor in read_weights(found).items()}
    with atomic_write(destination) as temporary:
        save_file(state, temporary, metadata={"network": file.network, "source_sha256": sha256_file(found)})
    return Path(destination)


def torch_hub_folder() -> Path:
    """Returns the folder of torch hub's weight files, `$TORCH_HOME/hub/checkpoints`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _check(file: WeightFile, path: Path, sha256: str | None) -> None:
    # A SHA-256 that the caller insists on is of the very file, not of the source of a conversion.
    actual = sha256_file(path)
    published = sha256 or file.sha256 or _hub_blob(path)
    if published is None or actual.startswith(published.lower()):
        return
    source = _source_sha256(path) if path.suffix == ".safetensors" and sha256 is None else None
    if source is None or not source.startswith(published):
        if first_bytes(path) == LFS_POINTER:
            raise ValueError(f"{path} {LFS_REMEDY}")
        raise ValueError(
            f"expected the weights of {file.network} with SHA-256 {published}..., {path} has {actual}: it is "
            "damaged or another file. Fetch it again or, if you mean this one, pass sha256= with that value"
        )


def _hub_blob(path: Path) -> str | None:
    """Returns the SHA-256 that the Hugging Face cache recorded: it names a large file's content by that."""
    name = path.resolve().name
    return name if len(name) == 64 and set(name) <= set("0123456789abcdef") else None


def _source_sha256(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as handle:
            return (handle.metadata() or {}).get("source_sha256")
    except SafetensorError:  # a damaged header: the caller reports the wrong SHA-256
        return None


def _download(file: WeightFile) -> Path:
    """Downloads a file in one attempt; it gets its name only when it is whole and its hash is right."""
    destination = torch_hub_folder() / file.names[0]
    try:
        with (
            urllib.request.urlopen(file.url, timeout=CONNECT_SECONDS) as response,
            atomic_write(destination) as temporary,
        ):
            with open(temporary, "wb") as out:
                shutil.copyfileobj(response, out)
            _check(file, temporary, None)
    except OSError as error:  # urllib's errors and time-outs are of this class, as is a full disk
        raise NetworkUnavailable(
            f"the weights of {file.network} cannot be fetched ({error}). {_remedy(file)}"
        ) from error
    return destination


def _remedy(file: WeightFile) -> str:
    check = f"SHA-256 {file.sha256}..." if file.sha256 else "no published SHA-256"
    return (
        f"Fetch {file.names[0]} ({check}) from {file.url} on a machine that can, and put it into "
        f"{torch_hub_folder()} under that name, or pass its path; or choose metrics that need no download "
        '(metrics="offline")'
    )
