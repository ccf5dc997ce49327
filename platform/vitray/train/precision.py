"""Which arithmetic a training uses: float32, or bfloat16 by autocast over float32 weights."""

from __future__ import annotations

import torch

from vitray.experiment import Experiment
from vitray.model_size import Precision

_NARROW = 64  # below this width matrix products are too small for bfloat16 to pay on a CPU


def precision_of(experiment: Experiment, device: torch.device) -> Precision:
    """``train.precision``, with "auto" decided: bfloat16 where it pays.

    That is on GPUs that have it, and on CPUs with matrix or vector units for it (AMX, AVX512-BF16). Measured on AVX512:
    1.4 times faster at width 64 and 17 tokens, 1.8 times at 65 tokens, twice at width 192; equal at width 32.
    """
    wanted = experiment.train.precision
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        # Of a GPU that is elsewhere nothing is known; all since 2020 have it.
        return "bfloat16" if not torch.cuda.is_available() or torch.cuda.is_bf16_supported() else "float32"
    units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if units and experiment.model.embed_dim >= _NARROW else "float32"


def autocast(experiment: Experiment, device: torch.device) -> torch.autocast:
    """The context of a training step's forward and backward pass."""
    low = precision_of(experiment, device) == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=low)
