"""The GPU's part of model_step.py: ViT-B/16 at 224 in bfloat16, compiled, and what share of the GPU it uses (MFU)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from harness import Row, more_is_better, say
from torch import nn

from vitray.model_config import ModelConfig
from vitray.model_size import flops
from vitray.models import VisionTransformer

BATCHES = (64, 128, 256, 512)
STEPS = 10


def gpu_rows(*, quick: bool, rounds: int) -> list[Row]:
    """Rows of the GPU table; none, with a word about it, where there is no GPU."""
    if not torch.cuda.is_available():
        say("no GPU here: the table of ViT-B/16 and its MFU is left out")
        return []
    depth = 2 if quick else 12
    encodings = ("learned", "relative", "rope_2d")
    configs = {
        kind: ModelConfig.preset(
            "vit_base", image_size=224, in_chans=3, num_classes=1000, pos_encoding=kind, depth=depth
        )
        for kind in encodings
    }
    batch = _best_batch(configs["learned"], quick)
    arms: dict[str, Callable[[], None]] = {
        kind: _step(VisionTransformer(config), batch) for kind, config in configs.items()
    }
    arms["timm"] = _step(timm.create_model("vit_base_patch16_224", depth=depth), batch)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    peaks = []
    for _ in range(rounds):
        peaks.append(_matrix_peak())
        for name, step in arms.items():
            rates[name].append(batch / _seconds(step))
    ours = rates["learned"]
    reached, peak = statistics.median(ours) * flops(configs["learned"]).training, statistics.median(peaks)
    rows = [
        Row(
            f"ViT-B/16, batch {batch}: MFU", "TFLOP/s", reached / 1e12, peak / 1e12, "matrix peak", reached / peak, 0.6
        ),
        more_is_better("ViT-B/16, compiled, bfloat16", "images/s", ours, rates["timm"], "timm", 1.15),
    ]
    for kind in encodings[1:]:
        rows.append(more_is_better(f"ViT-B/16, {kind}", "images/s", rates[kind], ours, "learned", 0.9))
    return rows


def _step(model: nn.Module, batch: int) -> Callable[[], None]:
    model.cuda().train().compile()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.randn(batch, 3, 224, 224, device="cuda"), torch.randint(1000, (batch,), device="cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    return step


def _best_batch(config: ModelConfig, quick: bool) -> int:
    """The batch of the most images a second; larger ones are tried until memory ends."""
    best, rate = BATCHES[0], 0.0
    for batch in BATCHES[:1] if quick else BATCHES:
        try:
            now = batch / _seconds(_step(VisionTransformer(config), batch))
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            torch._dynamo.reset()
            torch.cuda.empty_cache()
        best, rate = (batch, now) if now > rate else (best, rate)
    return best


def _matrix_peak() -> float:
    """Operations a second of products of 8,192 x 8,192 matrices in bfloat16."""
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * 8192**3 / _seconds(lambda: torch.mm(a, b))


def _seconds(work: Callable[[], object]) -> float:
    """Of one call, the device's queue included."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / STEPS
