"""Nodes of a cluster are killed and others come: what share of the time a training gets on, and how soon it does again.

Ours, and a TorchTrainer with a checkpoint an epoch and ``max_failures=-1`` (fault_nodes_stock.py), each on a head that
trains nothing and two nodes of one CPU, two ranks, the same model, images and kills. Both save at each epoch's end.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import harness
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))
from goodput import Goodput, goodput
from killed_nodes import CONFIG, train_while_nodes_die
from ledger import Ledger

_HERE = Path(__file__).parent
STOCK = "TorchTrainer, max_failures=-1"


def arm(folder: Path, command: list[str], kills: int, every_s: float, **variables: str) -> tuple[Goodput, list[float]]:
    """The goodput, and the seconds from each kill to the next step; the whole rest where none came."""
    folder.mkdir(exist_ok=True)
    outcome = train_while_nodes_die(folder, command, kills=kills, every_s=every_s, **variables)
    ledger = Ledger(folder / "ledger")
    done = goodput([process for process in ledger.processes if process[0].rank == 0])
    ends = outcome.killed[0] + (kills - 0.5) * every_s
    recoveries = [ledger.next_step_after(killed) or ends - killed for killed in outcome.killed]
    harness.say(f"{command[0]}: goodput {done.share:.3f}, recoveries {recoveries}, done again {done.again}")
    if outcome.code is not None:
        harness.say(f"it ended by itself with {outcome.code}:\n{outcome.log[-2000:]}")
    return done, recoveries


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--every", type=float, default=120.0, help="seconds between kills")
    parser.add_argument("--kills", type=int, default=5)
    asked = parser.parse_args()
    kills, every_s = (1, 60.0) if asked.quick else (asked.kills, asked.every)
    from vitray.data.images import ShardedImages
    from vitray.data.prepare import prepare

    with tempfile.TemporaryDirectory(prefix="vitray-bench-") as place:
        folder = Path(place)
        prepare("builtin:digits", folder / "ds")
        data = ShardedImages.open(str(folder / "ds"))
        batch = next(iter(data.batches("train", global_batch=data.num_samples("train"), seed=0, rank=0, world_size=1,
                                       start_step=0, stop_step=1, executor="local")))  # fmt: skip
        images = np.ascontiguousarray(batch.image.transpose(0, 3, 1, 2), dtype=np.float32) / 127.5 - 1
        np.savez(folder / "digits.npz", images=images, labels=batch.label.astype(np.int64))
        (folder / "ours").mkdir()
        (folder / "ours" / "c.yaml").write_text(CONFIG.replace("DATA", str(folder / "ds")).replace("WORKERS", "2"))
        driver = str(_HERE.parent / "faults" / "ledger_driver.py")
        ours, our_times = arm(folder / "ours", [driver, "train", "c.yaml"], kills, every_s)
        variables = {"STOCK_DATA": str(folder / "digits.npz"), "STOCK_STORAGE": str(folder / "storage")}
        stock, their_times = arm(folder / "stock", [str(_HERE / "fault_nodes_stock.py")], kills, every_s, **variables)
    rows = [
        harness.more_is_better("goodput", "share", [ours.share], [stock.share], STOCK, 1.0),
        harness.less_is_better("a kill to the next step (median)", "s", our_times, their_times, STOCK, 1.0),
        harness.less_is_better("likewise, the slowest", "s", [max(our_times)], [max(their_times)], STOCK),
        harness.less_is_better("steps done again, a kill", "steps", [1 + statistics.mean(ours.again or [0])],
                               [1 + statistics.mean(stock.again or [0])], STOCK),
    ]  # fmt: skip
    harness.publish("fault_nodes", rows, asked.output, harness.versions("ray", "torch"))


if __name__ == "__main__":
    main()
