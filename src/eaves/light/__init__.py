"""A device that answers without torch: ONNX Runtime, numpy and gRPC."""
