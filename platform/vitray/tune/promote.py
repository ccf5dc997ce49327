"""What becomes of a sweep's best trial: measured once on the test split, held against the champion, registered.

Interrupted anywhere and called again it goes on where it was: the test score and the comparison are on disk before
anything follows from them, and a version is looked up by its run before it is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vitray.data.images import ShardedImages
from vitray.errors import TrainingError
from vitray.experiment import Experiment
from vitray.files import write_whole
from vitray.inference.card import Card
from vitray.inference.score import Score, score_package
from vitray.models.package import INFO
from vitray.tracking.card_text import filled, without_pictures
from vitray.tracking.registry import CARD, list_models, register_model
from vitray.tracking.tracker import Tracker
from vitray.train.checkpoint import CheckpointStore
from vitray.train.checkpoint_place import place_of
from vitray.train.fetched import fetched
from vitray.train.run import Run
from vitray.tune.choose import Standing, choose
from vitray.tune.promote_champion import CHALLENGER, CHAMPION, ChampionComparison, compare_with
from vitray.tune.promote_pictures import draw
from vitray.tune.record import TrialRecord
from vitray.tune.state import Sweep, trial_folder

_DELIVERY_S = 120.0
_TEST, _COMPARED = "test.json", "champion.json"
_PICTURES = (
    ("Confusion on the test split", "figures/confusion_matrix.png"),
    ("Positional encoding", "figures/positional_encoding.png"),
    ("Learning curves", "figures/learning_curves.png"),
)


@dataclass(frozen=True)
class Winner:
    """A sweep's result: the trial that won, its final weights, and the version they became.

    ``standing``: how it won, on the validation split. ``version`` and ``alias`` are None where nothing was registered.
    ``champion``: how it compares with the version that was champion before; None where there was none.
    """

    trial: TrialRecord
    experiment: Experiment
    package: Path
    score: Score
    standing: Standing
    sweep: str
    model: str
    version: int | None
    alias: str | None
    champion: ChampionComparison | None

    @property
    def uri(self) -> str | None:
        """``models:/NAME/VERSION``; None where nothing was registered."""
        return None if self.version is None else f"models:/{self.model}/{self.version}"

    def describe(self) -> str:
        """What became of it, with the command that would change it."""
        compared = self.champion.describe() if self.champion else ""
        if self.version is None:
            return (
                f"nothing was registered: {compared}\n"
                f"  -> to register it all the same, as {CHALLENGER}: vitray sweep resume {self.sweep} --force"
            )
        text = f"registered: {self.uri}, alias {self.alias}" + (f"; {compared}" if compared else "")
        if self.alias == CHALLENGER:
            text += f"\n  -> to make it the champion: vitray models promote {self.model} {self.version}"
        return text


def promote(
    sweep: Sweep,
    best: TrialRecord,
    final: TrialRecord | None,
    records: Sequence[TrialRecord],
    data: ShardedImages,
    tracker: Tracker,
    tracking_uri: str,
    *,
    force: bool = False,
) -> Winner:
    """Make the winner the registered model.

    Args:
        best: the search trial that won.
        final: its retraining on train+val; None where there is none: then its best checkpoint becomes the model.
        records: all trials, the repeats among them.
        force: register it also where the champion is better, as ``challenger``.

    Raises:
        TrainingError: there is no checkpoint.
        TrackingError: the store did not take the run in time.
    """
    run, package = _run_and_package(sweep, best, final)
    standing = next((s for s in choose(records, sweep.plan.search).standings if s.trial.index == best.index), None)
    assert standing is not None, "the winner is one of those that stand"
    run.begin(tracker, {"vitray.sweep": sweep.name, "vitray.trial": best.name})
    try:
        score = _score_once(run.folder, package, data)
        figures = run.folder / "figures"
        draw(figures, best, final, score, package, data)
        tracker.log_metrics(run.key, {"test/accuracy": score.accuracy}, step=run.experiment.train.epochs)
        tracker.log_artifact(run.key, figures)
        tracker.log_artifact(run.key, run.folder / _TEST)
        tracker.set_tags(run.key, {"vitray.validation": standing.describe()})
    except BaseException as error:
        tracker.end_run(run.key, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracker.end_run(run.key, "FINISHED")
    tracker.log_metrics(sweep.key, {"test/accuracy": score.accuracy}, step=run.experiment.train.epochs)

    name = run.experiment.tracking.model_name
    versions = list_models(tracking_uri, name)
    mine = next((v for v in versions if v.run == run.key), None)
    champion = next((v for v in versions if CHAMPION in v.aliases), None)
    compared = _saved_comparison(run.folder, package)
    # Once the version is there it may be the champion itself: what it was registered after is on disk.
    if mine is None and champion is None:
        compared = None
    elif mine is None and champion is not None and not _is_of(compared, champion.version, champion.created_ms):
        compared = compare_with(champion, score, data, tracking_uri)
    _save(run.folder / _COMPARED, {"package": _digest(package), "compared": compared.as_json() if compared else None})
    facts = (sweep.name, name)
    if compared is not None:
        tracker.set_tags(run.key, {"vitray.champion_comparison": compared.describe()})
        if compared.worse and not force and mine is None:
            return Winner(best, run.experiment, package, score, standing, *facts, None, None, compared)
    alias = CHAMPION if compared is None or compared.wins else CHALLENGER
    tracker.flush(_DELIVERY_S)
    lineage = _lineage(sweep, best, run, standing, data)
    card = Card(name, run.experiment, data, score, f"{best.name}, {standing.describe()}", _shown(lineage), _PICTURES)
    version = register_model(
        tracking_uri,
        name=name,
        package=package,
        run=run.key,
        tags=lineage,
        description=card.markdown(),
        alias=alias,
        metrics={"test/accuracy": score.accuracy, standing.metric: standing.mean},
        about=f" on {lineage['vitray.dataset']}",
    )
    text = without_pictures(filled(card.markdown(), str(version), ""))
    (run.folder / CARD).write_text(text, encoding="utf-8")
    tracker.log_artifact(run.key, run.folder / CARD)
    tracker.set_tags(run.key, {"mlflow.note.content": text})  # MLflow's name for the description of a run
    return Winner(best, run.experiment, package, score, standing, *facts, version, alias, compared)


def _run_and_package(sweep: Sweep, best: TrialRecord, final: TrialRecord | None) -> tuple[Run, Path]:
    if final is not None:
        run = sweep.run_of(final)
        saved = CheckpointStore(place_of(run.folder)).newest()
    else:
        run = sweep.unchanged(best)
        saved = CheckpointStore(place_of(trial_folder(sweep.folder, best))).best()
    if saved is None:
        raise TrainingError("left no checkpoint", where=str(run.folder), remedy="look at its error file, run it again")
    return run, fetched(saved, run.folder / "weights")


def _score_once(folder: Path, package: Path, data: ShardedImages) -> Score:
    """The score on the test split: measured, or read where this very model has been measured on these data."""
    path, about = folder / _TEST, {"package": _digest(package), "dataset_fingerprint": data.fingerprint}
    known = _load(path)
    if known is not None and {key: known.get(key) for key in about} == about:
        rows, labels, predicted = (np.array(known[key], dtype=np.int64) for key in ("rows", "labels", "predicted"))
        return Score("test", data.classes, rows, labels, predicted, known["images_per_s"])
    score = score_package(package, data, "test")
    facts = {"accuracy": score.accuracy, "interval": score.interval, "per_class": score.per_class, **about}
    facts |= {key: getattr(score, key).tolist() for key in ("rows", "labels", "predicted")}
    _save(path, {**facts, "images_per_s": score.images_per_s})
    return score


def _saved_comparison(folder: Path, package: Path) -> ChampionComparison | None:
    saved = _load(folder / _COMPARED)
    if saved is None or saved.get("package") != _digest(package) or saved["compared"] is None:
        return None
    return ChampionComparison.from_json(saved["compared"])


def _is_of(compared: ChampionComparison | None, version: int, created_ms: int) -> bool:
    return compared is not None and (compared.version, compared.created_ms) == (version, created_ms)


def _lineage(sweep: Sweep, best: TrialRecord, run: Run, standing: Standing, data: ShardedImages) -> dict[str, str]:
    return {
        "vitray.sweep": sweep.name,
        "vitray.trial": best.name,
        "vitray.seed": str(run.experiment.train.seed),
        "vitray.dataset": PurePosixPath(data.store.shown).name,
        "vitray.dataset_fingerprint": data.fingerprint,
        "vitray.config_hash": run.experiment.identity,
        "vitray.validation": standing.describe(),
    }


def _shown(lineage: dict[str, str]) -> dict[str, str]:
    """What of it the card lists; the rest is in other parts of the card."""
    return {key.removeprefix("vitray."): lineage[key] for key in ("vitray.sweep", "vitray.trial", "vitray.config_hash")}


def _digest(package: Path) -> str:
    """Of the description, which carries the checksum of the weights."""
    return hashlib.sha256((package / INFO).read_bytes()).hexdigest()


def _load(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _save(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, json.dumps(values, indent=1))
