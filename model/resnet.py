"""ResNet18 (He et al., CVPR 2016) as an encoder that all branches share."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import conv_norm, scaled
from model.outputs import TrunkOutput

CHANNELS = (64, 128, 256, 512)  # at strides 4, 8, 16, 32, two blocks each


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; (B, in_channels, H, W) -> (B, out_channels, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        first = conv_norm(in_channels, out_channels, 3, stride)
        self.residual = nn.Sequential(first, conv_norm(out_channels, out_channels, 3, activation=None))
        same = stride == 1 and in_channels == out_channels
        shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, 1, stride, activation=None)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


class ResNet18(nn.Module):
    """Pictures (B, 3, H, W), float 0..255 RGB, H and W divisible by 32 -> one feature (B, channels, H/32, W/32).

    The stem is the first stage's output at stride 4. multiplier: factor on the published channels.
    """

    def __init__(self, multiplier: float = 1.0) -> None:
        super().__init__()
        widths = [scaled(channels, multiplier) for channels in CHANNELS]
        self.entry = nn.Sequential(conv_norm(3, widths[0], 7, 2), nn.MaxPool2d(3, 2, padding=1))
        self.stages = nn.ModuleList()
        channels = widths[0]
        for width in widths:
            stride = 1 if width == widths[0] and not self.stages else 2
            self.stages.append(nn.Sequential(BasicBlock(channels, width, stride), BasicBlock(width, width)))
            channels = width
        self.stem_channels, self.channels = widths[0], channels

    def forward(self, images: Tensor) -> TrunkOutput:
        stem = x = self.stages[0](self.entry((images - 127.5) / 64.0))
        for stage in list(self.stages)[1:]:
            x = stage(x)
        return TrunkOutput(stem, (x,))
