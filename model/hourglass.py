"""The stacked hourglass (Newell et al., ECCV 2016) in the pre-activation form that OKDHP builds on.

The first stacks are shared (`HourglassTrunk`), the remaining ones belong to a branch (`HourglassBranch`): trunk and one
branch together are the ordinary HG-N.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.outputs import BranchOutput, TrunkOutput

DEPTH = 4  # how often an hourglass halves the resolution


class Bottleneck(nn.Module):
    """Pre-activation residual 1x1-3x3-1x1; (B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner = out_channels // 2
        self.residual = nn.Sequential(
            nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, inner, 1),
            nn.BatchNorm2d(inner), nn.ReLU(inplace=True), nn.Conv2d(inner, inner, 3, padding=1),
            nn.BatchNorm2d(inner), nn.ReLU(inplace=True), nn.Conv2d(inner, out_channels, 1),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shortcut(x) + self.residual(x)
        return result


class Hourglass(nn.Module):
    """Down `depth` times and back up with a skip at every resolution; H and W divisible by 2**depth, shape kept."""

    def __init__(self, channels: int, depth: int = DEPTH) -> None:
        super().__init__()
        self.skip = Bottleneck(channels, channels)
        self.down = Bottleneck(channels, channels)
        self.inner = Hourglass(channels, depth - 1) if depth > 1 else Bottleneck(channels, channels)
        self.up = Bottleneck(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        low = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        result: Tensor = self.skip(x) + F.interpolate(low, scale_factor=2.0, mode="nearest")
        return result


class Stack(nn.Module):
    """One hourglass with its heatmap head: (B, C, H, W) -> feature for the next stack, heatmaps (B, K, H, W)."""

    def __init__(self, channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Hourglass(channels), Bottleneck(channels, channels),
            nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.score = nn.Conv2d(channels, num_keypoints, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        return y, self.score(y)


class Link(nn.Module):
    """Feeds a stack's feature and heatmaps back into the stream that the next stack reads."""

    def __init__(self, channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.feature = nn.Conv2d(channels, channels, 1)
        self.heatmaps = nn.Conv2d(num_keypoints, channels, 1)

    def forward(self, x: Tensor, feature: Tensor, heatmaps: Tensor) -> Tensor:
        result: Tensor = x + self.feature(feature) + self.heatmaps(heatmaps)
        return result


class HourglassTrunk(nn.Module):
    """Stem and shared stacks: pictures (B, 3, H, W), float 0..255 RGB, H and W divisible by 64 -> stride-4 feature."""

    def __init__(self, shared_stacks: int, channels: int = 256, num_keypoints: int = 17) -> None:
        super().__init__()
        self.stem_channels = channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels // 4, 7, stride=2, padding=3), nn.BatchNorm2d(channels // 4), nn.ReLU(inplace=True),
            Bottleneck(channels // 4, channels // 2), nn.MaxPool2d(2),
            Bottleneck(channels // 2, channels), Bottleneck(channels, channels),
        )  # fmt: skip
        self.stacks = nn.ModuleList(Stack(channels, num_keypoints) for _ in range(shared_stacks))
        self.links = nn.ModuleList(Link(channels, num_keypoints) for _ in range(shared_stacks))

    def forward(self, images: Tensor) -> TrunkOutput:
        stem = x = self.stem((images - 127.5) / 64.0)
        shared = []
        for stack, link in zip(self.stacks, self.links, strict=True):
            feature, heatmaps = stack(x)
            shared.append(heatmaps)
            x = link(x, feature, heatmaps)
        return TrunkOutput(stem, (x,), tuple(shared))


class HourglassBranch(nn.Module):
    """The `own_stacks` >= 1 remaining stacks of one branch; the last one's heatmaps are final."""

    def __init__(self, own_stacks: int, channels: int = 256, num_keypoints: int = 17) -> None:
        super().__init__()
        if own_stacks < 1:
            raise ValueError(f"a branch needs at least one stack of its own, got {own_stacks}")
        self.stacks = nn.ModuleList(Stack(channels, num_keypoints) for _ in range(own_stacks))
        self.links = nn.ModuleList(Link(channels, num_keypoints) for _ in range(own_stacks - 1))

    def forward(self, features: tuple[Tensor, ...]) -> BranchOutput:
        (x,) = features
        heatmaps = []
        for index, stack in enumerate(self.stacks):
            feature, prediction = stack(x)
            heatmaps.append(prediction)
            if index < len(self.links):
                x = self.links[index](x, feature, prediction)
        return BranchOutput(final=heatmaps[-1], intermediate=tuple(heatmaps[:-1]))
