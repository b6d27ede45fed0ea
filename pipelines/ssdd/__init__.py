"""SSDD: single-step diffusion decoder for image tokenizers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdd.autoencoder import SSDD

__all__ = ["SSDD"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch is imported with the model, not with the package: commands that compute nothing start at once.
    if name == "SSDD":
        from ssdd.autoencoder import SSDD

        return SSDD
    raise AttributeError(f"module 'ssdd' has no attribute {name!r}")
