"""Row 11: trials that run out of memory, turn NaN, raise and hang, among others that must not notice."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faulty_trials
import pytest
import ray
from injections import full, injections, record
from safetensors.torch import load_file
from silent import Silent
from sweep_drivers import results

from vitray.cluster.launch import Prepared
from vitray.cluster.sweeps import SweepResult, sweep
from vitray.experiment import Experiment
from vitray.home import Home
from vitray.train.checkpoint import CheckpointStore
from vitray.tune.record import TrialRecord

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
_EPOCHS = 3
_MOST_GROWTH_MIB = 24.0


@dataclass
class Done:
    home: Home
    name: str
    result: SweepResult

    def trial(self, decay: float) -> TrialRecord:
        return next(r for r in self.result.trials if r.point["optim.weight_decay"] == decay)

    def outcome(self, decay: float) -> tuple[Any, ...]:
        """What a trial reported and what it weighs in the end, to the bit."""
        trial = self.trial(decay)
        newest = CheckpointStore(self.home.runs / self.name / "trials" / trial.name / "checkpoints").newest()
        assert newest is not None
        weights = load_file(newest / "model.safetensors")
        return trial.status, results(trial), {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


def swept(folder: Path, digits: Path, name: str, decays: list[float]) -> Done:
    home = Home(folder / name)
    experiment = Experiment(
        data={"path": str(digits), "augment": {"shift": 1}},
        model={"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2, "dropout": 0.1},
        train={"epochs": _EPOCHS, "precision": "float32"},
        cluster={"use_gpu": False, "hang_timeout_s": 5 if not full() else 10, "max_restarts": 1 if full() else 0},
        search={
            "space": {"optim.weight_decay": decays}, "algorithm": "grid", "scheduler": "none", "concurrent": 1,
            "retrain": False,
        },
        tracking={"experiment": name},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRAY_HOME", str(home.root))
        for variable in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            patch.delenv(variable, raising=False)
        return Done(home, name, sweep(Prepared.of(experiment, name), home, lambda plan: Silent()))


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trials go wrong as their weight decays say; where their ranks write what they hold."""
    folder = tmp_path_factory.mktemp("ranks")
    ray.cloudpickle.register_pickle_by_value(faulty_trials)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faulty_trials, "folder", str(folder))
        patch.setattr("vitray.tune.sweep.WarmTrial", faulty_trials.FaultyTrial)
        yield folder
    ray.cloudpickle.unregister_pickle_by_value(faulty_trials)


def decays() -> tuple[list[float], list[float]]:
    """All of a sweep, and the good ones: the bad lie among them."""
    count = injections(whole=16, few=2)
    good = [round(0.01 * (number + 1), 2) for number in range(count)]
    mixed = list(good)
    for number, bad in enumerate(faulty_trials.FAULTS):
        mixed.insert(1 + number * (count + len(faulty_trials.FAULTS)) // len(faulty_trials.FAULTS), bad)
    return mixed, good


def test_trials_that_fail_cost_themselves(faults: Path, tmp_path: Path, digits: Path) -> None:
    mixed, good = decays()
    spoilt = swept(tmp_path, digits, "spoilt", mixed)
    hit = {path.name.removeprefix("hit-") for path in faults.glob("hit-*")}
    assert hit == set(faulty_trials.FAULTS.values()), "every fault really happened"
    held_ranks = [path.read_text() for path in faults.glob("rank-*.jsonl")]
    peace = swept(tmp_path, digits, "peace", good)

    classes = {kind: spoilt.trial(decay).failure_class for decay, kind in faulty_trials.FAULTS.items()}
    same = [decay for decay in good if spoilt.outcome(decay) == peace.outcome(decay)]
    finished = [decay for decay in good if spoilt.trial(decay).status == "done"]
    ranks = [[json.loads(line) for line in text.splitlines()] for text in held_ranks]
    growth = max(grown(found) for found in ranks)
    expected = {"nan": "nan", "code": "code", "oom": "oom", "hangs": "hanging"}
    held = classes == expected and same == good == finished and growth < _MOST_GROWTH_MIB
    outcome = f"{len(finished)} of {len(good)} others finished, {len(same)} bitwise equal to a sweep without the bad "
    outcome += f"ones; failures named {', '.join(f'{k}: {v}' for k, v in classes.items())}; memory of a rank's process "
    outcome += f"grew by {growth:.1f} MiB over up to {max(map(len, ranks))} trials"
    record(11, outcome, held=held, classes=classes, growth_mib=growth, trials=len(mixed), equal=len(same))
    assert classes == expected, {kind: spoilt.trial(decay).failure for decay, kind in faulty_trials.FAULTS.items()}
    assert finished == good
    assert same == good
    assert growth < _MOST_GROWTH_MIB
    assert all(line["models"] == 1 for found in ranks for line in found), "nothing of an earlier trial is held"


def grown(found: list[dict[str, float]]) -> float:
    """MiB by which a rank's process grew from its third trial on; what torch keeps for ever is there by then."""
    mib = [line["rss"] / 2**20 for line in found][2:]
    return statistics.median(mib[-3:]) - statistics.median(mib[:3]) if len(mib) > 3 else 0.0
