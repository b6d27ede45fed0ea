"""Images for training and evaluation: sources, the index, transforms, order, loading.

The names below can be imported from here, as in `from ssdd.data import EvalTransform`. Each module loads on first use.
Code of this project imports from the modules themselves: the lineage then follows only the names that are used.
"""

from importlib import import_module
from typing import Any

# Loading everything at once would cost 5 s for torch, even to list the files of a folder. The modules have their full
# names, because the lineage follows such strings to the code that a node uses.
_NAMES = {
    "ssdd.data.contact_sheets": ("contact_sheet", "to_picture"),
    "ssdd.data.decoding": ("BadImage", "Reason", "decode_image", "decoding_libraries"),
    "ssdd.data.embedded_sample": ("EmbeddedSample",),
    "ssdd.data.huggingface": ("HuggingFaceImages",),
    "ssdd.data.image_dataset": ("Example", "ImageDataset", "Key"),
    "ssdd.data.image_folders": ("ImageFolder", "ImageNetFolder"),
    "ssdd.data.image_index": ("IndexedImages", "index_images", "select"),
    "ssdd.data.image_sets": ("open_source",),
    "ssdd.data.loader": ("close_loader", "make_loader"),
    "ssdd.data.source": ("TRAIN", "VALIDATION", "Source"),
    "ssdd.data.step_sampler": ("StepSampler",),
    "ssdd.data.tar_images": ("TarImages",),
    "ssdd.data.transforms": ("EvalTransform", "TrainTransform", "Transform"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ssdd.data' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
