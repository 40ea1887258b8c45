"""TensorRT's rules. Read in its headers, its ONNX parser and its documents, not tried: no GPU."""
