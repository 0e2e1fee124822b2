"""Functions of JAX as ONNX graphs; `convert.to_onnx` is the way in."""
