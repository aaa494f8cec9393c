"""Who teaches whom, and by which loss: the ensemble every branch, the branches each other, or a frozen teacher all."""

from typing import Literal

import torch
from torch import Tensor

from model.okdhp import Outputs
from training.losses import pixelwise_kl, soft_mse

Distillation = Literal["ensemble", "mutual", "teacher"]
SoftLoss = Literal["kl", "mse"]


def soft_targets(how: Distillation, outputs: Outputs, teacher: Tensor | None = None) -> dict[str, tuple[Tensor, ...]]:
    """For each branch the heatmaps (B, K, H, W) it learns from, detached; none for a branch that is alone.

    how: "ensemble" is OKDHP; "mutual" teaches each branch by all others (Deep Mutual Learning, Zhang et al., CVPR
    2018); "teacher" by `teacher`, the heatmaps of a network trained before (FPD, Zhang et al., CVPR 2019).
    Raises ValueError for a teacher of another heatmap size.
    """
    finals = {name: branch.final.detach() for name, branch in outputs.branches.items()}
    if how == "teacher":
        assert teacher is not None
        if teacher.shape != outputs.ensemble.shape:
            sizes = f"{tuple(teacher.shape[1:])}, the student's {tuple(outputs.ensemble.shape[1:])}"
            raise ValueError(f"the teacher's heatmaps are of size {sizes}")
        return {name: (teacher.detach(),) for name in finals}
    if how == "mutual":
        return {name: tuple(final for other, final in finals.items() if other != name) for name in finals}
    return {name: (outputs.ensemble.detach(),) if len(finals) > 1 else () for name in finals}


def soft_loss(
    heatmaps: tuple[Tensor, ...],
    teachers: tuple[Tensor, ...],
    target: Tensor,
    weight: Tensor,
    *,
    kind: SoftLoss,
    temperature: float,
) -> Tensor:
    """Sum over a branch's heatmaps (B, K, H, W) of their mean distance to its teachers' ones.

    kind: "kl" at `temperature`, or "mse" in parts of the annotated `target`'s energy. weight (B, K).
    """

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        if kind == "kl":
            return pixelwise_kl(student, teacher, weight, temperature)
        return soft_mse(student, teacher, target, weight)

    means = [torch.stack([distance(maps, teacher) for teacher in teachers]).mean() for maps in heatmaps]
    return torch.stack(means).sum()
