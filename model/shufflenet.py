"""ShuffleNetV2 (Ma et al., ECCV 2018) as an encoder that all branches share."""

import torch
from torch import Tensor, nn

from model.blocks import conv_norm, scaled
from model.outputs import TrunkOutput

STAGES = ((116, 4), (232, 8), (464, 4))  # channels and blocks at strides 8, 16, 32 (the paper's table 5, 1x)
ENTRY, LAST = 24, 1024


def shuffle(x: Tensor) -> Tensor:
    """Interleaves the two halves of the channels of (B, C, H, W), C even."""
    B, C, H, W = x.shape
    return x.reshape(B, 2, C // 2, H, W).transpose(1, 2).reshape(B, C, H, W)


def _transform(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(in_channels, out_channels),
        conv_norm(out_channels, out_channels, 3, stride, groups=out_channels, activation=None),
        conv_norm(out_channels, out_channels),
    )


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are transformed, both are shuffled; (B, channels, H, W) kept. channels even."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transform = _transform(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed, transformed = x.chunk(2, dim=1)
        return shuffle(torch.cat([passed, self.transform(transformed)], dim=1))


class DownUnit(nn.Module):
    """(B, in_channels, H, W) -> (B, out_channels, H/2, W/2): two transformed copies, shuffled. out_channels even."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        depthwise = conv_norm(in_channels, in_channels, 3, 2, groups=in_channels, activation=None)
        self.shortcut = nn.Sequential(depthwise, conv_norm(in_channels, half))
        self.transform = _transform(in_channels, half, 2)

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(torch.cat([self.shortcut(x), self.transform(x)], dim=1))


class ShuffleNetV2(nn.Module):
    """Pictures (B, 3, H, W), float 0..255 RGB, H and W divisible by 32 -> one feature (B, channels, H/32, W/32).

    The stem is the pooled first convolution at stride 4. multiplier: factor on the published 1x channels.
    """

    def __init__(self, multiplier: float = 1.0) -> None:
        super().__init__()
        self.stem_channels = channels = scaled(ENTRY, multiplier)
        self.entry = nn.Sequential(conv_norm(3, channels, 3, 2), nn.MaxPool2d(3, 2, padding=1))
        stages: list[nn.Module] = []
        for published, count in STAGES:
            width = scaled(published, multiplier)
            stages += [DownUnit(channels, width), *(ShuffleUnit(width) for _ in range(count - 1))]
            channels = width
        self.channels = scaled(LAST, multiplier)
        self.body = nn.Sequential(*stages, conv_norm(channels, self.channels))

    def forward(self, images: Tensor) -> TrunkOutput:
        stem = self.entry((images - 127.5) / 64.0)
        return TrunkOutput(stem, (self.body(stem),))
