"""What each primitive of JAX is in ONNX.

An operation takes the graph, the inputs, the equation and returns the outputs. The shapes of JAX
are those of the equation; inputs may have 1 where they are broadcast, see `graph.Tensor`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dino_jax.weights.onnx.graph import Graph, Value

Operation = Callable[[Graph, Sequence[Value], Any], list[Value]]


def _broadcast(shapes: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """The shape of an elementwise result; ranks are equal, or 0."""
    rank = max(map(len, shapes))
    full = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*full, strict=True))


def _elementwise(kind: str, graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    return [graph.add(kind, inputs, _broadcast([value.shape for value in inputs]))]


def _same(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    return list(inputs)


def _square(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    return _elementwise("Mul", graph, [inputs[0], inputs[0]], equation)


def _integer_pow(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    power = equation.params["y"]
    if power == 2:
        return _square(graph, inputs, equation)
    exponent = np.array(power, equation.invars[0].aval.dtype)
    return _elementwise("Pow", graph, [inputs[0], exponent], equation)


def _rsqrt(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    roots = _elementwise("Sqrt", graph, inputs, equation)
    return _elementwise("Reciprocal", graph, roots, equation)


def _erfc(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    one = np.array(1, equation.invars[0].aval.dtype)
    erf = _elementwise("Erf", graph, inputs, equation)[0]
    return _elementwise("Sub", graph, [one, erf], equation)


def _not_equal(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    return _elementwise("Not", graph, _elementwise("Equal", graph, inputs, equation), equation)


def _select(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    which, if_false, if_true = inputs
    return _elementwise("Where", graph, [which, if_true, if_false], equation)


def _cast(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return [graph.add("Cast", inputs, inputs[0].shape, to=kind)]


def _reduce(kind: str, graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    axes = np.array(equation.params["axes"], np.int64)
    whole = graph.spread(inputs[0], equation.invars[0].aval.shape)
    return [graph.add(kind, [whole, axes], equation.outvars[0].aval.shape, keepdims=0)]


def _broadcast_in_dim(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    """Only the rank is changed: what follows broadcasts by itself, or spreads it."""
    shape = [1] * len(equation.params["shape"])
    for axis, size in zip(equation.params["broadcast_dimensions"], inputs[0].shape, strict=True):
        shape[axis] = size
    return [graph.reshape(inputs[0], shape)]


def _reshape(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    whole = graph.spread(inputs[0], equation.invars[0].aval.shape)
    return [graph.reshape(whole, equation.outvars[0].aval.shape)]


def _squeeze(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    return [_drop_axes(graph, inputs[0], equation.params["dimensions"])]


def _drop_axes(graph: Graph, value: Value, axes: Sequence[int]) -> Value:
    """Without some axes of size 1; ONNX takes an empty list for all of them."""
    if not axes:
        return value
    shape = [size for axis, size in enumerate(value.shape) if axis not in axes]
    return graph.add("Squeeze", [value, np.array(axes, np.int64)], shape)


def _transpose(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    return [graph.transpose(inputs[0], equation.params["permutation"])]


def _concatenate(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    whole = [
        graph.spread(value, variable.aval.shape)
        for value, variable in zip(inputs, equation.invars, strict=True)
    ]
    shape = equation.outvars[0].aval.shape
    return [graph.add("Concat", whole, shape, axis=equation.params["dimension"])]


def _split(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    whole = graph.spread(inputs[0], equation.invars[0].aval.shape)
    sizes = np.array(equation.params["sizes"], np.int64)
    shapes = [variable.aval.shape for variable in equation.outvars]
    axis = equation.params["axis"]
    return list(graph.add_many("Split", [whole, sizes], shapes, axis=axis))


def _slice(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    starts = equation.params["start_indices"]
    steps = equation.params["strides"] or (1,) * len(before)
    axes = [i for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    whole = graph.spread(inputs[0], before)
    ends = equation.params["limit_indices"]
    chosen = [[values[axis] for axis in axes] for values in (starts, ends, range(99), steps)]
    numbers = [np.array(values, np.int64) for values in chosen]
    return [graph.add("Slice", [whole, *numbers], after)] if axes else [whole]


def _gather(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    """x[:, 2] and x[:, 1:], as JAX writes them where the batch is symbolic: one constant place."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    places = inputs[1]
    if not isinstance(places, np.ndarray) or places.ndim != 1 or numbers.operand_batching_dims:
        raise ValueError("indices that are computed, or several, have no ONNX form here")
    axes = numbers.start_index_map
    ends = [int(start) + sizes[axis] for start, axis in zip(places, axes, strict=True)]
    before = equation.invars[0].aval.shape
    shape = [sizes[axis] if axis in axes else size for axis, size in enumerate(before)]
    whole = graph.spread(inputs[0], before)
    chosen = [np.array(values, np.int64) for values in (places, ends, axes)]
    part = graph.add("Slice", [whole, *chosen], shape)
    return [_drop_axes(graph, part, numbers.collapsed_slice_dims)]


