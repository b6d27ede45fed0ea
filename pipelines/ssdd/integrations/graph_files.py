"""The files of exported graphs, and the runtimes that compute them: ONNX, OpenVINO, PyTorch's exported programs."""

# B batch, C latent channels, F down-scale, h w latent cells, H = h F, W = w F pixels

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

Target = Literal["onnx", "openvino", "torch-export"]
SUFFIXES: dict[Target, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
KEY = "ssdd"  # of the record in each kind of file
OPSET = 18

Run = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Graph:
    """One part of a model, ready to be traced.

    Args:
        form: the network for any size.
        eager: the same part of the model, with the form's inputs and outputs.
        draw: makes inputs for a batch and a number of latent cells.
        inputs: name -> dimensions, by their names.
        outputs: likewise.
        most: images of a batch, where a network has such a limit.
    """

    form: nn.Module
    eager: Run
    draw: Callable[[int, int, int], tuple[Tensor, ...]]
    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, tuple[str, ...]]
    most: int | None = None


def check_target(target: Target) -> None:
    """Refuses a target whose runtime is not installed.

    Raises:
        ModuleNotFoundError: names the extra.
    """
    from importlib.util import find_spec

    needed = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
    missing = [name for name in needed.get(target, ()) if find_spec(name) is None]
    if missing:
        extra = re.sub(r"\W.*", "", target)
        raise ModuleNotFoundError(f"export to {target} needs {', '.join(missing)}: install the extra ssdd[{extra}]")


def _write_onnx(program: Any, graph: Graph, file: Path, content: str) -> None:
    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(graph.inputs),
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props[KEY] = content
    _name_outputs(made.model, list(graph.outputs))
    _name_dimensions(made.model, graph)
    made.save(file)


def _name_outputs(model: Any, names: list[str]) -> None:
    """Names the outputs; the exporter itself would not notice that a value inside has such a name, as `mean` may."""
    for node in model.graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}_inside"
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = name


def _name_dimensions(model: Any, graph: Graph) -> None:
    """Replaces the tracer's names of free dimensions, such as `s30`, by ours."""
    from onnx_ir import Shape

    for values, names in ((model.graph.inputs, graph.inputs), (model.graph.outputs, graph.outputs)):
        for value in values:
            fixed = [size if isinstance(size, int) else None for size in value.shape]
            value.shape = Shape([f or name for f, name in zip(fixed, names[value.name], strict=True)])


def run_onnx(file: Path, threads: int = 0) -> Run:
    """Opens an ONNX file in onnxruntime.

    Args:
        file: of any exported graph.
        threads: 0 for as many as onnxruntime chooses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        named = {slot.name: value.numpy() for slot, value in zip(session.get_inputs(), inputs, strict=True)}
        return tuple(torch.from_numpy(value) for value in session.run(None, named))

    return run


def _write_openvino(program: Any, graph: Graph, file: Path, content: str) -> None:
    import openvino

    onnx_file = file.with_suffix(SUFFIXES["onnx"])
    _write_onnx(program, graph, onnx_file, content)
    model = openvino.convert_model(onnx_file)
    model.set_rt_info(content, KEY)
    openvino.save_model(model, file, compress_to_fp16=False)
    onnx_file.unlink()


def run_openvino(
    file: Path, threads: int = 0, precision: str = "f32", shapes: dict[str, tuple[int, ...]] | None = None
) -> Run:
    """Opens an exported graph in OpenVINO.

    Args:
        file: of OpenVINO or ONNX.
        threads: 0 for as many as OpenVINO chooses.
        precision: `f32` or `bf16`; without a word, some CPUs would compute in bfloat16.
        shapes: of each input, where they are known: such a network is faster, but takes no other size.
    """
    import openvino

    model = openvino.Core().read_model(file)
    if shapes:
        model.reshape({name: list(shape) for name, shape in shapes.items()})
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.compile_model(model, "CPU", config)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = compiled([value.numpy() for value in inputs])
        return tuple(torch.from_numpy(found[slot].copy()) for slot in compiled.outputs)

    return run


def _write_program(program: Any, graph: Graph, file: Path, content: str) -> None:
    # Tracing a convolution asks for the memory format of its input, and keeps as a condition that there is more than
    # one image or row. Results do not depend on it, as the check shows, which begins with a batch of one.
    if hasattr(program, "_guards_code"):
        program._guards_code = [text for text in program._guards_code if " == " in text and "//" not in text]
    torch.export.save(program, file, extra_files={f"{KEY}.json": content})


def _run_program(file: Path) -> Run:
    module = torch.export.load(file).module()

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            found = module(*inputs)
        return found if isinstance(found, tuple) else (found,)

    return run


WRITERS: dict[str, Callable[[Any, Graph, Path, str], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch-export": _write_program,
}
RUNNERS: dict[str, Callable[[Path], Run]] = {
    "onnx": run_onnx,
    "openvino": run_openvino,
    "torch-export": _run_program,
}
