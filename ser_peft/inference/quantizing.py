"""ONNX models in int8: smaller, and faster on a processor."""

import logging
from contextlib import contextmanager

import numpy as np

__all__ = ["quantize"]

ENCODER = "model.encoder.lobe.model."
"""Beginning of the names of the encoder's own weights: in float16 they are as
good as in int8, which the waves of a Fourier transform are not."""
MEL = "mel_filters"
"""Part of the name of the mel filters, which stay as they are."""
SMALLEST = 1 << 12
"""Elements of the smallest constant that is worth float16."""


def quantize(path):
    """Quantise the matrix products of a model, in place.

    Weights are kept in int8, one scale a column, and activations are
    quantised as they come, one scale a tensor (onnxruntime's dynamic
    quantisation). All other large weights, as those of convolutions, are kept
    in float16 and computed with in float32; the mel front end stays as it
    was.

    Arguments
    ---------
    path : str or Path
        File of ONNX.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            path,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=[
                node.name
                for node in onnx.load(path).graph.node
                if any(MEL in name for name in node.input)
            ],
            per_channel=True,
            # 7 bits: processors without VNNI add up pairs of products in 16.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    model = onnx.load(path)
    for constant in [*model.graph.initializer]:
        _shrink(onnx, model.graph, constant)
    onnx.save(model, path)


def _shrink(onnx, graph, constant):
    """Keep a constant in float16."""
    if (
        constant.data_type != onnx.TensorProto.FLOAT
        or np.prod(constant.dims) < SMALLEST
        or not constant.name.startswith(ENCODER)
    ):
        return
    name, half = constant.name, f"{constant.name}_half"
    values = onnx.numpy_helper.to_array(constant).astype(np.float16)
    constant.CopyFrom(onnx.numpy_helper.from_array(values, half))
    cast = onnx.helper.make_node(
        "Cast", [half], [name], f"{half}_cast", to=onnx.TensorProto.FLOAT
    )
    graph.node.insert(0, cast)


@contextmanager
def _quiet():
    """Leave out that models should be prepared: this one is."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