def _product(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    """dot_general: batch axes first, and one axis each that is free or summed over."""
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = (
        graph.spread(value, variable.aval.shape)
        for value, variable in zip(inputs, equation.invars, strict=True)
    )
    left_free = _others(left, (*left_sum, *left_batch))
    right_free = _others(right, (*right_sum, *right_batch))
    shape = equation.outvars[0].aval.shape
    left = graph.transpose(left, (*left_batch, *left_free, *left_sum))
    right = graph.transpose(right, (*right_batch, *right_sum, *right_free))
    batch, summed = len(left_batch), math.prod(right.shape[len(right_batch) :][: len(right_sum)])
    if batch == 0 and len(left_sum) == 1 and len(right_free) == 1:
        return [graph.add("MatMul", [left, right], shape)]
    rows, columns = math.prod(left.shape[batch:][: len(left_free)]), right.shape[-1]
    if len(right_free) != 1:
        columns = math.prod(right.shape[batch + len(right_sum) :])
    left = graph.reshape(left, (*left.shape[:batch], rows, summed))
    right = graph.reshape(right, (*right.shape[:batch], summed, columns))
    made = graph.add("MatMul", [left, right], (*left.shape[:batch], rows, columns))
    return [graph.reshape(made, shape)]


def _others(value: Value, axes: Sequence[int]) -> list[int]:
    return [axis for axis in range(len(value.shape)) if axis not in axes]


def _convolution(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    params = equation.params
    numbers = params["dimension_numbers"]
    if any(n != 1 for n in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise ValueError("a transposed convolution has no ONNX form here")
    images = graph.transpose(inputs[0], numbers.lhs_spec)
    kernel = graph.transpose(inputs[1], numbers.rhs_spec)
    shape = equation.outvars[0].aval.shape
    made = graph.add(
        "Conv",
        [images, kernel],
        [shape[axis] for axis in numbers.out_spec],
        strides=list(params["window_strides"]),
        pads=[pair[side] for side in (0, 1) for pair in params["padding"]],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return [graph.transpose(made, np.argsort(numbers.out_spec).tolist())]


def _max_pool(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    """reduce_window_max over axes 1 and 2 of [B, H, W, C]."""
    params = equation.params
    window, strides, padding = (
        params[name] for name in ("window_dimensions", "window_strides", "padding")
    )
    if len(window) != 4 or (window[0], window[3]) != (1, 1):
        raise ValueError(f"a maximum over windows {window} has no ONNX form here")
    shape = equation.outvars[0].aval.shape
    images = graph.transpose(inputs[0], (0, 3, 1, 2))
    made = graph.add(
        "MaxPool",
        [images],
        [shape[axis] for axis in (0, 3, 1, 2)],
        kernel_shape=list(window[1:3]),
        strides=list(strides[1:3]),
        pads=[padding[1][0], padding[2][0], padding[1][1], padding[2][1]],
    )
    return [graph.transpose(made, (0, 2, 3, 1))]


def take_index(graph: Graph, value: Value, index: int) -> Value:
    """value[index], along the first axis."""
    if isinstance(value, np.ndarray):
        return value[index]
    place = np.array(index, np.int64)
    return graph.add("Gather", [value, place], value.shape[1:], axis=0)


def stack(graph: Graph, values: Sequence[Value], shape: Sequence[Any]) -> Value:
    """Values of one shape along a new first axis."""
    single = [graph.reshape(graph.spread(x, shape[1:]), (1, *shape[1:])) for x in values]
    return graph.add("Concat", single, shape, axis=0)


def add_output(graph: Graph, name: str, value: Value, shape: Sequence[Any]) -> None:
    """Names a value as an output of the graph: all of its shape, and no constant."""
    graph.add("Identity", [graph.spread(value, shape)], shape)
    graph.nodes[-1].output[0] = name


OPERATIONS: dict[str, Operation] = {
    **{
        name: partial(_elementwise, kind)
        for name, kind in {
            "abs": "Abs",
            "add": "Add",
            "add_any": "Add",
            "and": "And",
            "div": "Div",
            "eq": "Equal",
            "erf": "Erf",
            "exp": "Exp",
            "floor": "Floor",
            "ge": "GreaterOrEqual",
            "gt": "Greater",
            "le": "LessOrEqual",
            "log": "Log",
            "logistic": "Sigmoid",
            "lt": "Less",
            "max": "Max",
            "min": "Min",
            "mul": "Mul",
            "neg": "Neg",
            "not": "Not",
            "or": "Or",
            "pow": "Pow",
            "round": "Round",
            "sign": "Sign",
            "sqrt": "Sqrt",
            "sub": "Sub",
            "tanh": "Tanh",
        }.items()
    },
    **dict.fromkeys(("copy", "copy_p", "name", "stop_gradient", "optimization_barrier"), _same),
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _product,
    "erfc": _erfc,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "ne": _not_equal,
    "reduce_max": partial(_reduce, "ReduceMax"),
    "reduce_min": partial(_reduce, "ReduceMin"),
    "reduce_sum": partial(_reduce, "ReduceSum"),
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
