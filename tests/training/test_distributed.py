"""Two gloo processes on one machine, started as torchrun starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training.distributed import Group

SCRIPT = """
import sys
from pathlib import Path
import torch
from training.config import Augment, Encoder, Branch, Recipe, Stage
from training.datasets import load_dataset
from training.distributed import join_group, leave_group
from training.ema import EMA
from training.pose_task import PoseTask
from training.progress import Progress
from training.data import held_pictures
from training.train import Run, parameter_groups, run_epoch

still = Augment(flip=0, scale=0, rotation=0, shift=0, half_body=0, occlusion=0, colour=0, low_light=0, noise=0, blur=0)
recipe = Recipe(name="x", task="pose", stages=(Stage(2, 64, 64, batch=8),), augment=still, holdout=0.0,
    branches=(Branch("a", (8, 8, 8)), Branch("b", (8, 8, 8))), encoder=Encoder((8, 8, 8, 8, 8)))
folder, out = (Path(argument) for argument in sys.argv[1:])
cpu = torch.device("cpu")
torch.set_num_threads(1)
torch.manual_seed(0)
dataset = load_dataset(folder, "train")
dataset.people.labelled[::3, 5:] = False  # so that the halves of a batch differ in how much is labelled
task = PoseTask(recipe, dataset, held_pictures(dataset.image_ids, 0.0))
group = join_group(cpu)
model = group.prepare(task.build())
start = torch.cat([value.flatten() for value in model.parameters()]).clone()
optimiser = torch.optim.SGD(parameter_groups(model, 0.0), lr=1e-3)  # AdamW would blow rounding errors up
run = Run(recipe, task, model, group.wrap(model), EMA(model, 0.9), optimiser, group, cpu, amp=False)
state = Progress(run, out / "last.pt", {}, [])
first = run_epoch(run, state, 0, lambda: False)
learnt = {name: value.clone() for name, value in model.state_dict().items()}
moved = torch.cat([value.flatten() for value in model.parameters()]) - start
stops = iter([False, False, group.rank == group.size - 1])  # the last process is told to stop in the third step
second = run_epoch(run, state, 1, lambda: next(stops, True))
found = {"model": learnt, "moved": moved.detach(), "first": first, "second": second, "step": state.step}
found["largest"] = group.largest([0, 15][group.rank])
torch.save(found, out / f"rank{group.rank}.pt")
leave_group()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def trained(folder: Path, out: Path, size: int) -> list[dict[str, Any]]:
    """What each of `size` processes has after the script."""
    out.mkdir()
    script = out / "script.py"
    script.write_text(SCRIPT)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, folder, out],
            env=os.environ | shared | {"WORLD_SIZE": str(size), "RANK": str(rank)},
        )
        for rank in range(size)
    ]
    assert [process.wait() for process in processes] == [0] * size
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def pair(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return trained(drawn_folder, tmp_path_factory.mktemp("two") / "out", 2)


def test_two_processes_learn_the_same_network_from_different_halves(pair: list[dict[str, Any]]) -> None:
    left, right = pair
    for name in left["model"]:
        torch.testing.assert_close(left["model"][name], right["model"][name], rtol=0, atol=0, msg=name)
    assert left["first"] != right["first"]  # each saw its own half


def test_processes_stop_together_at_the_same_step(pair: list[dict[str, Any]]) -> None:
    assert [(process["second"], process["step"]) for process in pair] == [(None, 3), (None, 3)]


def test_processes_agree_on_a_number(pair: list[dict[str, Any]]) -> None:
    assert [process["largest"] for process in pair] == [15, 15]


def test_two_processes_learn_what_one_learns_from_the_whole_batch(
    pair: list[dict[str, Any]], drawn_folder: Path, tmp_path: Path
) -> None:
    (alone,) = trained(drawn_folder, tmp_path / "out", 1)
    # Losses divided by each one's own labels lead them 0.01 apart, norms over each one's half much farther.
    apart = (pair[0]["moved"] - alone["moved"]).norm() / alone["moved"].norm()
    assert apart < 1e-3
    together = {name: (a + pair[1]["first"][name]) / 2 for name, a in pair[0]["first"].items()}
    assert together == pytest.approx(alone["first"], rel=1e-3)


def test_every_row_of_a_batch_is_one_processs_work() -> None:
    rows = torch.arange(11)
    shares = [Group(rank, 3).share(rows) for rank in range(3)]
    assert sorted(torch.cat(shares).tolist()) == rows.tolist()


def test_the_first_of_a_batch_are_spread_over_the_processes() -> None:
    for count in range(12):
        parts = [Group(rank, 3).part(count) for rank in range(3)]
        shares = [Group(rank, 3).share(torch.arange(12)) for rank in range(3)]
        assert parts == [int((share < count).sum()) for share in shares]


def test_alone_there_is_nothing_to_agree_on() -> None:
    group = Group()
    assert (group.leads, group.any(True), group.any(False)) == (True, True, False)
