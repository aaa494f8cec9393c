"""A yardstick: RTMPose-t's layers in plain torch (Jiang et al., arXiv 2303.07399), random weights, for latency only.

CSPNeXt-tiny (Lyu et al., arXiv 2212.07784; widths x 0.375, depths x 0.167) with the SimCC head and its gated attention
unit, 256 x 192 in: about 0.36 GFLOPs as its authors count and 3.3 M parameters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (24, 48, 96, 192, 384)
KEYPOINTS, HIDDEN, EXPANDED, ATTENTION = 17, 256, 512, 128


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class Block(nn.Module):
    def __init__(self, channels: int, identity: bool) -> None:
        super().__init__()
        self.identity = identity
        self.body = nn.Sequential(
            conv(channels, channels, 3), conv(channels, channels, 5, groups=channels), conv(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.identity else self.body(x)


class CSPLayer(nn.Module):
    def __init__(self, channels: int, identity: bool) -> None:
        super().__init__()
        half = channels // 2
        self.main, self.short = conv(channels, half, 1), conv(channels, half, 1)
        self.block = Block(half, identity)
        self.attention = nn.Conv2d(channels, channels, 1)
        self.final = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.block(self.main(x)), self.short(x)], 1)
        return self.final(x * F.hardsigmoid(self.attention(x.mean((2, 3), keepdim=True))))


class SPP(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = conv(channels, channels // 2, 1), conv(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return self.expand(torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1))


class GatedAttention(nn.Module):
    """RTMCC's gated attention unit (Hua et al., ICML 2022) over the keypoints as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(HIDDEN)
        self.uv = nn.Linear(HIDDEN, 2 * EXPANDED + ATTENTION, bias=False)
        self.gamma, self.beta = nn.Parameter(torch.rand(2, ATTENTION)), nn.Parameter(torch.zeros(2, ATTENTION))
        self.out = nn.Linear(EXPANDED, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, v, base = F.silu(self.uv(self.norm(x))).split([EXPANDED, EXPANDED, ATTENTION], 2)
        q, k = (base[:, :, None] * self.gamma + self.beta).unbind(2)
        kernel = F.relu(q @ k.transpose(1, 2) / ATTENTION**0.5).square()
        return x + self.out(u * (kernel @ v))


class RTMPoseLike(nn.Module):
    """crops (N, 256, 192, 3) uint8 -> x logits (N, 17, 384), y logits (N, 17, 512), as RTMPose's exported files."""

    inputs, outputs = "crops", ("simcc_x", "simcc_y")

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 12, 3, 2), conv(12, 12, 3), conv(12, WIDTHS[0], 3)]
        for level, (before, width) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
            last = level == len(WIDTHS) - 2
            layers += [conv(before, width, 3, 2), *([SPP(width)] if last else []), CSPLayer(width, not last)]
        self.backbone = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], KEYPOINTS, 7, padding=3))
        self.embed = nn.Sequential(nn.RMSNorm(8 * 6), nn.Linear(8 * 6, HIDDEN, bias=False))
        self.attention = GatedAttention()
        self.x, self.y = nn.Linear(HIDDEN, 192 * 2, bias=False), nn.Linear(HIDDEN, 256 * 2, bias=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone((crops.permute(0, 3, 1, 2).float() - 127.5) / 64)
        tokens = self.attention(self.embed(features.flatten(2)))
        return self.x(tokens), self.y(tokens)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Merge each convolution with the batch norm behind it, as any exporter would."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) and len(child) == 3 and isinstance(child[1], nn.BatchNorm2d):
            setattr(module, name, nn.Sequential(nn.utils.fuse_conv_bn_eval(child[0], child[1]), child[2]))
        else:
            fold_batch_norms(child)
    return module
