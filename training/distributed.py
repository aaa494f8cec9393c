"""Several processes training one network (torchrun): each takes its share of every batch, gradients are averaged."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Group:
    """This process among `size`; rank 0 evaluates, writes and talks."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of a batch's rows (B,): every size-th one."""
        return rows[self.rank :: self.size]

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with its gradients averaged over the group after each backward pass."""
        return DistributedDataParallel(model, broadcast_buffers=False) if self.size > 1 else model

    def any(self, truth: bool) -> bool:
        """Whether it is true in any process; all of them get the same answer, so that none waits for one that left."""
        if self.size == 1:
            return truth
        flag = torch.tensor(int(truth), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)


def join_group(device: torch.device) -> Group:
    """The group that torchrun started this process in, or a group of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Group(dist.get_rank(), size)


def leave_group() -> None:
    """End the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
