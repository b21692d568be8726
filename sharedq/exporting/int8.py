"""Makes a smaller file of an exported agent, whose matrix products are computed in INT8.

Convolutional networks are quantised statically: the ranges of activations are those of calibration observations, which
must be spread over play. Dense networks are quantised dynamically: each call measures the ranges of its batch. Only
convolutions and matrix products are quantised. With all operations, the measured agreement of Atari fell to 0.41.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

PRODUCTS = ["Conv", "Gemm", "MatMul"]
BATCH = 32  # calibration observations that are run together


def is_convolutional(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "Conv" for node in model.graph.node)


def quantised(model: onnx.ModelProto, observations: np.ndarray) -> onnx.ModelProto:
    """The model with INT8 products. `observations` calibrate it if it is convolutional."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, out = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, given)  # a model that is given itself is changed, if it is large
        if is_convolutional(model):
            quantize_static(
                given,
                out,
                _Calibration(observations),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=PRODUCTS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        else:
            quantize_dynamic(given, out, op_types_to_quantize=PRODUCTS[1:], weight_type=QuantType.QInt8)
        found = onnx.load(out)
    onnx.checker.check_model(found)
    return found


class _Calibration(CalibrationDataReader):
    """Hands out the observations in batches."""

    def __init__(self, observations: np.ndarray):
        self._batches: Iterator[Any] = iter(np.split(observations, range(BATCH, len(observations), BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"observation": batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps advice for people who write programs out of the output of a command."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
