"""The sides of the benchmark of exported decoders, and when a loss is small."""

USABLE = 0.2  # dB of PSNR: a side that loses as much is not recommended
# The runtime, and the numbers that it computes with. onnxruntime has no bfloat16 convolutions for CPUs.
SIDES: dict[str, tuple[str, str]] = {
    "eager": ("PyTorch", "float32"),
    "eager_bfloat16": ("PyTorch", "bfloat16"),
    "compiled": ("PyTorch, compiled", "float32"),
    "compiled_bfloat16": ("PyTorch, compiled", "bfloat16"),
    "onnxruntime": ("onnxruntime", "float32"),
    "onnxruntime_int8": ("onnxruntime", "float32, int8 weights"),
    "onnxruntime_dynamic": ("onnxruntime", "int8"),
    "openvino": ("OpenVINO", "float32"),
    "openvino_bfloat16": ("OpenVINO", "bfloat16"),
    "openvino_int8": ("OpenVINO", "float32, int8 weights"),
}
