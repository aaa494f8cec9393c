"""Feature Aggregation Unit: from the shared stem feature to one weight per branch and keypoint (OKDHP section 3.2)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FauForm = Literal["concat", "sum", "slim", "mean"]
KERNELS = (3, 5, 7)


def _path(channels: int, width: int, kernel: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class FAU(nn.Module):
    """Multi-scale attention over branches: stem (B, C, H, W) -> weights (B, M, K), summing to 1 over the M branches.

    form: "concat" joins the 3x3, 5x5, 7x7 and average-pool paths by concatenation, as the paper draws it; "sum" adds
    them, as the authors' code does; "slim" is "concat" with depthwise spatial convolutions at half the resolution, at a
    small fraction of the cost; "mean" learns nothing and weighs all branches alike (the paper's ablation).
    """

    def __init__(self, channels: int, num_branches: int, num_keypoints: int, form: FauForm = "concat") -> None:
        super().__init__()
        if form not in ("concat", "sum", "slim", "mean"):
            raise ValueError(f"fau must be concat, sum, slim or mean, got {form!r}")
        self.form, self.num_branches, self.num_keypoints = form, num_branches, num_keypoints
        if form == "mean":
            return
        groups = channels if form == "slim" else 1
        self.paths = nn.ModuleList(_path(channels, channels, kernel, groups) for kernel in KERNELS)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True))
        joined = channels if form == "sum" else channels * (len(KERNELS) + 1)
        self.bottleneck = nn.Sequential(nn.Linear(joined, max(joined // 4, 8)), nn.ReLU(inplace=True))
        self.heads = nn.Linear(max(joined // 4, 8), num_branches * num_keypoints)
        # Start from the plain mean: no branch is preferred before anything is learnt.
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def forward(self, stem: Tensor) -> Tensor:
        B, M, K = stem.shape[0], self.num_branches, self.num_keypoints
        if self.form == "mean":
            return stem.new_full((B, M, K), 1.0 / M)
        if self.form == "slim":
            stem = F.avg_pool2d(stem, 2)
        descriptors = [path(stem).mean(dim=(2, 3)) for path in self.paths] + [self.pooled(stem).flatten(1)]  # (B, C) x4
        joined = torch.stack(descriptors).sum(0) if self.form == "sum" else torch.cat(descriptors, dim=1)
        logits = self.heads(self.bottleneck(joined)).view(B, M, K)
        return torch.softmax(logits.float(), dim=1)
