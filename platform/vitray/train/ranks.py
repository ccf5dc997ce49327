"""This process's place among the ranks, and the few collectives that training needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_PIECE = 64 * 2**20  # bytes


@dataclass(frozen=True)
class Ranks:
    """Rank ``rank`` of ``world_size``, working on ``device``. With one rank no process group is needed.

    ``nodes``: that the ranks are on, as far as is known.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    nodes: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def seed(self, value: int) -> None:
        """Begin the random numbers of this rank's device, and of the CPU, anew, as ``torch.manual_seed`` would.

        That one also keeps a formatted stack for each kind of device that is not there: a quarter of a millisecond.
        """
        torch.default_generator.manual_seed(value)
        if self.device.type == "cuda":
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            torch.cuda.default_generators[index].manual_seed(value)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the ranks."""
        if self.world_size == 1:
            return model
        ids = [self.device.index or 0] if self.device.type == "cuda" else None
        # buffers are constants of the config (position tables), equal on every rank
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, decision: bool) -> bool:
        """The first rank's decision, on every rank."""
        if self.world_size == 1:
            return decision
        flag = torch.tensor([int(decision)], device=self.device)
        dist.broadcast(flag, src=0)
        return bool(flag.item())

    def tell(self, text: str) -> str:
        """The first rank's text, on every rank; what the others give is of no account."""
        if self.world_size == 1:
            return text
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        length = torch.tensor([data.numel()], device=self.device)
        dist.broadcast(length, src=0)
        if not self.first:
            data = torch.empty(int(length.item()), dtype=torch.uint8)
        self.share(data)
        return data.numpy().tobytes().decode()

    def tell_numbers(self, *numbers: int) -> list[int]:
        """The first rank's numbers, on every rank; what the others give is of no account, save how many there are."""
        if self.world_size == 1:
            return list(numbers)
        told = torch.tensor(numbers, device=self.device)
        dist.broadcast(told, src=0)
        return [int(number) for number in told.tolist()]

    def share(self, data: torch.Tensor) -> None:
        """Fill ``data``, on the CPU, with the first rank's on every rank, in pieces that a GPU has room for."""
        if self.world_size == 1:
            return
        for piece in data.split(_PIECE):
            sent = piece.to(self.device)
            dist.broadcast(sent, src=0)
            if sent is not piece:
                piece.copy_(sent)

    @property
    def collectives(self) -> int:
        """How many collectives this rank has begun. Ranks with different numbers would wait for each other for ever."""
        if self.world_size == 1:
            return 0
        group: Any = dist.distributed_c10d._get_default_group()  # its stub lacks the number
        return int(group._get_sequence_number_for_group())


@contextmanager
def accumulating(model: nn.Module, *, last: bool) -> Iterator[None]:
    """Gradients stay local until the last micro-batch. Must enclose forward and backward (DDP's rule)."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
    else:
        yield


def lost_peer(error: BaseException) -> bool:
    """Whether a collective broke because another rank is gone: not this experiment's fault.

    Gloo's errors are plain RuntimeErrors that name its source; NCCL's have a class of their own.
    """
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()
