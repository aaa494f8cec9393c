"""A second look at a person's box: the pose network sees the person larger and sharper than the detector did."""

from collections.abc import Sequence

from torch import Tensor, nn

from model.layers import Projection
from model.outputs import Region

CHANNELS, HIDDEN = 16, 64
PADDED = (0.1, 0.1, 0.9, 0.9)  # where a crop's own box lies in it, with CROP_PADDING: what an untrained head answers


class BoxHead(nn.Module):
    """The encoder's coarsest features (B, channels, *cells_hw) -> Region.

    The second stage of a two-stage detector on features that the poses need anyway (Cai and Vasconcelos, "Cascade
    R-CNN", CVPR 2018); the box is scored by how well it will fit (Jiang et al., "IoU-Net", ECCV 2018). Finer
    features beside the coarsest bring somewhat closer boxes, for several times the cost (docs/experiments.md).
    """

    def __init__(self, channels: int, cells_hw: Sequence[int]) -> None:
        super().__init__()
        height, width = cells_hw
        self.coarse = nn.Sequential(Projection(channels, CHANNELS), nn.ReLU(inplace=True))
        self.hidden = nn.Sequential(nn.Linear(CHANNELS * height * width, HIDDEN), nn.ReLU(inplace=True))
        self.answer = nn.Linear(HIDDEN, 5)
        nn.init.normal_(self.answer.weight, std=0.001)
        self.answer.bias.data = self.answer.bias.new_tensor([*PADDED, 0.0])

    def forward(self, features: Tensor) -> Region:
        answer = self.answer(self.hidden(self.coarse(features).flatten(1)))
        return Region(answer[:, :4].float(), answer[:, 4].float())
