"""The networks (torch): hourglass, light student, detector, OKDHP around any of them, and their export to ONNX."""
