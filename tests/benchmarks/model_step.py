"""A training step and inference of the same Vision Transformer: vitray, timm, torchvision, and a tutorial's code.

    python tests/benchmarks/model_step.py [--quick] [--rounds 5] [--only tiny] [--compile] [--output json]

All arms have the same sizes, images, loss, AdamW (fused) and number of threads, run in one process and take turns. A
step is forward, backward and optimizer; bfloat16 is autocast over float32 weights. The matrix peak is the best of
square products of the same dtype in the same run. Where there is a GPU, ViT-B/16 is trained on it, too, compiled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import timm
import torch
import torch.nn.functional as F
import torchvision
from harness import Row, arguments, less_is_better, more_is_better, publish, say, versions
from model_step_gpu import gpu_rows
from torch import nn
from tutorial_vit import TutorialViT

from vitray.model_config import ModelConfig
from vitray.model_size import flops
from vitray.models import VisionTransformer

PEERS = ("timm", "torchvision", "tutorial")


@dataclass(frozen=True)
class Case:
    """A model and what it is fed."""

    name: str
    dim: int
    depth: int
    heads: int
    image: int
    patch: int
    batch: int
    classes: int = 1000

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(
            image_size=self.image, patch_size=self.patch, in_chans=3, num_classes=self.classes, embed_dim=self.dim,
            depth=self.depth, num_heads=self.heads,
        )  # fmt: skip


CASES = (
    Case("tiny", 192, 12, 3, 224, 16, 32),
    Case("small", 384, 12, 6, 224, 16, 32),
    Case("32px-w64", 64, 4, 4, 32, 4, 64, 10),
    Case("32px-w192", 192, 12, 3, 32, 4, 64, 10),
    Case("32px-w64-p8", 64, 6, 4, 32, 8, 16, 10),
)
QUICK = (Case("tiny", 192, 2, 3, 224, 16, 4), Case("32px-w64", 64, 2, 4, 32, 4, 16, 10))


def models(case: Case) -> dict[str, nn.Module]:
    """The same architecture four times."""
    return {
        "vitray": VisionTransformer(case.config),
        "timm": timm.models.VisionTransformer(
            img_size=case.image, patch_size=case.patch, num_classes=case.classes, embed_dim=case.dim, depth=case.depth,
            num_heads=case.heads,
        ),
        "torchvision": torchvision.models.VisionTransformer(
            image_size=case.image, patch_size=case.patch, num_layers=case.depth, num_heads=case.heads,
            hidden_dim=case.dim, mlp_dim=4 * case.dim, num_classes=case.classes,
        ),
        "tutorial": TutorialViT(
            image_size=case.image, patch_size=case.patch, classes=case.classes, dim=case.dim, depth=case.depth,
            heads=case.heads,
        ),
    }  # fmt: skip


def training_step(model: nn.Module, case: Case, low: bool) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.randn(case.batch, 3, case.image, case.image), torch.randint(case.classes, (case.batch,))
    model.train()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(model: nn.Module, case: Case, low: bool) -> Callable[[], None]:
    images = torch.randn(case.batch, 3, case.image, case.image)
    model.eval()

    def answer() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            model(images)

    return answer


def matrix_peak(low: bool) -> float:
    """Operations a second of the best of ten products of 2,048 x 2,048 matrices."""
    a, b = (torch.randn(2048, 2048, dtype=torch.bfloat16 if low else torch.float32) for _ in range(2))
    best = min(seconds_of(lambda: a @ b)[0] for _ in range(10))
    return 2 * 2048**3 / best


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU time."""
    process, start = psutil.Process(), time.perf_counter()
    before = process.cpu_times()
    work()
    after = process.cpu_times()
    return time.perf_counter() - start, after.user + after.system - before.user - before.system


def compare(case: Case, low: bool, train: bool, rounds: int, compiled: bool) -> Iterator[Row]:
    """All arms in turns; rows of rates against each peer, of CPU time, and of the share of the matrix peak."""
    arms = {}
    for name, model in models(case).items():
        if compiled:
            model.compile()
        arms[name] = (training_step if train else inference)(model, case, low)
        arms[name]()
        arms[name]()
    # Short steps are repeated until a turn is long enough for the clock of CPU time.
    once = seconds_of(arms["timm"])[0]
    repeats = max(1, round(0.3 / once))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    peaks = []
    for _ in range(rounds):
        peaks.append(matrix_peak(low))
        for name, work in arms.items():
            taken[name].append(seconds_of(lambda work=work: [work() for _ in range(repeats)]))
    images = case.batch * repeats
    rates = {name: [images / wall for wall, _ in times] for name, times in taken.items()}
    kind = f"{case.name}, {'train' if train else 'infer'}, {'bfloat16' if low else 'float32'}"
    kind += ", compiled" if compiled else ""
    for peer in PEERS:
        yield more_is_better(kind, "images/s", rates["vitray"], rates[peer], peer, goal_of(case, low, peer))
    cpu = {name: [1000 * seconds / images for _, seconds in times] for name, times in taken.items()}
    yield less_is_better(f"{kind}: CPU time", "CPU-ms an image", cpu["vitray"], cpu["timm"], "timm")
    if case.image == 224:
        operations = flops(case.config).training if train else flops(case.config).forward
        reached = statistics.median(rates["vitray"]) * operations
        peak = statistics.median(peaks)
        unit, goal = "GFLOP/s", 0.5 if low and train else None
        yield Row(f"{kind}: of the matrix peak", unit, reached / 1e9, peak / 1e9, "matrix peak", reached / peak, goal)


def goal_of(case: Case, low: bool, peer: str) -> float | None:
    if case.image == 32:
        return 1.2 if peer == "timm" else None
    if not low:
        return 1.0
    return 1.2 if peer == "tutorial" else 1.5


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="cases whose name begins so")
    parser.add_argument("--compile", action="store_true", help="every arm by torch.compile (needs g++; minutes)")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    rows: list[Row] = []
    for case in QUICK if options.quick else CASES:
        if options.only and not case.name.startswith(options.only):
            continue
        for low in (False, True):
            for train in (True, False):
                for row in compare(case, low, train, rounds, options.compile):
                    rows.append(row)
                    say(f"{row.metric}: {row.ours:.4g} {row.unit}, {row.peer_name} {row.peer:.4g}: {row.ratio:.2f}x")
    rows += gpu_rows(quick=options.quick, rounds=rounds)
    publish("model_step", rows, options.output, versions("torch", "timm", "torchvision"))


if __name__ == "__main__":
    main()
