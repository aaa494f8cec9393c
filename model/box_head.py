"""A second look at a person's box: the pose network sees the person larger and sharper than the detector did."""

from collections.abc import Sequence

from torch import Tensor, nn

from model.layers import Projection, RepConv
from model.outputs import Region

CHANNELS = 32
HIDDEN = 128
PADDED = (0.1, 0.1, 0.9, 0.9)  # where a crop's own box lies in it, with CROP_PADDING: what an untrained head answers


class BoxHead(nn.Module):
    """Decoder features (B, C, ...) and the encoder's two coarsest, (B, D, h, w) and (B, E, 2h, 2w) -> Region.

    The second stage of a two-stage detector on features that the poses need anyway (Cai and Vasconcelos, "Cascade
    R-CNN", CVPR 2018); the box is scored by how well it will fit (Jiang et al., "IoU-Net", ECCV 2018).
    channels: C, E and D. levels: by how many halvings the decoder's features are finer than the coarsest. cells_hw: h
    and w, as a linear layer sees them all.
    """

    def __init__(self, channels: Sequence[int], levels: int, cells_hw: Sequence[int]) -> None:
        super().__init__()
        self.cells_hw = tuple(cells_hw)
        fine, middle, coarse = channels
        widths = [fine] + [CHANNELS] * (levels - 1)
        self.to_middle = nn.Sequential(*(RepConv(width, CHANNELS, stride=2) for width in widths[:-1]))
        self.middle = Projection(middle, CHANNELS)
        self.to_coarse, self.coarse = RepConv(CHANNELS, CHANNELS, stride=2), Projection(coarse, CHANNELS)
        height, width = cells_hw
        self.hidden = nn.Sequential(nn.Linear(CHANNELS * height * width, HIDDEN), nn.ReLU(inplace=True))
        self.answer = nn.Linear(HIDDEN, 5)
        nn.init.normal_(self.answer.weight, std=0.001)
        self.answer.bias.data = self.answer.bias.new_tensor([*PADDED, 0.0])

    def forward(self, decoded: Tensor, features: tuple[Tensor, ...]) -> Region:
        coarse, middle = features[:2]
        x = self.to_middle(decoded) + self.middle(middle)
        x = self.to_coarse(x) + self.coarse(coarse)
        answer = self.answer(self.hidden(x.flatten(1)))
        return Region(answer[:, :4], answer[:, 4])
