"""Two gloo processes on one machine, started as torchrun starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from training.distributed import Group

SCRIPT = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from training.config import Encoder, Branch, Recipe, Stage
from training.datasets import load_dataset
from training.distributed import join_group, leave_group
from training.ema import EMA
from training.pose_task import PoseTask
from training.train import Progress, Run, held_pictures, parameter_groups, run_epoch

recipe = Recipe(name="x", task="pose", stages=(Stage(2, 64, 64, batch=8),),
    branches=(Branch("a", (8, 8, 8)), Branch("b", (8, 8, 8))), encoder=Encoder((8, 8, 8, 8, 8)), holdout=0.0)
folder, out = (Path(argument) for argument in sys.argv[1:])
cpu = torch.device("cpu")
torch.set_num_threads(1)
torch.manual_seed(0)
dataset = load_dataset(folder, "train")
task = PoseTask(recipe, dataset, held_pictures(dataset.image_ids, 0.0))
model = task.build()
optimiser = torch.optim.AdamW(parameter_groups(model, 0.0), lr=1e-3)
group = join_group(cpu)
run = Run(recipe, task, model, EMA(model, 0.9), optimiser, group, cpu, amp=False)
state = Progress(run, out / "last.pt", {})
stops = iter([False, False, group.rank == 1])  # one process is told to stop in the second epoch's first step
first = run_epoch(run, state, 0, lambda: False)
second = run_epoch(run, state, 1, lambda: next(stops, True))
torch.save({"model": model.state_dict(), "first": first, "second": second}, out / f"rank{group.rank}.pt")
leave_group()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_learn_the_same_parameters_and_stop_together(drawn_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, script, drawn_folder, tmp_path], env=os.environ | shared | {"RANK": rank})
        for rank in ("0", "1")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    left, right = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    learnt = [name for name in left["model"] if "running" not in name and "num_batches" not in name]
    for name in learnt:
        torch.testing.assert_close(left["model"][name], right["model"][name], rtol=0, atol=0, msg=name)
    assert left["first"] != right["first"]  # each saw its own half
    assert left["second"] is None
    assert right["second"] is None


def test_every_row_of_a_batch_is_one_processs_work() -> None:
    rows = torch.arange(11)
    shares = [Group(rank, 3).share(rows) for rank in range(3)]
    assert sorted(torch.cat(shares).tolist()) == rows.tolist()


def test_alone_there_is_nothing_to_agree_on() -> None:
    group = Group()
    assert (group.leads, group.any(True), group.any(False)) == (True, True, False)
