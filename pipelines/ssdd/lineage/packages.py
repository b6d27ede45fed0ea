"""Versions of the packages that can change a result.

The packages of `COUNTED` whose names a node's code reaches enter its fingerprint, by release (`2.6.1`): patch
releases may change numerical results. The local part of a version (`+cpu`, `+cu124`) distinguishes builds for
devices and is left out, as the device itself is. The Python version and packages that only draw or print are
recorded for the reader and enter no fingerprint.
"""

import functools
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

# import name -> distribution; the two differ for some, and code shows only the first
COUNTED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "PIL": "pillow",
    "datasets": "datasets",
    "schedulefree": "schedulefree",
    "timm": "timm",
    "lpips": "lpips",
    "torchmetrics": "torchmetrics",
    "torch_fidelity": "torch-fidelity",
    "diffusers": "diffusers",
    "pandas": "pandas",
}


def counted(reached: Iterable[str]) -> dict[str, str]:
    """Returns distribution -> release of the counted packages among the import names reached."""
    found = {}
    for name in sorted(set(reached) & COUNTED.keys()):
        release = installed(COUNTED[name])
        if release is not None:
            found[COUNTED[name]] = release.partition("+")[0]
    return found


def recorded() -> dict[str, str]:
    """Returns Python's and every counted package's full version, for the reader."""
    releases = {name: installed(name) for name in (*COUNTED.values(), "kedro", "safetensors")}
    return {"python": platform.python_version(), **{k: v for k, v in sorted(releases.items()) if v}}


@functools.cache
def installed(distribution: str) -> str | None:
    """Returns the installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
