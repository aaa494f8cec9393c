"""Re-parameterised convolution: many branches in training, one plain 3x3 convolution after export."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RepConv(nn.Module):
    """3x3 convolution + batch norm + ReLU whose kernel is the sum of a 3x3, a 1x1 and (where shapes allow) an identity.

    RepVGG (Ding et al., CVPR 2021) runs those branches side by side in training; here they are added in *weight* space,
    as in OREPA (Hu et al., CVPR 2022), each with a learnt scale per output channel, so that training costs one
    convolution too. `fuse` folds kernel sum and batch norm into one convolution with bias.

    Input (B, in_channels, H, W), output (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv3x3 = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.conv1x1 = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        nn.init.kaiming_normal_(self.conv3x3, mode="fan_out", nonlinearity="relu")
        nn.init.kaiming_normal_(self.conv1x1, mode="fan_out", nonlinearity="relu")
        self.scale3x3 = nn.Parameter(torch.ones(out_channels, 1, 1, 1))
        self.scale1x1 = nn.Parameter(torch.full((out_channels, 1, 1, 1), 0.5))
        has_identity = stride == 1 and in_channels == out_channels
        self.scale_identity = nn.Parameter(torch.ones(out_channels)) if has_identity else None
        self.norm = nn.BatchNorm2d(out_channels)

    def kernel(self) -> Tensor:
        """The equivalent plain kernel (out_channels, in_channels, 3, 3), batch norm not yet folded in."""
        kernel = self.scale3x3 * self.conv3x3 + F.pad(self.scale1x1 * self.conv1x1, (1, 1, 1, 1))
        if self.scale_identity is not None:
            kernel = kernel + F.pad(torch.diag(self.scale_identity)[:, :, None, None], (1, 1, 1, 1))
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(F.conv2d(x, self.kernel(), stride=self.stride, padding=1)), inplace=True)

    def fuse(self) -> nn.Sequential:
        """The same function in evaluation mode as convolution + ReLU."""
        return nn.Sequential(_folded(self.kernel(), self.norm, self.stride), nn.ReLU(inplace=True))


class Projection(nn.Module):
    """1x1 convolution + batch norm, no activation: (B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.conv(x))
        return result

    def fuse(self) -> nn.Conv2d:
        """The same function in evaluation mode as one convolution."""
        return _folded(self.conv.weight, self.norm, stride=1)


def _folded(kernel: Tensor, norm: nn.BatchNorm2d, stride: int) -> nn.Conv2d:
    """Convolution with `kernel` (out, in, k, k) and the statistics of `norm` in its weights and bias."""
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], stride, kernel.shape[2] // 2)
    conv.weight.data = kernel.detach() * gain[:, None, None, None]
    conv.bias = nn.Parameter(norm.bias.detach() - norm.running_mean * gain)
    return conv


def fuse(module: nn.Module) -> nn.Module:
    """Fold every RepConv and Projection inside `module`, in place; returns the module (or its replacement)."""
    if isinstance(module, RepConv | Projection):
        return module.fuse()
    for name, child in module.named_children():
        setattr(module, name, fuse(child))
    return module
