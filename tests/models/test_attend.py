"""Which kernel computes attention: by device, dtype and length, in one place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vitray.models.attend import MOST_KEYS, attend, kernels_of


class Called(TorchDispatchMode):
    """Names of the operations that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.__name__)
        return function(*args, **(kwargs or {}))


def fused(q: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> bool:
    with Called() as called:
        attend(q, q, q, bias, dropout)
    flash = any("flash_attention_for_cpu" in name for name in called.names)
    assert flash != any(name.startswith("bmm") for name in called.names)
    return flash


def qkv(tokens: int = 17, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, tokens, 16, dtype=dtype, requires_grad=True)


def test_on_a_cpu_float32_is_fused_and_bfloat16_takes_its_matrix_units() -> None:
    assert fused(qkv())
    assert not fused(qkv(dtype=torch.bfloat16))


def test_long_sequences_are_fused_to_save_memory() -> None:
    assert fused(qkv(MOST_KEYS + 1, torch.bfloat16))
    assert not fused(qkv(MOST_KEYS, torch.bfloat16))


@pytest.mark.parametrize("shape", [(3, 17, 17), (1, 1, 17), (17, 17)])
def test_a_bias_that_does_not_learn_keeps_the_fused_kernel(shape: tuple[int, ...]) -> None:
    assert fused(qkv(), torch.randn(shape))
    learns = torch.randn(shape, requires_grad=True)
    assert not fused(qkv(), learns)
    with torch.no_grad():
        assert fused(qkv(), learns)


def test_dropout_is_no_kernel_of_the_cpu() -> None:
    assert not fused(qkv(), dropout=0.1)


def test_the_choice_of_another_device_can_be_assumed() -> None:
    with kernels_of("cuda"):
        assert fused(qkv(dtype=torch.bfloat16))
    assert not fused(qkv(dtype=torch.bfloat16))
