"""Several processes training one network (torchrun): each takes its share of every batch, as if one took it all."""

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Module = TypeVar("Module", bound=nn.Module)


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

    def part(self, count: int) -> int:
        """How many of a batch's first `count` rows are this process's."""
        return len(range(self.rank, count, self.size))

    def prepare(self, model: Module) -> Module:
        """`model`, its batch norms in place made to see the whole batch where it is shared; the weights stay alike."""
        return share_norms(model) if self.size > 1 else model

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with its gradients averaged over the group after each backward pass."""
        return DistributedDataParallel(model, forward_sync_buffers=False) if self.size > 1 else model

    def any(self, truth: bool) -> bool:
        """Whether it is true in any process; all of them get the same answer, so that none waits for one that left."""
        return bool(self.largest(int(truth)))

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers, the same for all, once every process has come here."""
        if self.size == 1:
            return number
        found = torch.tensor(number, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)


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


def group_mean(value: Tensor) -> Tensor:
    """`value`, which needs no gradient, averaged over the group; itself where there is one process.

    What a loss is divided by: gradients are averaged over the group, and a mean of quotients is the quotient of means
    only where all have the same divisor.
    """
    if not dist.is_initialized():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class _GroupSum(torch.autograd.Function):
    """The sum of a tensor over the group; its gradient is the sum of everyone's."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the whole group's batch, on any device: torch's own SyncBatchNorm needs CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        C, wide = x.shape[1], x.float()
        count = torch.full((1,), x.numel() / C, device=x.device)
        sums = torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), count])
        total: Tensor = _GroupSum.apply(sums)  # type: ignore[no-untyped-call]
        mean, square, count = total[:C] / total[-1], total[C : 2 * C] / total[-1], total[-1]
        variance = (square - mean.square()).clamp_min(0)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        gain = torch.rsqrt(variance + self.eps) * self.weight
        result: Tensor = (wide * gain[:, None, None] + (self.bias - mean * gain)[:, None, None]).to(x.dtype)
        return result


def share_norms(module: Module) -> Module:
    """`module` with every BatchNorm2d inside replaced by one that sees the whole group's batch, weights kept."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared.to(child.weight.device))
        else:
            share_norms(child)
    return module
