"""`okdhp average`: between a network and what fine-tuning made of it."""

from pathlib import Path

from torch import Tensor

from app.digest import sha256
from training.checkpoint import CheckpointError, check_unneeded, load_checkpoint, save_checkpoint


def average(before: Path, after: Path, out: Path, share: float) -> None:
    """Write the mean of two checkpoints' averaged weights to `out`, `share` (0..1) of it `after`'s.

    Where `after` went on from `before`, the mean keeps most of what either can do: what a run on other people, or for
    another loss, has gained, and what it had begun to forget (Wortsman et al., "Robust fine-tuning of zero-shot
    models", CVPR 2022). Batch norms' statistics are averaged like weights. `out` can be exported or started from; what
    else it holds is `after`'s, but for its held-out scores, which are of other weights.
    Raises CheckpointError where `before` lacks a weight of `after`, and for an `out` that is one of them or a run's;
    ValueError for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"--share is the second checkpoint's part, 0 to 1, got {share:g}")
    check_unneeded(out, before, after)
    content, old = load_checkpoint(after), load_checkpoint(before)["ema"]
    weights: dict[str, Tensor] = content["ema"]
    foreign = [name for name, value in weights.items() if name not in old or old[name].shape != value.shape]
    if foreign:
        raise CheckpointError(f"{after}: did not go on from {before}, which has no {foreign[0]} of its shape")
    mixed = {
        name: old[name].float().lerp(value.float(), share) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    about = {"with": sha256(before), "share": share}
    history = [entry | {"scores": {}} for entry in content["history"]]
    save_checkpoint(out, content | {"ema": mixed, "model": {}, "optimiser": {}, "history": history, "averaged": about})
