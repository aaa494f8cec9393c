"""Exponential moving average of a network: the model that is evaluated and exported."""

import copy

import torch

from model.okdhp import OKDHP


class EMA:
    """Keeps `model`, a copy whose weights follow the trained one's.

    The decay grows from 0 towards `decay` with the number of updates, so that early averages are not dominated by the
    random start.
    """

    def __init__(self, model: OKDHP, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    def restart(self, model: OKDHP) -> None:
        """Forget the past: weights learnt at another input size do not average well with this one's."""
        self.model.load_state_dict(model.state_dict())
        self.updates = 0

    @torch.no_grad()
    def update(self, model: OKDHP) -> None:
        """Move the average towards `model`; counters and other integers are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged, current = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in averaged.items() if value.is_floating_point()]
        others = [name for name, value in averaged.items() if not value.is_floating_point()]
        torch._foreach_lerp_([averaged[name] for name in floats], [current[name] for name in floats], 1 - decay)
        if others:
            torch._foreach_copy_([averaged[name] for name in others], [current[name] for name in others])
