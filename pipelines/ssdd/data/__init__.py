"""Images for training and evaluation: sources, the index, transforms, order, loading."""

from ssdd.data.contact_sheets import contact_sheet, to_picture
from ssdd.data.decoding import BadImage, Reason, decode_image, decoding_libraries
from ssdd.data.embedded_sample import EmbeddedSample
from ssdd.data.huggingface import HuggingFaceImages
from ssdd.data.image_dataset import Example, ImageDataset, Key
from ssdd.data.image_folders import ImageFolder, ImageNetFolder
from ssdd.data.image_index import Prepared, prepare, select
from ssdd.data.image_sets import open_source
from ssdd.data.loader import close_loader, make_loader
from ssdd.data.source import TRAIN, VALIDATION, Source
from ssdd.data.step_sampler import StepSampler
from ssdd.data.transforms import EvalTransform, TrainTransform, Transform

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
