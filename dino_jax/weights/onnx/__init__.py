"""Functions of JAX as ONNX graphs."""
