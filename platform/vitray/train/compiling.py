"""``train.compile``: torch.compile for one experiment, and nothing left of it for the next."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from vitray.errors import ConfigError

if TYPE_CHECKING:  # torch: whether there is a compiler is known without it
    from vitray.models import VisionTransformer


def check_compiler() -> None:
    """What torch.compile needs on a CPU.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"needs a C++ compiler on a CPU, and there is no {compiler}",
            where="train.compile",
            remedy="install g++ on every machine of the cluster, or leave it off",
        )


def compile_model(model: VisionTransformer, device_type: str) -> None:
    """Let calls of ``model`` run compiled code; its parameters keep their names.

    The first step compiles for half a minute or more, and so does each new shape: a short last batch, evaluation.

    Raises:
        ConfigError: on a CPU without a C++ compiler.
    """
    if device_type == "cpu":
        check_compiler()
    model.compile()


def forget_compiled() -> None:
    """Drop everything compiled: a process falls back to eager at the ninth architecture otherwise."""
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()
