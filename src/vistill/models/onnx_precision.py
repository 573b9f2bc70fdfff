"""An ONNX file in a cheaper type: weights and arithmetic in fp16, or in int8 by post-training
static quantisation on the user's pictures (onnxruntime.quantization)."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

_LINEAR = ("Conv", "MatMul", "Gemm")
"""What int8 makes cheaper; everything between computes in fp32."""


def to_fp16(file: Path, out: Path) -> None:
    """Write the model with weights and arithmetic in fp16; what goes in and out stays fp32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), out)


def to_int8(file: Path, out: Path, batches: Iterable[Float[np.ndarray, "b 3 h w"]]) -> None:
    """Write the model with linear layers and convolutions in int8, weights by output channel and
    of 7 bits.

    The ranges of what goes into them are those seen on `batches`. Products of two activations, as
    of queries and keys, stay in fp32: attention is sharp where their range is wide.

    Args:
        file: in fp32.
        out: to write.
        batches: pixels in [0, 1].
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands out the batches."""

        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            found = next(self.batches, None)
            return None if found is None else {"pixels": found}

    prepared = out.with_name("prepared.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    weights = {one.name for one in graph.initializer}
    activations = [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and not weights & set(node.input)
    ]
    logging.disable(logging.WARNING)  # it advises on a preparation that was made
    try:
        quantize_static(
            str(prepared),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_LINEAR],
            nodes_to_exclude=activations,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # x86 CPUs without VNNI add pairs of products of 8 bits in 16: they saturate, unsaid.
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        logging.disable(logging.NOTSET)
    prepared.unlink()
