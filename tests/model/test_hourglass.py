import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.hourglass import HourglassBranch, HourglassTrunk
from model.okdhp import OKDHP


@pytest.mark.parametrize(
    ("stacks", "shared", "parameters_m", "gmacs"),
    [(2, 1, 6.731, 8.99), (4, 2, 13.019, 15.36), (8, 4, 25.595, 28.09)],
)
def test_deployed_hourglass_costs_what_the_authors_network_costs(
    stacks: int, shared: int, parameters_m: float, gmacs: float
) -> None:
    with torch.device("meta"):
        trunk = HourglassTrunk(shared, channels=256, num_keypoints=16)
        branch = HourglassBranch(stacks - shared, channels=256, num_keypoints=16)
        deployed = OKDHP(trunk, {"kept": branch}, 16).deployed("kept")
        with FlopCounterMode(display=False) as counter:
            deployed(torch.zeros(1, 3, 256, 256))
    assert sum(p.numel() for p in deployed.parameters()) / 1e6 == pytest.approx(parameters_m, abs=0.001)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.01)


def test_every_stack_predicts_heatmaps_and_only_the_last_is_final() -> None:
    trunk, branch = HourglassTrunk(1, channels=16, num_keypoints=5), HourglassBranch(3, channels=16, num_keypoints=5)
    shared = trunk(torch.zeros(2, 3, 64, 128))
    found = branch(shared.features)
    assert [maps.shape for maps in shared.heatmaps] == [(2, 5, 16, 32)]
    assert [maps.shape for maps in found.intermediate] == [(2, 5, 16, 32)] * 2
    assert found.final.shape == (2, 5, 16, 32)


def test_a_branch_without_a_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one stack"):
        HourglassBranch(0)
