"""MobileNetV2 (Sandler et al., CVPR 2018) as an encoder that all branches share."""

from torch import Tensor, nn

from model.blocks import conv_norm, scaled
from model.outputs import TrunkOutput

# Expansion, channels, blocks and the first block's stride of each stage (the paper's table 2), then the last 1x1.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
ENTRY, LAST = 32, 1280
STEM_STAGES = 2  # so many stages end at stride 4


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1; (B, in_channels, H, W) -> (B, out_channels, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        expand = [conv_norm(in_channels, inner, activation=nn.ReLU6)] if expansion > 1 else []
        depthwise = conv_norm(inner, inner, 3, stride, groups=inner, activation=nn.ReLU6)
        self.body = nn.Sequential(*expand, depthwise, conv_norm(inner, out_channels, activation=None))
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return x + result if self.has_shortcut else result


class MobileNetV2(nn.Module):
    """Pictures (B, 3, H, W), float 0..255 RGB, H and W divisible by 32 -> one feature (B, channels, H/32, W/32).

    The stem is the feature at stride 4. multiplier: factor on the published channels.
    """

    def __init__(self, multiplier: float = 1.0) -> None:
        super().__init__()
        channels = scaled(ENTRY, multiplier)
        self.entry = conv_norm(3, channels, 3, 2, activation=nn.ReLU6)
        self.stages = nn.ModuleList()
        for expansion, published, count, stride in STAGES:
            width = scaled(published, multiplier)
            first = InvertedResidual(channels, width, stride, expansion)
            rest = (InvertedResidual(width, width, 1, expansion) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *rest))
            channels = width
        self.stem_channels = scaled(STAGES[STEM_STAGES - 1][1], multiplier)
        self.channels = scaled(LAST, multiplier)
        self.last = conv_norm(channels, self.channels, activation=nn.ReLU6)

    def forward(self, images: Tensor) -> TrunkOutput:
        x = self.entry((images - 127.5) / 64.0)
        for stage in list(self.stages)[:STEM_STAGES]:
            x = stage(x)
        stem = x
        for stage in list(self.stages)[STEM_STAGES:]:
            x = stage(x)
        return TrunkOutput(stem, (self.last(x),))
