"""Images for training and evaluation: sources, the index, transforms, order, loading."""

from .dataset import Example, ImageDataset, Key
from .decode import BadImage, Reason, decode_image, decoding_libraries
from .folder import ImageFolder, ImageNetFolder
from .huggingface import HuggingFaceImages
from .index import Prepared, prepare, select
from .loader import close_loader, make_loader
from .preview import contact_sheet, to_picture
from .sample import EmbeddedSample
from .sampler import StepSampler
from .source import TRAIN, VALIDATION, Source
from .sources import open_source
from .transforms import EvalTransform, TrainTransform, Transform

__all__ = [
    "TRAIN",
    "VALIDATION",
    "BadImage",
    "EmbeddedSample",
    "EvalTransform",
    "Example",
    "HuggingFaceImages",
    "ImageDataset",
    "ImageFolder",
    "ImageNetFolder",
    "Key",
    "Prepared",
    "Reason",
    "Source",
    "StepSampler",
    "TrainTransform",
    "Transform",
    "close_loader",
    "contact_sheet",
    "decode_image",
    "decoding_libraries",
    "make_loader",
    "open_source",
    "prepare",
    "select",
    "to_picture",
]
