"""Who teaches whom, and by which loss: the ensemble everybody, the branches each other, or a frozen teacher all."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from model.okdhp import Outputs
from training.losses import Heatmaps, pixelwise_kl, soft_mse

Distillation = Literal["ensemble", "mutual", "teacher"]
SoftLoss = Literal["kl", "mse"]
SEEN = 0.3  # a heatmap that rises less is no keypoint


def students(outputs: Outputs, temperature: float) -> dict[str, list[Heatmaps]]:
    """All heatmaps (B, K, H, W) that learn: of each shared stack ("shared0"..) and each branch, final ones last."""
    shared = {f"shared{i}": [Heatmaps(maps, temperature)] for i, maps in enumerate(outputs.shared)}
    return shared | {
        name: [Heatmaps(maps, temperature) for maps in (*branch.intermediate, branch.final)]
        for name, branch in outputs.branches.items()
    }


def soft_targets(
    how: Distillation, outputs: Outputs, temperature: float, teacher: Tensor | None = None, detach: bool = True
) -> dict[str, tuple[Heatmaps, ...]]:
    """For each branch the heatmaps (B, K, H, W) it learns from; none for a branch that is alone.

    how: "ensemble" is OKDHP, which teaches shared stacks ("shared0"..), too; "mutual" teaches each branch by all others
    (Deep Mutual Learning, Zhang et al., CVPR 2018); "teacher" by `teacher`, the heatmaps of a network trained before
    (FPD, Zhang et al., CVPR 2019). detach: whoever teaches learns nothing by it; False lets an ensemble's gradient
    through, to the FAU and all branches, as the authors' code does. Raises ValueError for a teacher of another size.
    """
    names = tuple(outputs.branches)
    if how == "teacher":
        assert teacher is not None
        if teacher.shape != outputs.ensemble.shape:
            sizes = f"{tuple(teacher.shape[1:])}, the student's {tuple(outputs.ensemble.shape[1:])}"
            raise ValueError(f"the teacher's heatmaps are of size {sizes}")
        return dict.fromkeys(names, (Heatmaps(teacher.detach(), temperature),))
    if how == "mutual":
        finals = {name: Heatmaps(branch.final.detach(), temperature) for name, branch in outputs.branches.items()}
        return {name: tuple(final for other, final in finals.items() if other != name) for name in finals}
    ensemble = Heatmaps(outputs.ensemble.detach() if detach else outputs.ensemble, temperature)
    shared = tuple(f"shared{i}" for i in range(len(outputs.shared)))
    return dict.fromkeys(shared + names, (ensemble,) if len(names) > 1 else ())


def seen_by(teachers: Sequence[Heatmaps]) -> Tensor:
    """How high the mean of the teachers' heatmaps (B, K, H, W) rises for each keypoint, (B, K) in 0..1.

    0 below SEEN. What nobody labelled is taught where they see it, whether it was asked for or not: the KL says where
    it is, if anywhere, and the MSE of what is known to be absent keeps the heatmap low.
    """
    peaks = torch.stack([teacher.maps.detach() for teacher in teachers]).mean(0).amax((2, 3)).clamp(max=1)
    return peaks * (peaks >= SEEN)


def soft_loss(
    heatmaps: Sequence[Heatmaps], teachers: Sequence[Heatmaps], target: Heatmaps, weight: Tensor, kind: SoftLoss
) -> Tensor:
    """Sum over a branch's heatmaps (B, K, H, W) of their mean distance to its teachers' ones.

    kind: "kl", or "mse" in parts of the annotated `target`'s energy. weight (B, K).
    """

    def distance(student: Heatmaps, teacher: Heatmaps) -> Tensor:
        if kind == "kl":
            return pixelwise_kl(student, teacher, weight)
        return soft_mse(student, teacher, target, weight)

    means = [torch.stack([distance(maps, teacher) for teacher in teachers]).mean() for maps in heatmaps]
    return torch.stack(means).sum()
