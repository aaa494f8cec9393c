"""What the published encoders are made of: convolution, batch norm and an activation."""

from torch import nn


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.ReLU] | type[nn.ReLU6] | None = nn.ReLU,
) -> nn.Sequential:
    """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)); `kernel` odd."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


def scaled(channels: int, multiplier: float) -> int:
    """`channels` times `multiplier`, to the nearest multiple of 4 and at least 4."""
    return max(4, round(channels * multiplier / 4) * 4)
