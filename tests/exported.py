"""Networks that differ from their first state, and an exported file's answers beside torch's."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from skimage import data

from app.geometry import crop_matrix, warp
from model.export import Deployed
from model.okdhp import OKDHP
from model.student import EncoderConfig

PIXELS, SCORES = 0.05, 1e-4  # how far ONNX Runtime's sums may differ from torch's
CONFIG = EncoderConfig((8, 16, 16, 24, 32), (0, 0, 1, 1, 1))


def lived_in(model: OKDHP) -> OKDHP:
    """Statistics and weights away from their initial values, so that folding them wrongly shows."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if "running_var" in name or "scale" in name or name.endswith("norm.weight"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif "running_mean" in name or name.endswith("norm.bias"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    for branch in model.branches.values():
        for conv in (module for module in branch.modules() if isinstance(module, torch.nn.Conv2d)):
            torch.nn.init.normal_(conv.weight, std=0.2, generator=generator)
    return model.eval()


def crops(count: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Different parts of a real photograph, (count, H, W, 3)."""
    image = data.astronaut()
    boxes = [np.array([100 + 20 * i, 10 + 15 * i, 330 + 10 * i, 350]) for i in range(count)]
    return np.stack([warp(image, crop_matrix(box, size_hw[::-1]), size_hw[::-1]) for box in boxes])


def both(deployed: Deployed, path: Path, pictures: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = [output.numpy() for output in deployed(torch.from_numpy(pictures))]
    return session.run(None, {session.get_inputs()[0].name: pictures}), ours
