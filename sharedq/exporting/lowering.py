"""Writes a function that JAX has traced as a graph of ONNX operators.

The batch size stays free: it is a symbol while JAX traces. What depends on weights alone is computed here and becomes a
constant, and equal operations are written once. An operation without a counterpart here is refused by its name.

A value may be smaller than its shape in JAX, because the elementwise operators of ONNX broadcast as NumPy does. `full`
expands it for the other operators.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import linen as nn
from jax.extend.core import Literal
from onnx import helper, numpy_helper

from sharedq.errors import SharedqError, told
from sharedq.networks.convolution import native_convolutions

OPSET = 21  # QDQ of INT8 needs 13; onnxruntime 1.20 reads 21
IR_VERSION = 10
BATCH = "batch"

Shape = tuple[Any, ...]  # of numbers, or of expressions of the batch size


class Value(NamedTuple):
    """A tensor of the graph."""

    name: str
    shape: Shape
    dtype: np.dtype
    constant: np.ndarray | None = None  # its numbers, if they are known


class Graph:
    """The nodes and constants so far. Equal nodes and equal constants have one name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}
        self._turned: dict[str, tuple[Value, tuple[int, ...]]] = {}  # what a Transpose made of which value
        self._sizes: Value | None = None

    def constant(self, array: Any) -> Value:
        array = np.asarray(array)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            name = f"constant_{len(self.constants)}"
            self._known[key], self.constants[name] = name, array
        return Value(self._known[key], array.shape, array.dtype, array)

    def emit(self, operator: str, inputs: Sequence[Value], shape: Shape, dtype: Any = None, **attributes: Any) -> Value:
        """The output of an operator, of this shape; its dtype is that of the first input unless it is given."""
        names = [one.name for one in inputs]
        key = (operator, *names, str(sorted(attributes.items())))
        if key not in self._known:
            self._known[key] = f"{operator}_{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, names, [self._known[key]], **attributes))
        return Value(self._known[key], tuple(shape), np.dtype(inputs[0].dtype if dtype is None else dtype))

    def sizes_of(self, source: Value) -> None:
        """Takes the batch size from the first axis of this value."""
        shape = self.emit("Shape", [source], (1,), np.int64, start=0, end=1)
        self._sizes = shape

    def size(self, size: Any) -> Value:
        """One axis as a tensor [1]. Sizes are numbers, or a multiple of the batch size plus a number."""
        if isinstance(size, int | np.integer):
            return self.constant(np.array([size], np.int64))
        at = [size._evaluate({BATCH: n}) for n in (1, 2, 5)]
        slope, start = at[1] - at[0], 2 * at[0] - at[1]
        if start + 5 * slope != at[2] or self._sizes is None:
            raise SharedqError(f"the agent cannot be exported: a shape is {size} for a batch of {BATCH} observations")
        found = self._sizes
        if slope != 1:
            found = self.emit("Mul", [found, self.constant(np.array([slope], np.int64))], (1,))
        if start:
            found = self.emit("Add", [found, self.constant(np.array([start], np.int64))], (1,))
        return found

    def sizes(self, shape: Shape) -> Value:
        """A shape as a tensor."""
        if all(isinstance(size, int | np.integer) for size in shape):
            return self.constant(np.array(shape, np.int64))
        return self.emit("Concat", [self.size(size) for size in shape], (len(shape),), axis=0)

    def full(self, value: Value, shape: Shape) -> Value:
        """The value in this shape, to which it can be broadcast."""
        if value.shape == tuple(shape):
            return value
        if value.constant is not None and all(isinstance(size, int) for size in shape):
            return self.constant(np.broadcast_to(value.constant, shape))
        return self.emit("Expand", [value, self.sizes(shape)], shape)

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The same numbers in another shape."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        if value.constant is not None:
            return self.constant(value.constant.reshape(shape))
        free = [place for place, size in enumerate(shape) if not isinstance(size, int | np.integer)]
        if len(free) == 1 and 0 not in shape:
            wanted = self.constant(np.array([-1 if place in free else size for place, size in enumerate(shape)]))
        else:
            wanted = self.sizes(shape)
        return self.emit("Reshape", [value, wanted], shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        order = tuple(int(axis) for axis in order)
        if value.name in self._turned:
            value, before = self._turned[value.name]
            order = tuple(before[axis] for axis in order)
        if order == tuple(range(len(value.shape))):
            return value
        if value.constant is not None:
            return self.constant(value.constant.transpose(order))
        turned = self.emit("Transpose", [value], tuple(value.shape[axis] for axis in order), perm=order)
        self._turned[turned.name] = value, order
        return turned

    def cut(self, value: Value, cuts: dict[int, tuple[Any, Any, int]], shape: Shape) -> Value:
        """The part of the value that starts, stops and steps so along these axes."""
        if not cuts:
            return value
        starts, stops, steps = zip(*cuts.values(), strict=True)
        axes, steps = (self.constant(np.array(numbers, np.int64)) for numbers in (list(cuts), steps))
        return self.emit("Slice", [value, self.sizes(starts), self.sizes(stops), axes, steps], shape)

    def cast(self, value: Value, dtype: Any) -> Value:
        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        if value.constant is not None:
            return self.constant(value.constant.astype(dtype))
        return self.emit("Cast", [value], value.shape, dtype, to=element_type(dtype))

    def lower(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """The outputs of a traced function."""
        known: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        known |= {variable: self.constant(value) for variable, value in zip(jaxpr.constvars, constants, strict=True)}

        def read(variable: Any) -> Value:
            if isinstance(variable, Literal):
                return self.constant(np.asarray(variable.val, variable.aval.dtype))
            return known[variable]

        for equation in jaxpr.eqns:
            inputs = [read(variable) for variable in equation.invars]
            known |= dict(zip(equation.outvars, self._outputs(equation, inputs), strict=True))
        return [self.full(read(variable), variable.aval.shape) for variable in jaxpr.outvars]

    def _outputs(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        if params.get("name") == _layer_norm.__name__ and inputs[1].shape == inputs[0].shape[-1:]:
            x, scale, bias, epsilon = inputs
            x = self.full(x, equation.invars[0].aval.shape)
            assert epsilon.constant is not None
            settings = {"axis": -1, "epsilon": float(epsilon.constant)}
            return [self.emit("LayerNormalization", [x, scale, bias], x.shape, **settings)]
        inner = params.get(INSIDE.get(name))
        if inner is not None:
            return self.lower(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
        shapes = [variable.aval.shape for variable in equation.outvars]
        static = all(isinstance(size, int) for shape in shapes for size in shape)
        if static and name != "dim_as_value" and all(value.constant is not None for value in inputs):
            given = [self.full(v, x.aval.shape).constant for v, x in zip(inputs, equation.invars, strict=True)]
            found = equation.primitive.bind(*given, **params)
            return [self.constant(x) for x in (found if equation.primitive.multiple_results else [found])]
        if name not in OPERATORS:
            raise _unknown(f"'{name}'")
        if name not in BROADCASTS:
            inputs = [self.full(v, x.aval.shape) for v, x in zip(inputs, equation.invars, strict=True)]
        found = OPERATORS[name](self, equation, *inputs)
        return found if equation.primitive.multiple_results else [found]


def _unknown(operation: str) -> SharedqError:
    return SharedqError(
        f"the agent cannot be exported: its decision uses the operation {operation}, which sharedq cannot write as "
        "ONNX; write the network without it"
    )


def element_type(dtype: Any) -> int:
    """ONNX's number for a dtype. Some that JAX has are unknown to onnxruntime on a CPU."""
    if np.dtype(dtype).name == "bfloat16":
        raise SharedqError(
            "the agent cannot be exported: its network computes in bfloat16, and onnxruntime has no such products on a "
            "CPU; train with --network.compute float32"
        )
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


@jax.jit
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: jax.Array) -> jax.Array:
    """What flax's LayerNorm computes. The graph has one operator for it, by the name of this function."""
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(x.var(axis=-1, keepdims=True) + epsilon) * scale + bias


def _native_layer_norm(call: Callable, arguments: Any, keywords: Any, context: Any) -> Any:
    """Lets flax's LayerNorm be `_layer_norm`, if it has no settings but its epsilon."""
    module = context.module
    if type(module) is not nn.LayerNorm or context.method_name != "__call__":
        return call(*arguments, **keywords)
    own = ("epsilon", "parent", "name")
    fields = [field for field in dataclasses.fields(nn.LayerNorm) if field.name not in own]
    if any(getattr(module, field.name) != field.default for field in fields if field.default != dataclasses.MISSING):
        return call(*arguments, **keywords)
    weights = module.variables["params"]
    return _layer_norm(*arguments, weights["scale"], weights["bias"], jnp.float32(module.epsilon))


def model_of(function: Callable[[Any], dict[str, Any]], observation: jax.ShapeDtypeStruct, name: str) -> Any:
    """The ONNX model of `function`, which takes a batch of observations and returns a dict of arrays [B, ...]."""
    (batch,) = jax.export.symbolic_shape(BATCH)
    example = jax.ShapeDtypeStruct((batch, *observation.shape), observation.dtype)
    try:
        with native_convolutions(), nn.intercept_methods(_native_layer_norm):
            traced, outputs = jax.make_jaxpr(function, return_shape=True)(example)
    except SharedqError:
        raise
    except Exception as error:  # the network may be the user's own, and can fail in any way
        raise SharedqError(
            f"the agent cannot be exported: its decision fails where the batch size is left open ({told(error)}); "
            "write the network without a use of that number"
        ) from error
    graph = Graph()
    given = Value("observation", example.shape, np.dtype(example.dtype))
    graph.sizes_of(given)
    found = graph.lower(traced.jaxpr, traced.consts, [given])
    for value, output in zip(found, outputs, strict=True):
        graph.nodes.append(helper.make_node("Identity", [value.name], [output]))
    nodes = _needed(graph.nodes, list(outputs))
    used = {one for node in nodes for one in node.input}
    constants = [numpy_helper.from_array(array, one) for one, array in graph.constants.items() if one in used]
    described = [_info("observation", example), *(_info(one, form) for one, form in outputs.items())]
    written = helper.make_graph(nodes, name, described[:1], described[1:], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(written, opset_imports=opsets, ir_version=IR_VERSION, producer_name="sharedq")


def _info(name: str, form: Any) -> Any:
    shape = [size if isinstance(size, int) else str(size) for size in form.shape]
    return helper.make_tensor_value_info(name, element_type(form.dtype), shape)


def _needed(nodes: Sequence[Any], outputs: list[str]) -> list[Any]:
    """The nodes that outputs depend on."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


# The operators. Each takes the graph, JAX's equation and its inputs.


def _elementwise(operator: str, dtype: Any = None) -> Callable:
    def write(graph: Graph, equation: Any, *inputs: Value) -> Value:
        return graph.emit(operator, inputs, _together(*inputs), dtype)

    return write


def _logical(operator: str) -> Callable:
    """An operator of booleans. JAX has the same operation for the bits of whole numbers."""

    def write(graph: Graph, equation: Any, *inputs: Value) -> Value:
        if inputs[0].dtype != bool:
            raise _unknown(f"'{equation.primitive.name}' of {inputs[0].dtype}")
        return graph.emit(operator, inputs, _together(*inputs))

    return write


def _together(*values: Value) -> Shape:
    """The shape of values that are broadcast. Of two sizes that differ, one is 1."""
    rank = max(len(value.shape) for value in values)
    padded = [(1,) * (rank - len(value.shape)) + value.shape for value in values]
    return tuple(next((size for size in sizes if _is_not_1(size)), 1) for sizes in zip(*padded, strict=True))


def _is_not_1(size: Any) -> bool:
    return not (isinstance(size, int) and size == 1)


def _same(graph: Graph, equation: Any, value: Value) -> Value:
    return value


def _same_each(graph: Graph, equation: Any, *values: Value) -> list[Value]:
    return list(values)


def _number(graph: Graph, number: float, like: Value) -> Value:
    return graph.constant(np.array(number, like.dtype))


def _rsqrt(graph: Graph, equation: Any, x: Value) -> Value:
    return graph.emit("Reciprocal", [graph.emit("Sqrt", [x], x.shape)], x.shape)


def _square(graph: Graph, equation: Any, x: Value) -> Value:
    return graph.emit("Mul", [x, x], x.shape)


def _integer_pow(graph: Graph, equation: Any, x: Value) -> Value:
    power = equation.params["y"]
    if power == 2:
        return _square(graph, equation, x)
    return graph.emit("Pow", [x, _number(graph, power, x)], x.shape)


def _log1p(graph: Graph, equation: Any, x: Value) -> Value:
    return graph.emit("Log", [graph.emit("Add", [x, _number(graph, 1, x)], x.shape)], x.shape)


def _expm1(graph: Graph, equation: Any, x: Value) -> Value:
    return graph.emit("Sub", [graph.emit("Exp", [x], x.shape), _number(graph, 1, x)], x.shape)


def _erfc(graph: Graph, equation: Any, x: Value) -> Value:
    return graph.emit("Sub", [_number(graph, 1, x), graph.emit("Erf", [x], x.shape)], x.shape)


def _not_equal(graph: Graph, equation: Any, *inputs: Value) -> Value:
    shape = _together(*inputs)
    return graph.emit("Not", [graph.emit("Equal", inputs, shape, bool)], shape)


def _remainder(graph: Graph, equation: Any, *inputs: Value) -> Value:
    return graph.emit("Mod", inputs, _together(*inputs), fmod=1)


def _is_finite(graph: Graph, equation: Any, x: Value) -> Value:
    wrong = [graph.emit(operator, [x], x.shape, bool) for operator in ("IsNaN", "IsInf")]
    return graph.emit("Not", [graph.emit("Or", wrong, x.shape)], x.shape)


def _select(graph: Graph, equation: Any, which: Value, *cases: Value) -> Value:
    if which.dtype != bool or len(cases) != 2:
        raise SharedqError("the agent cannot be exported: its decision selects among more than two cases at once")
    return graph.emit("Where", [which, cases[1], cases[0]], _together(which, *cases), cases[0].dtype)


def _clamp(graph: Graph, equation: Any, low: Value, x: Value, high: Value) -> Value:
    above = graph.emit("Max", [x, low], _together(x, low))
    return graph.emit("Min", [above, high], _together(above, high))


def _cast(graph: Graph, equation: Any, x: Value) -> Value:
    return graph.cast(x, equation.params["new_dtype"])


def _broadcast(graph: Graph, equation: Any, x: Value, *sizes: Value) -> Value:
    """Aligns the axes. The sizes of 1 are expanded only where an operator needs it."""
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    added = [axis for axis in range(len(shape)) if axis not in places]
    aligned = tuple(1 if axis in added else x.shape[places.index(axis)] for axis in range(len(shape)))
    if x.constant is not None or not added:
        return graph.reshape(x, aligned)
    return graph.emit("Unsqueeze", [x, graph.constant(np.array(added, np.int64))], aligned)


def _reshape(graph: Graph, equation: Any, x: Value, *sizes: Value) -> Value:
    return graph.reshape(x, equation.outvars[0].aval.shape)


def _transpose(graph: Graph, equation: Any, x: Value) -> Value:
    return graph.transpose(x, equation.params["permutation"])


def _concatenate(graph: Graph, equation: Any, *inputs: Value) -> Value:
    return graph.emit("Concat", inputs, equation.outvars[0].aval.shape, axis=equation.params["dimension"])


def _stack(graph: Graph, equation: Any, *inputs: Value) -> Value:
    axis = equation.params["axis"]
    shape = equation.outvars[0].aval.shape
    parts = [graph.reshape(one, (*one.shape[:axis], 1, *one.shape[axis:])) for one in inputs]
    return graph.emit("Concat", parts, shape, axis=axis)


def _slice(graph: Graph, equation: Any, x: Value) -> Value:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    cuts = enumerate(zip(starts, limits, equation.params["strides"] or (1,) * len(starts), strict=True))
    changed = {axis: cut for axis, cut in cuts if cut != (0, x.shape[axis], 1)}
    return graph.cut(x, changed, equation.outvars[0].aval.shape)


def _split(graph: Graph, equation: Any, x: Value) -> list[Value]:
    axis, ends = equation.params["axis"], np.cumsum(equation.params["sizes"])
    parts = zip(ends, equation.params["sizes"], equation.outvars, strict=True)
    return [graph.cut(x, {axis: (int(end - size), int(end), 1)}, one.aval.shape) for end, size, one in parts]


def _pad(graph: Graph, equation: Any, x: Value, filler: Value) -> Value:
    low, high, inside = zip(*equation.params["padding_config"], strict=True)
    if any(inside):
        raise SharedqError("the agent cannot be exported: its decision pads between the entries of an array")
    pads = graph.constant(np.array([*low, *high], np.int64))
    return graph.emit("Pad", [x, pads, filler], equation.outvars[0].aval.shape)


def _gather(graph: Graph, equation: Any, x: Value, indices: Value) -> Value:
    """One slice at a known place, or whole rows of one axis, as indexing with numbers or with a list takes them."""
    form, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, rank = equation.outvars[0].aval.shape, len(indices.shape) - 1
    if indices.constant is not None and not rank:
        starts = dict(zip(form.start_index_map, indices.constant.tolist(), strict=True))
        cuts = {axis: (start, start + sizes[axis], 1) for axis, start in starts.items()}
        return graph.reshape(graph.cut(x, cuts, sizes), shape)
    axis, *others = form.start_index_map
    whole = all(size == (1 if place == axis else x.shape[place]) for place, size in enumerate(sizes))
    beside = tuple(place for place in range(len(shape)) if not axis <= place < axis + rank)
    if others or form.collapsed_slice_dims != (axis,) or not whole or form.offset_dims != beside:
        raise SharedqError("the agent cannot be exported: its decision takes entries of an array by several indices")
    return graph.emit("Gather", [x, graph.reshape(indices, indices.shape[:-1])], shape, axis=axis)


def _reduction(operator: str) -> Callable:
    def write(graph: Graph, equation: Any, x: Value) -> Value:
        axes = graph.constant(np.array(equation.params["axes"], np.int64))
        return graph.emit(operator, [x, axes], equation.outvars[0].aval.shape, keepdims=0)

    return write


def _place_of(operator: str) -> Callable:
    def write(graph: Graph, equation: Any, x: Value) -> Value:
        (axis,) = equation.params["axes"]
        found = graph.emit(operator, [x], equation.outvars[0].aval.shape, np.int64, axis=axis, keepdims=0)
        return graph.cast(found, equation.params["index_dtype"])

    return write


def _iota(graph: Graph, equation: Any, *sizes: Value) -> Value:
    shape, axis = equation.outvars[0].aval.shape, equation.params["dimension"]
    one, none = graph.constant(np.int64(1)), graph.constant(np.int64(0))
    count = graph.emit("Squeeze", [graph.size(shape[axis])], ())
    numbers = graph.cast(graph.emit("Range", [none, count, one], (shape[axis],)), equation.params["dtype"])
    return graph.reshape(numbers, tuple(size if place == axis else 1 for place, size in enumerate(shape)))


def _dimension(graph: Graph, equation: Any) -> Value:
    size = graph.emit("Squeeze", [graph.size(equation.params["dim"])], ())
    return graph.cast(size, equation.outvars[0].aval.dtype)


def _product(graph: Graph, equation: Any, x: Value, y: Value) -> Value:
    """A matrix product: axes that both have, then those of x, then those of y."""
    (over_x, over_y), (both_x, both_y) = equation.params["dimension_numbers"]
    own_x = [axis for axis in range(len(x.shape)) if axis not in (*over_x, *both_x)]
    own_y = [axis for axis in range(len(y.shape)) if axis not in (*over_y, *both_y)]
    shape = equation.outvars[0].aval.shape
    left, right = graph.transpose(x, [*both_x, *own_x, *over_x]), graph.transpose(y, [*both_y, *over_y, *own_y])
    if both_x or len(over_x) != 1 or len(own_y) != 1 or not own_x:
        both = tuple(x.shape[axis] for axis in both_x)
        summed = math.prod(x.shape[axis] for axis in over_x)
        rows, columns = (math.prod(v.shape[axis] for axis in own) for v, own in ((x, own_x), (y, own_y)))
        left, right = graph.reshape(left, (*both, rows, summed)), graph.reshape(right, (*both, summed, columns))
        return graph.reshape(graph.emit("MatMul", [left, right], (*both, rows, columns)), shape)
    return graph.emit("MatMul", [left, right], shape)


def _convolution(graph: Graph, equation: Any, x: Value, kernel: Value) -> Value:
    of_x, of_kernel, of_output = equation.params["dimension_numbers"]
    if set(equation.params["lhs_dilation"]) != {1} or equation.params["batch_group_count"] != 1:
        raise SharedqError("the agent cannot be exported: it uses a transposed convolution")
    low, high = zip(*equation.params["padding"], strict=True)
    shape = equation.outvars[0].aval.shape
    found = graph.emit(
        "Conv",
        [graph.transpose(x, of_x), graph.transpose(kernel, of_kernel)],
        tuple(shape[axis] for axis in of_output),
        strides=list(equation.params["window_strides"]),
        dilations=list(equation.params["rhs_dilation"]),
        pads=[*low, *high],
        group=equation.params["feature_group_count"],
    )
    return graph.transpose(found, np.argsort(of_output).tolist())


def _max_pool(graph: Graph, equation: Any, x: Value) -> Value:
    params, shape = equation.params, equation.outvars[0].aval.shape
    sizes, strides, dilations = params["window_dimensions"], params["window_strides"], params["window_dilation"]
    spatial = [axis for axis in range(1, len(x.shape)) if sizes[axis] > 1 or strides[axis] > 1]
    order = [axis for axis in range(len(x.shape)) if axis not in spatial] + spatial
    if len(order) - len(spatial) != 2 or set(params["base_dilation"]) != {1}:
        raise SharedqError("the agent cannot be exported: its pooling is not over the sides of images [B, ..., C]")
    low, high = zip(*(params["padding"][axis] for axis in spatial), strict=True)
    found = graph.emit(
        "MaxPool",
        [graph.transpose(x, order)],
        tuple(shape[axis] for axis in order),
        kernel_shape=[sizes[axis] for axis in spatial],
        strides=[strides[axis] for axis in spatial],
        dilations=[dilations[axis] for axis in spatial],
        pads=[*low, *high],
    )
    return graph.transpose(found, np.argsort(order).tolist())


def _cumsum(graph: Graph, equation: Any, x: Value) -> Value:
    axis = graph.constant(np.int64(equation.params["axis"]))
    return graph.emit("CumSum", [x, axis], x.shape, reverse=int(equation.params["reverse"]))


ELEMENTWISE: dict[str, Callable] = {
    "add": _elementwise("Add"),
    "sub": _elementwise("Sub"),
    "mul": _elementwise("Mul"),
    "div": _elementwise("Div"),
    "rem": _remainder,
    "pow": _elementwise("Pow"),
    "max": _elementwise("Max"),
    "min": _elementwise("Min"),
    "clamp": _clamp,
    "neg": _elementwise("Neg"),
    "abs": _elementwise("Abs"),
    "sign": _elementwise("Sign"),
    "floor": _elementwise("Floor"),
    "ceil": _elementwise("Ceil"),
    "round": _elementwise("Round"),
    "exp": _elementwise("Exp"),
    "expm1": _expm1,
    "log": _elementwise("Log"),
    "log1p": _log1p,
    "sqrt": _elementwise("Sqrt"),
    "rsqrt": _rsqrt,
    "square": _square,
    "integer_pow": _integer_pow,
    "tanh": _elementwise("Tanh"),
    "logistic": _elementwise("Sigmoid"),
    "erf": _elementwise("Erf"),
    "erfc": _erfc,
    "sin": _elementwise("Sin"),
    "cos": _elementwise("Cos"),
    "and": _logical("And"),
    "or": _logical("Or"),
    "not": _logical("Not"),
    "eq": _elementwise("Equal", bool),
    "ne": _not_equal,
    "lt": _elementwise("Less", bool),
    "le": _elementwise("LessOrEqual", bool),
    "gt": _elementwise("Greater", bool),
    "ge": _elementwise("GreaterOrEqual", bool),
    "is_finite": _is_finite,
    "select_n": _select,
    "convert_element_type": _cast,
    "stop_gradient": _same,
    "copy": _same,
    "optimization_barrier": _same_each,
}

OPERATORS: dict[str, Callable] = {
    **ELEMENTWISE,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "gather": _gather,
    "iota": _iota,
    "dim_as_value": _dimension,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "cumsum": _cumsum,
    "argmax": _place_of("ArgMax"),
    "argmin": _place_of("ArgMin"),
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _max_pool,
}

BROADCASTS = {*ELEMENTWISE, "broadcast_in_dim"}  # these take values that are not expanded

INSIDE = {  # operations that stand for those of a function, and the name of that function
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
