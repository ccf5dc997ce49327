"""What an experiment may change in its process is put back for the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import faulty_ranks
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from vitray.train.clean import Settings, let_go

CUDA, CUDNN = torch.backends.cuda, torch.backends.cudnn
CHANGES: dict[str, Callable[[], object]] = {
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "cudnn.benchmark": lambda: setattr(CUDNN, "benchmark", True),
    "cudnn.deterministic": lambda: setattr(CUDNN, "deterministic", True),
    "float32 precisions": lambda: setattr(CUDNN, "allow_tf32", False),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "flash attention": lambda: CUDA.enable_flash_sdp(False),
    "memory-efficient attention": lambda: CUDA.enable_mem_efficient_sdp(False),
    "math attention": lambda: CUDA.enable_math_sdp(False),
    "cudnn attention": lambda: CUDA.enable_cudnn_sdp(False),
    "autocast cpu": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast dtype cpu": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "autocast cache": lambda: torch.set_autocast_cache_enabled(False),
    "gradients": lambda: torch._C._set_grad_enabled(False),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
}


@pytest.fixture(autouse=True)
def before() -> Iterator[Settings]:
    settings = Settings()
    yield settings
    settings.put_back()


# Setting it imports torch's compiler, which takes a second.
SLOW = {"deterministic algorithms": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in CHANGES])
def test_a_change_is_noticed_and_put_back(before: Settings, name: str) -> None:
    assert before.put_back() == []
    CHANGES[name]()
    assert name in before.put_back()
    assert Settings().values == before.values


@pytest.mark.slow
def test_everything_at_once_is_put_back(before: Settings) -> None:
    x = torch.randn(64, 64)
    product, tiny = x @ x, torch.tensor(1e-310, dtype=torch.float64)
    for change in CHANGES.values():
        change()
    faulty_ranks.change_everything(torch)
    register_optimizer_step_pre_hook(lambda *args: None)
    before.put_back()
    let_go(torch.device("cpu"))
    assert Settings().values == before.values
    linear = torch.nn.Linear(64, 64, bias=False)
    linear.weight = torch.nn.Parameter(x.T.contiguous())
    assert torch.equal(linear(x), product)  # no hook, no other precision
    assert linear(x).requires_grad
    assert tiny * 1 != 0
