"""The nodes of ComfyUI, as it finds and calls them, and the example workflow."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ssdd import SSDD
from ssdd.integrations import comfyui
from ssdd.integrations.comfyui.comfy_nodes import SSDDDecode, SSDDEncode, SSDDLoader

FOLDER = Path(comfyui.__file__).parent
KNOWN_TYPES = {"IMAGE", "LATENT", "STRING", "INT", "SSDD"}


@pytest.fixture
def custom_nodes(tmp_path):
    """The folder as ComfyUI imports it: a link, from a file, under a name of its own."""
    (tmp_path / "custom_nodes").mkdir()
    link = tmp_path / "custom_nodes/ssdd"
    link.symlink_to(FOLDER)
    spec = importlib.util.spec_from_file_location("custom_nodes_ssdd", link / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    file = SSDD("debug", "debug").save_pretrained(tmp_path / "model.safetensors")
    (loaded,) = SSDDLoader().load(str(file), "float32", "cpu")
    return loaded


def test_nodes_keep_the_contract(custom_nodes):
    classes = custom_nodes.NODE_CLASS_MAPPINGS
    assert custom_nodes.NODE_DISPLAY_NAME_MAPPINGS.keys() == classes.keys()
    assert set(custom_nodes.NODE_DISPLAY_NAME_MAPPINGS.values()) == {"SSDD Loader", "SSDD Encode", "SSDD Decode"}
    for name, kind in classes.items():
        assert callable(getattr(kind(), kind.FUNCTION)), name
        assert isinstance(kind.CATEGORY, str)
        assert isinstance(kind.RETURN_TYPES, tuple)
        assert set(kind.RETURN_TYPES) <= KNOWN_TYPES
        inputs = kind.INPUT_TYPES()["required"]
        for declared in inputs.values():
            assert isinstance(declared, tuple)
            assert declared[0] in KNOWN_TYPES if isinstance(declared[0], str) else all(declared[0])
        code = getattr(kind, kind.FUNCTION).__code__
        assert set(inputs) == set(code.co_varnames[1 : code.co_argcount])


def test_images_come_back_as_the_model_decodes_them(model):
    image = torch.rand(3, 35, 48, 3)
    (latent,) = SSDDEncode().encode(image, model)
    assert latent["samples"].shape == (3, 4, 4, 6)  # cropped at the centre to 32 x 48
    expected = model.encode(image[:, 1:33].movedim(-1, 1) * 2 - 1).mode()
    torch.testing.assert_close(latent["samples"], expected, atol=1e-5, rtol=1e-5)
    (images,) = SSDDDecode().decode(latent, model, steps=1, seed=3, tile=0)
    assert images.shape == (3, 32, 48, 3)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, SSDDDecode().decode(latent, model, steps=1, seed=3, tile=0)[0])
    assert not torch.equal(images, SSDDDecode().decode(latent, model, steps=1, seed=4, tile=0)[0])
    torch.testing.assert_close(SSDDDecode().decode(latent, model, 1, 3, tile=16)[0], images, atol=1e-5, rtol=0)
    first = {"samples": latent["samples"][:1]}
    assert torch.equal(SSDDDecode().decode(first, model, steps=1, seed=3, tile=0)[0], images[:1])
    assert SSDDDecode().decode(first, model, steps=1, seed=2**64 - 1, tile=0)[0].isfinite().all()
    with pytest.raises(ValueError, match="at least 8 x 8 pixels"):
        SSDDEncode().encode(image[:, :4], model)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_loader_takes_the_number_format(tmp_path, precision):
    file = SSDD("debug", "debug").save_pretrained(tmp_path / "model.safetensors")
    (model,) = SSDDLoader().load(str(file), precision, "cpu")
    (latent,) = SSDDEncode().encode(torch.rand(1, 16, 16, 3), model)
    (image,) = SSDDDecode().decode(latent, model, steps=2, seed=0, tile=0)
    assert image.shape == (1, 16, 16, 3)
    assert image.isfinite().all()


def test_the_example_workflow_runs(tmp_path, custom_nodes):
    """With nodes in the place of ComfyUI's own that load and save images."""

    class LoadImage:
        FUNCTION = "load"

        def load(self, image):
            return (torch.rand(1, 64, 64, 3),)

    class SaveImage:
        FUNCTION = "save"

        def save(self, images, filename_prefix):
            return (images,)

    classes = {**custom_nodes.NODE_CLASS_MAPPINGS, "LoadImage": LoadImage, "SaveImage": SaveImage}
    workflow, results = json.loads((FOLDER / "workflow.json").read_text()), {}
    for number in sorted(workflow, key=int):  # they are in order
        node = classes[workflow[number]["class_type"]]
        values = {k: results[v[0]][v[1]] if isinstance(v, list) else v for k, v in workflow[number]["inputs"].items()}
        results[number] = getattr(node(), node.FUNCTION)(**values)
    assert results["5"][0].shape == (1, 64, 64, 3)
    kinds = {number: node["class_type"] for number, node in workflow.items()}
    for node in workflow.values():  # connections have the types that both nodes declare
        declared = getattr(classes[node["class_type"]], "INPUT_TYPES", dict)().get("required", {})
        for name, value in node["inputs"].items():
            if isinstance(value, list) and name in declared and hasattr(classes[kinds[value[0]]], "RETURN_TYPES"):
                assert classes[kinds[value[0]]].RETURN_TYPES[value[1]] == declared[name][0]


def test_progress_is_shown_and_an_interruption_ends_the_work(model, monkeypatch):
    events = []

    class Stopped(Exception):
        pass

    class ProgressBar:
        def __init__(self, total):
            events.append(total)

        def update(self, value):
            events.append("moved")

    def stop():
        if events.count("moved") == 2:
            raise Stopped

    package, management, utils = (ModuleType(name) for name in ("comfy", "comfy.model_management", "comfy.utils"))
    management.throw_exception_if_processing_interrupted = stop
    utils.ProgressBar = ProgressBar
    package.model_management, package.utils = management, utils
    for module in (package, management, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(Stopped):
        SSDDDecode().decode({"samples": torch.randn(4, 4, 2, 2)}, model, steps=1, seed=0, tile=0)
    assert events == [4, "moved", "moved"]
