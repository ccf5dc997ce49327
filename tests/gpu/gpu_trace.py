"""What ran on a device and when, and which of attention's kernels were chosen, from torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


class Span(NamedTuple):
    """Something that ran on a stream of the GPU; times in microseconds."""

    name: str
    stream: int
    start: float
    end: float

    def beside(self, other: Span) -> bool:
        """Whether both ran at once, on two streams."""
        return self.stream != other.stream and self.start < other.end and other.start < self.end


def spans(work: Callable[[], object]) -> list[Span]:
    """Kernels and copies of ``work``."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        work()
        torch.cuda.synchronize()
    return [
        Span(event.name, event.device_resource_id, event.time_range.start, event.time_range.end)
        for event in record.events()
        if event.device_type == DeviceType.CUDA
    ]


def attention_ops(work: Callable[[], object]) -> set[str]:
    """Which implementations of scaled_dot_product_attention ran in ``work``, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        work()
    names = {event.name for event in record.events()}
    return {name.removeprefix("aten::_scaled_dot_product_") for name in names if "::_scaled_dot_product_" in name}
