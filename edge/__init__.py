"""One ONNX graph, the right engine for every device, and feeds streamed through it."""

__version__ = "0.1.0"
