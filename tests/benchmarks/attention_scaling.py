"""How attention's cost grows with the number of tokens: full against axial, 64 to 16,384 patches.

    python tests/benchmarks/attention_scaling.py [--quick] [--rounds 3] [--precision bfloat16] [--output json]

One attention layer of ViT-Ti (width 192, three heads) with its projections, one image: forward and backward by the
clock, arms in turns; and the most bytes of tensors alive at once. timm's layer is the peer of the full one. The
exponent is the slope of log(time) over log(tokens) from 1,024 patches on, by least squares.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import timm.layers
import torch
from harness import Row, arguments, less_is_better, publish, say, versions
from torch import Tensor

from vitray.models.attention import Attention, AxialAttention, Layout
from vitray.models.cost import LiveBytes

DIM, HEADS = 192, 3
SIDES = (8, 12, 16, 24, 32, 45, 64, 90, 128)
FITTED = 1024


def work_of(kind: str, side: int, low: bool) -> Callable[[], None]:
    """Forward and backward of a layer over a class token and side x side patches."""
    x = torch.randn(1, 1 + side * side, DIM, requires_grad=True)
    layout = Layout((side, side), 1)
    if kind == "timm":
        theirs = timm.layers.Attention(DIM, HEADS, qkv_bias=True)
        call: Callable[[Tensor], Tensor] = theirs
    else:
        ours = (AxialAttention if kind == "axial" else Attention)(DIM, HEADS)
        call = lambda tokens: ours(tokens, layout)  # noqa: E731

    def work() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = call(x)
        y.float().square().sum().backward()

    return work


def exponent(tokens: Sequence[int], seconds: Sequence[float]) -> float:
    """Least-squares slope in logarithms."""
    xs, ys = [math.log(t) for t in tokens], [math.log(s) for s in seconds]
    mx, my = statistics.fmean(xs), statistics.fmean(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    sides = (16, 32, 45) if options.quick else SIDES
    rounds, low = (1 if options.quick else options.rounds), options.precision == "bfloat16"
    times: dict[str, dict[int, list[float]]] = {kind: {} for kind in ("axial", "full", "timm")}
    rows: list[Row] = []
    for side in sides:
        n = side * side
        arms = {kind: work_of(kind, side, low) for kind in times}
        for work in arms.values():
            work()  # the first call of a shape chooses kernels
        peaks = {}
        for kind, work in arms.items():
            with LiveBytes() as live:
                work()
            peaks[kind] = live.peak / 2**20
        repeats = max(1, 2048 // n)  # the clock is too coarse for one call of a short one
        for _ in range(rounds):
            for kind, work in arms.items():
                start = time.perf_counter()
                for _ in range(repeats):
                    work()
                times[kind].setdefault(n, []).append((time.perf_counter() - start) / repeats)
        row = less_is_better(f"{n:,} patches", "s", times["axial"][n], times["full"][n], "full")
        memory = less_is_better(f"{n:,} patches: memory", "MiB", [peaks["axial"]], [peaks["full"]], "full")
        peer = less_is_better(f"{n:,} patches, full", "s", times["full"][n], times["timm"][n], "timm")
        rows += [row, memory, peer]
        for each in (row, memory, peer):
            say(f"{each.metric}: {each.ours:.3g} {each.unit}, {each.peer_name} {each.peer:.3g}: {each.ratio:.2f}x")
    slopes = {
        kind: exponent(*zip(*((n, statistics.median(taken)) for n, taken in found.items() if n >= FITTED), strict=True))
        for kind, found in times.items()
    }
    rows.append(Row("exponent of time", "", slopes["axial"], slopes["full"], "full", slopes["full"] / slopes["axial"]))
    rows.append(Row("exponent against its bound", "", slopes["axial"], 1.6, "bound", 1.6 / slopes["axial"], 1.0))
    slower = [n for n in times["axial"] if statistics.median(times["axial"][n]) > statistics.median(times["full"][n])]
    say(f"the largest grid on which full attention was the faster one: {max(slower):,} patches" if slower else "none")
    publish(f"attention_scaling, {options.precision}", rows, options.output, versions("torch", "timm"))


if __name__ == "__main__":
    main()
