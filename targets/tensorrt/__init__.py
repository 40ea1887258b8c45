"""What is known of TensorRT: the operators that its ONNX parser takes, as data."""
