"""ONNX files with kernels and matrices in 8 bits: as stored weights alone, or computed in 8 bits too."""

from pathlib import Path

import numpy as np

from ssdd.integrations.exported_graphs import quiet

LEAST = 4096  # numbers of a weight; smaller ones save nothing
# The operator, and the axis of its weight that belongs to output channels. Gemm, of the few and small products over
# times, is left out: OpenVINO 2026.4 does not compile it with such a weight.
OUTPUT_AXIS = {"Conv": 0, "MatMul": -1}


def store_int8(source: Path, target: Path) -> None:
    """Stores weights as int8 with a scale for each output channel; runtimes compute with them in floating point.

    Args:
        source: an ONNX file.
        target: the file to be written.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    held = {weight.name: weight for weight in graph.initializer}
    for node in list(graph.node):
        weight = held.get(node.input[1]) if node.op_type in OUTPUT_AXIS else None
        if weight is None:
            continue
        values = numpy_helper.to_array(weight)
        if values.size < LEAST or values.dtype != np.float32:
            continue
        axis = OUTPUT_AXIS[node.op_type] % values.ndim
        levels, scales = _quantized(values, axis)
        names = [f"{weight.name}.int8", f"{weight.name}.scale"]
        graph.initializer.remove(weight)
        graph.initializer.extend([numpy_helper.from_array(a, n) for a, n in zip((levels, scales), names, strict=True)])
        graph.node.insert(0, helper.make_node("DequantizeLinear", names, [weight.name], axis=axis))
        del held[weight.name]  # another node with the same weight takes the same result
    onnx.save(model, target)


def compute_int8(source: Path, target: Path) -> None:
    """Lets onnxruntime compute products in 8 bits, with scales of the inputs taken anew in each call.

    Args:
        source: an ONNX file.
        target: the file to be written.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)


def _quantized(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns levels (the same shape, int8) and scales (along the axis), such that their product is the nearest."""
    others = tuple(place for place in range(values.ndim) if place != axis)
    scales = np.abs(values).max(axis=others, keepdims=True) / 127
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales.reshape(-1)
