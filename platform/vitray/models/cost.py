"""What a model costs before it exists: parameters, floating-point operations, memory of a training step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitray.model_config import ModelConfig
from vitray.model_size import Flops, Precision, count_parameters, flops
from vitray.models.attend import kernels_of
from vitray.models.attention import Attention
from vitray.models.vit import VisionTransformer

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step with AdamW. ``activations`` is what the forward pass keeps for the backward pass.

    ``peak`` is the most that is alive at once, weights and optimizer state included; input images are not.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


@dataclass(frozen=True)
class Cost:
    """A config's cost at a batch size."""

    parameters: int
    flops: Flops
    memory: Memory
    batch_size: int


def cost(config: ModelConfig, batch_size: int, precision: Precision = "float32", device: Device = "cpu") -> Cost:
    """The cost of ``config``, nothing allocated and nothing computed.

    Args:
        config: resolved.
        batch_size: images a step on one device.
        precision: ``bfloat16`` is autocast over float32 weights.
        device: whose attention kernels are meant; on a GPU the fused ones, which keep no logits.
    """
    return Cost(count_parameters(config), flops(config), memory(config, batch_size, precision, device), batch_size)


def memory(config: ModelConfig, batch_size: int, precision: Precision = "float32", device: Device = "cpu") -> Memory:
    """By running the step on tensors without data and adding up what is alive. Arguments as for :func:`cost`.

    Blocks are alike, so models of two and three blocks tell what each further one adds. Tensors pretend to be on CPU,
    whose fused attention keeps what the GPU's keeps. Scratch space inside kernels is not seen, nor what the process's
    memory allocator holds in reserve: on a CPU a process grows to 1.2 to 1.5 times as much.
    """
    parameters = 4 * count_parameters(config)
    depths = (config.depth,) if config.depth <= 3 else (2, 3)
    with kernels_of(device):
        steps = [_step(config.model_copy(update={"depth": depth}), batch_size, precision, device) for depth in depths]
    activations, peak = (
        first + (last - first) * (config.depth - depths[0]) for first, last in zip(steps[0], steps[-1], strict=True)
    )
    # Few images on a large model: the peak moves to the end of the backward pass, where all gradients are alive.
    return Memory(parameters, parameters, 2 * parameters, activations, 2 * parameters + max(peak, 2 * parameters))


def _step(config: ModelConfig, batch_size: int, precision: Precision, device: Device) -> tuple[int, int]:
    """(Bytes kept by the forward pass, most bytes alive at once with the weights) of forward and backward."""
    assert config.in_chans is not None
    assert config.num_classes is not None
    model = _on_meta(config)
    if device == "cuda":  # whose fused kernels know dropout and the gradient of a bias; the CPU's stand-in does not
        model.position.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, Attention):
                module.attn_drop = 0.0
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        model.to_empty(device="cpu")
        weights = live.now
        images = torch.empty(batch_size, config.in_chans, *config.size)
        labels = torch.empty(batch_size, dtype=torch.long)
        before = live.now
        low: AbstractContextManager[Any] = (
            torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
        )
        with low:
            loss = F.cross_entropy(model(images), labels)
        kept = live.now - before
        loss.backward()
    return kept, live.peak - (before - weights)


def _on_meta(config: ModelConfig) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(config)


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations create, and takes each off when it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            self.now -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)
