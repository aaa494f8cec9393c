"""The service: pictures and live video in, people's keypoints out. torch is never imported here."""

import os

# ONNX Runtime tells its makers of its use, from the moment it is imported. This service does not.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
