"""``train.compile``: torch.compile for one experiment, and nothing left of it for the next."""

from __future__ import annotations

import shutil

import torch

from vitray.errors import ConfigError
from vitray.models import VisionTransformer


def compile_model(model: VisionTransformer, device: torch.device) -> None:
    """Let calls of ``model`` run compiled code; its parameters keep their names.

    The first step compiles for half a minute or more, and so does each new shape: a short last batch, evaluation.

    Raises:
        ConfigError: on a CPU without a C++ compiler.
    """
    if device.type == "cpu" and shutil.which("g++") is None:
        raise ConfigError(
            "needs a C++ compiler on a CPU, and there is no g++",
            where="train.compile",
            remedy="install g++ on every machine of the cluster, or leave it off",
        )
    model.compile()


def forget_compiled() -> None:
    """Drop everything compiled: a process falls back to eager at the ninth architecture otherwise."""
    torch._dynamo.reset()
