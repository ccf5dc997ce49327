"""Weights to begin with, found and checked before anything starts. Ranks never ask the registry: they get a path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitray.data.uri import is_uri
from vitray.errors import CheckpointError, ConfigError
from vitray.experiment import Experiment
from vitray.home import Home
from vitray.masking import public
from vitray.model_config import COMPUTED, ModelConfig
from vitray.train.checkpoint_names import History
from vitray.train.checkpoint_place import opened, place_of

if TYPE_CHECKING:  # torch: two seconds that a config without pretrained weights does not spend
    from vitray.models.pretrained import LoadReport
    from vitray.tune.plan import SweepPlan

_KEY = "train.init_from"
# All that decides which weights there are and what is done with them; not how they are trained, or on what.
_ARCHITECTURE = (
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "pos_encoding",
    "attention",
    "pool",
    "patch_embed",
    "registers",
    "layer_scale",
    "qk_norm",
)


def with_weights(experiment: Experiment) -> Experiment:
    """The experiment with the weights of ``train.init_from`` pinned: an alias to its version, a path to its bytes.

    A model of vitray's knows what it is: what the config leaves unsaid of its architecture is as it was trained.
    Where places are computed they count in the grid that the weights know, unless ``model.pos_grid`` says otherwise, so
    that weights and places belong together at whatever image and patch size the experiment, or a trial of it, has.

    What is named may be a file, the folder of a model, that of a run (its best checkpoint), or ``models:/NAME@alias``.

    Raises:
        ConfigError: there is nothing, or not what ``train.init_sha256`` says.
        TrackingError: the registry has no such model.
        DataError: the folder holds no model.
        CheckpointError: what the weights say of themselves is damaged.
    """
    named = experiment.train.init_from
    if named is None:
        return experiment
    pinned, path = _find(named)
    from vitray.models.pretrained import weights_digest
    from vitray.models.weights_info import weights_info

    digest, known = weights_digest(path), experiment.train.init_sha256
    if known not in (None, digest):
        raise ConfigError(
            f"the weights have changed: their sha256 is {digest[:12]}..., not {known[:12] if known else ''}...",
            where=f"{_KEY}: {named}",
            remedy="bring the earlier ones back, or start a new run",
        )
    pins = {"train.init_from": pinned, "train.init_path": str(path), "train.init_sha256": digest}
    info = weights_info(path)
    if info is None:
        return experiment.with_values(pins)
    experiment = experiment.with_values(pins | _unsaid(experiment, info.model))
    return experiment.with_values(_same_places(experiment, info.model))


def _unsaid(experiment: Experiment, known: ModelConfig) -> dict[str, Any]:
    """What the weights say of their model, for the keys that the config does not name."""
    said = experiment.model.model_fields_set
    return {f"model.{key}": getattr(known, key) for key in _ARCHITECTURE if key not in said}


def _same_places(experiment: Experiment, known: ModelConfig) -> dict[str, Any]:
    """What to set so that places are those that the weights know. A model of another encoding is refused later."""
    wanted = experiment.model
    searched = experiment.search is not None and "model.pos_encoding" in experiment.search.space
    if wanted.pos_grid is not None or searched or not wanted.pos_encoding == known.pos_encoding in COMPUTED:
        return {}
    return {"model.pos_grid": known.reference_grid}


def check_fit(experiments: Iterable[Experiment], classes: Sequence[str]) -> LoadReport | None:
    """Try the weights on the model of every experiment, without allocating one. The report is on all of them.

    Raises:
        ConfigError: they are of another architecture; names the first mismatches and the model.
        CheckpointError: the weights are damaged.
    """
    by_shape = {experiment.model: experiment for experiment in experiments}
    first = next(iter(by_shape.values()))
    if first.train.init_path is None:
        return None
    import torch

    from vitray.models import VisionTransformer
    from vitray.models.pretrained import Pretrained

    weights = Pretrained.read(first.train.init_path)
    reports = []
    for model in by_shape:
        with torch.device("meta"):
            empty = VisionTransformer(model)
        try:
            reports.append(weights.fit(empty, classes=classes)[1])
        except CheckpointError as error:
            raise ConfigError(error.what, where=f"{_KEY}: {first.train.init_from}", remedy=error.remedy) from None
    adapted = dict.fromkeys(change for report in reports for change in report.adapted)
    return replace(reports[0], path=str(first.train.init_from), adapted=tuple(adapted))


def check_trials(plan: SweepPlan, classes: Sequence[str]) -> SweepPlan:
    """The plan, with what there is to say of the weights to begin with, if they fit every trial.

    Raises:
        ConfigError: they do not.
    """
    try:
        weights = check_fit((plan.trial(index) for index in range(len(plan.points))), classes)
    except ConfigError as error:
        if error.where is None or not error.where.startswith(_KEY):
            raise
        remedy = f"{error.remedy}; a sweep that begins with weights can search only what these leave open"
        raise ConfigError(f"a trial cannot begin with it: {error.what}", where=error.where, remedy=remedy) from None
    return replace(plan, weights=str(weights)) if weights is not None else plan


def _find(named: str) -> tuple[str, Path]:
    """What is named, pinned, and the file or the model's folder where it lies."""
    from vitray.tracking import registry

    if registry.is_model_uri(named):
        home = Home.find()
        version = registry.resolve(home.tracking_uri, named)
        pinned = f"models:/{version.name}/{version.version}"
        return pinned, registry.download(pinned, tracking_uri=home.tracking_uri)
    if is_uri(named):
        return named, registry.download(named)
    path = Path(named)
    if not path.exists():
        shown = public(named)
        remedy = (
            f"did you mean models:/{path.name}?" if "@" in path.name else "give a file or folder, or models:/NAME/3"
        )
        raise ConfigError("there are no such weights", where=f"{_KEY}: {shown}", remedy=remedy)
    if path.is_file():
        beside = path.name == "model.safetensors" and (path.parent / "model.json").is_file()
        return named, path.parent if beside else path
    for place in (str(path), place_of(path)):
        if History.of(opened(place)).committed:
            from vitray.train.checkpoint import CheckpointStore
            from vitray.train.fetched import fetched

            best = CheckpointStore(place).best()
            assert best is not None, "one has just been seen"
            found = fetched(best, Home.find().root / "cache" / "checkpoints")
            return str(found), found
    return named, registry.download(named)
