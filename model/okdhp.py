"""OKDHP's multi-branch network (Li et al., ICCV 2021): shared trunk, named branches, FAU and their ensemble."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.fau import FAU, FauForm
from model.outputs import BranchOutput


class Outputs(NamedTuple):
    """One forward pass.

    shared: heatmaps (B, K, H, W) of the shared stacks, if the trunk has any.
    branches: by name, each branch's predictions.
    weights: (B, M, K) the FAU's weights, in the branches' order, summing to 1 over M.
    ensemble: (B, K, H, W) the convex combination of the branches' final heatmaps: the soft target.
    """

    shared: tuple[Tensor, ...]
    branches: dict[str, BranchOutput]
    weights: Tensor
    ensemble: Tensor


class OKDHP(nn.Module):
    """`trunk(images)` once, every branch on its features, the FAU on its stem; the ensemble by `ensemble`.

    trunk: module with `stem_channels: int` that returns a TrunkOutput.
    branches: modules taking the trunk's features and returning a BranchOutput, all of one heatmap shape.
    """

    def __init__(
        self, trunk: nn.Module, branches: Mapping[str, nn.Module], num_keypoints: int, fau: FauForm = "concat"
    ) -> None:
        super().__init__()
        if not branches:
            raise ValueError("OKDHP needs at least one branch")
        self.trunk, self.num_keypoints = trunk, num_keypoints
        self.branches = nn.ModuleDict(branches)
        stem_channels = trunk.stem_channels
        assert isinstance(stem_channels, int)
        form: FauForm = fau if len(branches) > 1 else "mean"
        self.fau = FAU(stem_channels, len(branches), num_keypoints, form)

    def forward(self, images: Tensor) -> Outputs:
        shared = self.trunk(images)
        branches = {name: branch(shared.features) for name, branch in self.branches.items()}
        weights = self.fau(shared.stem)
        return Outputs(shared.heatmaps, branches, weights, ensemble(branches, weights))

    def deployed(self, name: str) -> nn.Sequential:
        """Trunk and one branch alone: images -> BranchOutput. Raises KeyError for a branch that does not exist."""
        if name not in self.branches:
            raise KeyError(f"no branch {name!r}; the branches are {', '.join(self.branches)}")
        return nn.Sequential(_Features(self.trunk), self.branches[name])


class _Features(nn.Module):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features: tuple[Tensor, ...] = self.trunk(images).features
        return features


def ensemble(branches: Mapping[str, BranchOutput], weights: Tensor) -> Tensor:
    """Sum over branches of weight (B, M, K) times final heatmaps (B, K, H, W): (B, K, H, W) (OKDHP eq. 3)."""
    finals = torch.stack([branch.final.float() for branch in branches.values()], dim=1)  # (B, M, K, H, W)
    return torch.einsum("bmk,bmkhw->bkhw", weights, finals)
