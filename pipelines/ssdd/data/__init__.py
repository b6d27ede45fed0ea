"""Images for training and evaluation: sources, the index, transforms, order, loading.

The names below can be imported from here, as in `from ssdd.data import EvalTransform`. Each module loads on first use.
Code of this project imports from the modules themselves: the lineage then follows only the names that are used.
"""

from importlib import import_module
from typing import Any

# Loading everything at once would cost 5 s for torch, even to list the files of a folder. The modules have their full
# names, because the lineage follows such strings to the code that a node uses.
_MODULES = {
    "TRAIN": "ssdd.data.source",
    "VALIDATION": "ssdd.data.source",
    "BadImage": "ssdd.data.decoding",
    "EmbeddedSample": "ssdd.data.embedded_sample",
    "EvalTransform": "ssdd.data.transforms",
    "Example": "ssdd.data.image_dataset",
    "HuggingFaceImages": "ssdd.data.huggingface",
    "ImageDataset": "ssdd.data.image_dataset",
    "ImageFolder": "ssdd.data.image_folders",
    "ImageNetFolder": "ssdd.data.image_folders",
    "IndexedImages": "ssdd.data.image_index",
    "Key": "ssdd.data.image_dataset",
    "Reason": "ssdd.data.decoding",
    "Source": "ssdd.data.source",
    "StepSampler": "ssdd.data.step_sampler",
    "TrainTransform": "ssdd.data.transforms",
    "Transform": "ssdd.data.transforms",
    "close_loader": "ssdd.data.loader",
    "contact_sheet": "ssdd.data.contact_sheets",
    "decode_image": "ssdd.data.decoding",
    "decoding_libraries": "ssdd.data.decoding",
    "index_images": "ssdd.data.image_index",
    "make_loader": "ssdd.data.loader",
    "open_source": "ssdd.data.image_sets",
    "select": "ssdd.data.image_index",
    "to_picture": "ssdd.data.contact_sheets",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ssdd.data' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
