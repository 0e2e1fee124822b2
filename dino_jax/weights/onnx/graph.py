"""An ONNX graph that grows node by node, and the values that flow through it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

OPSET = 18  # of ai.onnx, the first one in which all reductions take their axes as an input
IR_VERSION = 10  # read by onnxruntime since 1.18


class Tensor(NamedTuple):
    """A result inside of the graph.

    Attributes:
      name: its name.
      shape: sizes; one that is no int is the symbolic batch, or a multiple of it. May have 1 where
        JAX has more: ONNX broadcasts by itself.
    """

    name: str
    shape: tuple[Any, ...]


Value = Tensor | np.ndarray  # an array is a constant, perhaps with 1 as in `Tensor.shape`


def is_symbolic(size: Any) -> bool:
    """Whether a size is known only when the graph runs."""
    return not isinstance(size, int | np.integer)


class Graph:
    """Nodes and constants of a graph; equal constants are kept once.

    Attributes:
      nodes: NodeProtos in the order of their making.
      initializers: TensorProtos.
    """

    def __init__(self, batch: Any, batch_input: str):
        """An empty graph.

        Args:
          batch: the symbolic size of a batch.
          batch_input: name of the input whose first axis has it.
        """
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._batch, self._batch_input = batch, batch_input
        self._constants: dict[tuple[Any, ...], str] = {}
        self._batch_name = ""

    def name_of(self, value: Value) -> str:
        """The name of a value; a constant is stored."""
        if isinstance(value, Tensor):
            return value.name
        from onnx import numpy_helper

        value = np.asarray(value, order="C")
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self.initializers)}"
            self.initializers.append(numpy_helper.from_array(value, self._constants[key]))
        return self._constants[key]

    def add(
        self, kind: str, inputs: Sequence[Value], shape: Sequence[Any], **attributes: Any
    ) -> Tensor:
        """Adds a node with one output of a shape."""
        return self.add_many(kind, inputs, [shape], **attributes)[0]

    def add_many(
        self, kind: str, inputs: Sequence[Value], shapes: Sequence[Any], **attributes: Any
    ) -> list[Tensor]:
        """Adds a node with an output for each shape."""
        from onnx import helper

        outputs = [f"{kind}_{len(self.nodes)}_{index}" for index in range(len(shapes))]
        names = [self.name_of(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, outputs, **attributes))
        return [Tensor(*pair) for pair in zip(outputs, map(tuple, shapes), strict=True)]

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        """The same numbers in another shape, of which one size may be symbolic."""
        if tuple(value.shape) == tuple(shape):
            return value
        sizes = [-1 if is_symbolic(size) else int(size) for size in shape]
        if sizes.count(-1) > 1:
            raise ValueError(f"shape {tuple(shape)} has more than one size that is not known")
        if isinstance(value, np.ndarray):
            return value.reshape(sizes)
        return self.add("Reshape", [value, np.array(sizes, np.int64)], shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """The same numbers with axes in another order."""
        if list(order) == list(range(len(order))):
            return value
        if isinstance(value, np.ndarray):
            return value.transpose(order)
        shape = [value.shape[axis] for axis in order]
        return self.add("Transpose", [value], shape, perm=list(order))

    def spread(self, value: Value, shape: Sequence[Any]) -> Value:
        """The value in all of its shape, for operations that do not broadcast."""
        if tuple(value.shape) == tuple(shape):
            return value
        if isinstance(value, np.ndarray) and not any(map(is_symbolic, shape)):
            return np.broadcast_to(value, shape)
        return self.add("Expand", [value, self._sizes(shape)], shape)

    def _sizes(self, shape: Sequence[Any]) -> Value:
        """[rank] int64, of which the batch is read off the input."""
        if not any(map(is_symbolic, shape)):
            return np.array(shape, np.int64)
        if any(is_symbolic(size) and size != self._batch for size in shape):
            raise ValueError(f"shape {tuple(shape)} has a size that is no whole batch")
        if not self._batch_name:
            start, end = {"start": 0}, {"end": 1}
            source = Tensor(self._batch_input, ())
            self._batch_name = self.add("Shape", [source], (1,), **start, **end).name
        batch = Tensor(self._batch_name, (1,))
        parts = [batch if is_symbolic(size) else np.array([size], np.int64) for size in shape]
        return self.add("Concat", parts, (len(parts),), axis=0)
