"""SSDD: single-step diffusion decoder for image tokenizers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdd.autoencoder import SSDD
    from ssdd.integrations.autoencoder_ssdd import AutoencoderSSDD

__all__ = ["SSDD", "AutoencoderSSDD"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    # torch is imported with the model, not with the package: commands that compute nothing start at once.
    if name == "SSDD":
        from ssdd.autoencoder import SSDD

        return SSDD
    # A pipeline of diffusers that was saved with an AutoencoderSSDD looks for that class here, and, to learn how it is
    # loaded, for the class of diffusers that it is made of.
    if name in ("AutoencoderSSDD", "ModelMixin"):
        try:
            from ssdd.integrations import autoencoder_ssdd
        except ModuleNotFoundError as error:
            needed = str(error.name).partition(".")[0]
            raise ModuleNotFoundError(
                f"AutoencoderSSDD needs {needed}: pip install 'ssdd[diffusers]'", name=error.name
            ) from None
        return getattr(autoencoder_ssdd, name)
    raise AttributeError(f"module 'ssdd' has no attribute {name!r}")
