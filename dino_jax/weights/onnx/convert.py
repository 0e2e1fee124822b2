"""A function of JAX as an ONNX model: its equations one by one, loops unrolled.

Whatever depends on constants alone, such as the position table of an image size, is computed at
once and stored.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dino_jax.weights.onnx.graph import IR_VERSION, OPSET, Graph, Tensor, Value, is_symbolic
from dino_jax.weights.onnx.operations import OPERATIONS, add_output, stack, take_index

INPUT = "images"


def to_onnx(
    function: Callable[[jax.Array], dict[str, jax.Array]],
    image_shape: Sequence[int],
    dtype: Any = np.uint8,
) -> Any:
    """Converts a function of a batch of images.

    Args:
      function: [B, *image_shape] -> arrays by name, with B as their first size; its weights are
        constants.
      image_shape: (H, W, C), fixed; the size of the batch is free.
      dtype: dtype of the images.

    Returns:
      The onnx.ModelProto; its input is "images", its outputs have the names of the arrays.

    Raises:
      ValueError: if the function has an operation that is not known here; it is named.
    """
    from onnx import helper

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), dtype)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(images)
    graph = Graph(batch, INPUT)
    values = _run(graph, closed.jaxpr, closed.consts, [Tensor(INPUT, images.shape)])
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    outputs = []
    for (path, struct), value in zip(leaves, values, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        add_output(graph, name, value, struct.shape)
        outputs.append(_describe(name, struct))
    described = [_describe(INPUT, images)]
    made = helper.make_graph(graph.nodes, "dino_jax", described, outputs, graph.initializers)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION)


def _describe(name: str, struct: Any) -> Any:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(struct.dtype))
    sizes = ["batch" if is_symbolic(size) else size for size in struct.shape]
    return helper.make_tensor_value_info(name, kind, sizes)


def _run(graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
    """Adds the equations of a jaxpr to the graph; returns its outputs."""
    known: dict[Any, Value] = {}
    for variable, value in zip(jaxpr.constvars, consts, strict=True):
        known[variable] = np.asarray(value)
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _convert(graph, equation, values), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _convert(graph: Graph, equation: Any, values: Sequence[Value]) -> Sequence[Value]:
    name = equation.primitive.name
    if name == "scan":
        return _unroll(graph, equation, values)
    inner = next(
        (equation.params[x] for x in ("jaxpr", "call_jaxpr", "fun_jaxpr") if x in equation.params),
        None,
    )
    if inner is not None:
        consts = getattr(inner, "consts", ())
        return _run(graph, getattr(inner, "jaxpr", inner), consts, values)
    if _is_constant(equation, values):
        return _compute(equation, values)
    if name not in OPERATIONS:
        raise ValueError(f"the operation {name!r} of the network has no ONNX form here")
    return OPERATIONS[name](graph, values, equation)


def _is_constant(equation: Any, values: Sequence[Value]) -> bool:
    """Whether the results depend on constants alone, and their sizes are known."""
    sizes = (size for variable in equation.outvars for size in variable.aval.shape)
    return all(isinstance(x, np.ndarray) for x in values) and not any(map(is_symbolic, sizes))


def _compute(equation: Any, values: Sequence[Value]) -> list[Value]:
    inputs = [
        np.broadcast_to(np.asarray(value), variable.aval.shape).astype(variable.aval.dtype)
        for value, variable in zip(values, equation.invars, strict=True)
    ]
    results = equation.primitive.bind(*inputs, **equation.params)
    several = equation.primitive.multiple_results
    return [np.asarray(x) for x in (results if several else [results])]


def _loop_parts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of constants and carried values among the inputs of a loop."""
    if "ft_in" in params:  # jax 0.12
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def _unroll(graph: Graph, equation: Any, values: Sequence[Value]) -> list[Value]:
    """A loop of known length, turn by turn."""
    params = equation.params
    body, length = params["jaxpr"], params["length"]
    consts_end, carry_count = _loop_parts(params)
    carry_end = consts_end + carry_count
    consts, carry = list(values[:consts_end]), list(values[consts_end:carry_end])
    rows = [
        graph.spread(value, variable.aval.shape)
        for value, variable in zip(values[carry_end:], equation.invars[carry_end:], strict=True)
    ]
    turns: list[list[Value]] = []
    order = range(length - 1, -1, -1) if params["reverse"] else range(length)
    for index in order:
        taken = [take_index(graph, each, index) for each in rows]
        results = _run(graph, body.jaxpr, body.consts, [*consts, *carry, *taken])
        carry = results[: len(carry)]
        turns.append(results[len(carry) :])
    if params["reverse"]:
        turns.reverse()
    outputs = equation.outvars[len(carry) :]
    stacked = [
        stack(graph, [turn[i] for turn in turns], variable.aval.shape)
        for i, variable in enumerate(outputs)
    ]
    return [*carry, *stacked]
