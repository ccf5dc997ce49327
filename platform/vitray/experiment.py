"""What an experiment is: the frozen, validated, hashable description that every other part reads.

Imports neither Ray, torch nor MLflow, so that a config is checked in milliseconds. Anything that the data decides
(image size, channels, classes) may stay unset here and is filled in by :meth:`Experiment.resolve`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vitray.augment_config import AugmentConfig
from vitray.config_base import ImageSize, Positive, Probability, Section
from vitray.errors import ConfigError
from vitray.model_config import ModelConfig, sides
from vitray.search_config import SearchConfig, model_choices

FETCHED = ("cache", "cache_bytes", "verify", "workers", "prefetch")  # of data: how it comes, which changes no result

KEPT = ("checkpoint_steps", "work_at_risk", "checkpoints", "keep_last", "keep_best")  # of train: likewise


class DataConfig(Section):
    """Which images, at what size, and how they are fetched.

    ``path``: a dataset folder, a pyarrow.fs URI, or ``builtin:digits``. ``workers``: data tasks at once, for each rank.
    ``prefetch``: units of work that wait beside them. ``max_bad_fraction``: share of damaged rows that are passed over.
    """

    path: str
    image_size: ImageSize | None = None
    augment: AugmentConfig = AugmentConfig()
    cache: Literal["auto", "none", "decoded"] = "auto"
    cache_bytes: Annotated[int, Field(ge=0)] = 2**30
    decode: Literal["cpu"] = "cpu"
    shuffle_window: Positive = 64
    verify: Literal["cheap", "full"] = "cheap"
    workers: Positive | Literal["auto"] = "auto"
    prefetch: Positive | Literal["auto"] = "auto"
    max_bad_fraction: Probability = 0.001


class TrainConfig(Section):
    """How long and on what. ``global_batch`` counts images over all ranks and accumulation steps.

    ``mixup`` and ``cutmix`` are the alphas of their Beta distributions, 0 for off; with both on, a pair of images gets
    CutMix with probability ``switch_prob``, else MixUp. ``init_from``: weights to begin with: a file, a model's folder,
    ``models:/NAME@alias``; ``init_path`` and ``init_sha256``, where they lie and what they are, are filled in.
    ``freeze``: what keeps those weights, ``all_but_head`` or ``first_6`` (the embedding and six blocks). ``compile``:
    let torch.compile fuse the model.

    A checkpoint is made at the end of each epoch, and within it every ``checkpoint_steps`` steps, or so often that no
    more than ``work_at_risk`` seconds of work are lost with a rank; by default as often as pays ("auto").
    ``checkpoints``: a folder or URI under which they lie, instead of the run's folder. The newest ``keep_last`` stay,
    and the ``keep_best`` best by validation accuracy.
    """

    epochs: Positive = 40
    global_batch: Positive = 128
    accumulate: Positive = 1
    seed: Annotated[int, Field(ge=0)] = 0
    split: Literal["train", "train+val"] = "train"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    clip_grad: Annotated[float, Field(gt=0)] | None = 1.0
    label_smoothing: Probability = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    switch_prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    ema: Probability = 0.0
    compile: bool = False
    checkpoint_steps: Positive | None = None
    work_at_risk: Annotated[float, Field(gt=0)] | Literal["auto"] | None = None
    checkpoints: str | None = None
    keep_last: Positive = 2
    keep_best: Positive = 1
    init_from: str | None = None
    init_path: str | None = None
    init_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    freeze: Annotated[str, Field(pattern=r"^(none|all_but_head|first_[1-9]\d*)$")] = "none"

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "keep_checkpoints" in raw:
            raw = dict(raw)
            raw.setdefault("keep_last", raw.pop("keep_checkpoints"))
        return raw

    @model_validator(mode="after")
    def _one_rule_for_checkpoints(self) -> Self:
        if self.checkpoint_steps is not None and self.work_at_risk is not None:
            raise ValueError(
                f"checkpoint_steps is {self.checkpoint_steps} and work_at_risk is {self.work_at_risk}, "
                "and both say when to make checkpoints; set one of them"
            )
        return self

    @property
    def seconds_at_risk(self) -> float | None:
        """``work_at_risk`` where it is a number."""
        return None if self.work_at_risk == "auto" else self.work_at_risk

    @property
    def frozen_blocks(self) -> int | None:
        """How many blocks ``freeze`` keeps, with all that comes before them; None where it names no number."""
        return int(self.freeze.removeprefix("first_")) if self.freeze.startswith("first_") else None


class OptimConfig(Section):
    """AdamW with linear warm-up and a cosine down to ``min_lr_ratio * lr``.

    ``layer_decay`` multiplies the rate once a block from the head down: 1 for off, 0.65 to 0.75 when fine-tuning.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.0
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


def bounds(workers: int | tuple[int, int]) -> tuple[int, int]:
    """The least and the greatest number of ranks that ``cluster.workers`` allows."""
    return (workers, workers) if isinstance(workers, int) else workers


class ClusterConfig(Section):
    """What a run takes: ranks, and on what.

    ``workers`` may be [min, max]: nodes that come or go then change the number of ranks while it runs, and nothing
    else: neither the images of a step nor the learning rate. ``train.accumulate`` is then that of ``max`` ranks; fewer
    ranks take as many more micro-batches as keep these no larger.

    ``hang_timeout_s``: ranks that stand still in a step for so long (and for ten times as long as steps usually take),
    or say nothing, hang and are replaced. A first step may take thirty times as long, and so may a batch of an
    evaluation; data and storage may take for ever. None: never.
    """

    workers: Positive | tuple[Positive, Positive] = 1
    use_gpu: bool | Literal["auto"] = "auto"
    threads: Positive | None = None
    max_restarts: Annotated[int, Field(ge=0)] = 3
    hang_timeout_s: Annotated[float, Field(ge=5)] | None = 20.0

    @model_validator(mode="after")
    def _range(self) -> Self:
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers must be [min, max] with min <= max, not {list(self.workers)}")
        return self

    @property
    def least(self) -> int:
        """Ranks that it takes at least."""
        return bounds(self.workers)[0]

    @property
    def most(self) -> int:
        """Ranks that it takes at most."""
        return bounds(self.workers)[1]

    @property
    def elastic(self) -> bool:
        """Whether the number of ranks may change while it runs."""
        return self.most > self.least


class TrackingConfig(Section):
    """Where results go: the MLflow experiment, and the registered model's name (default: the experiment's)."""

    experiment: str = "vitray"
    model: str | None = None

    @property
    def model_name(self) -> str:
        return self.model or self.experiment


class Experiment(Section):
    """One whole experiment, frozen. ``identity`` hashes what decides its result.

    ``name`` names the run's folder; unset, it follows from the config file's name and never collides.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    model: ModelConfig = ModelConfig()
    data: DataConfig
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    cluster: ClusterConfig = ClusterConfig()
    search: SearchConfig | None = None
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _freezes_weights_that_are_there(self) -> Self:
        if self.train.freeze != "none" and self.train.init_from is None:
            raise ValueError(
                f"train.freeze is {self.train.freeze}, but without train.init_from it would keep random weights; "
                "say which weights to begin with, or leave train.freeze unset"
            )
        if (self.train.frozen_blocks or 0) > self.model.depth:
            raise ValueError(
                f"train.freeze is {self.train.freeze}, but model.depth is {self.model.depth}; "
                f"first_{self.model.depth} or all_but_head keep every block"
            )
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """Read YAML, apply ``section.key=value`` overrides, validate.

        Where the model's defaults do not fit together, but a search has values for keys that are left unset, the first
        of these that fit are taken.

        Raises:
            ConfigError: (a ``ValueError``) missing file, bad YAML, unknown key, value out of range.
        """
        from vitray.overrides import load_mapping  # the loader knows this class; imported late to stay one-way

        raw = load_mapping(path, overrides, root=cls)
        try:
            return cls(**raw)
        except ConfigError:
            given, search = raw.get("model") or {}, raw.get("search")
            space = search.get("space") if isinstance(search, dict) else None
            for choice in model_choices(space, given) if isinstance(given, dict) else ():
                with suppress(ConfigError):
                    made = cls(**{**raw, "model": {**given, **choice}})
                    made.model.model_fields_set.difference_update(choice)  # they may change again, for the data's sake
                    return made
            raise

    def with_values(self, values: dict[str, Any]) -> Experiment:
        """A copy with dotted keys replaced, e.g. ``{"model.depth": 6}``, validated anew."""
        from vitray.overrides import assign

        raw = self.model_dump()
        for key, value in values.items():
            assign(raw, key, value, root=type(self))
        made = type(self)(**raw)
        # What was left unset still is: it may have to follow from the data, or from what is searched.
        unset = ModelConfig.model_fields.keys() - self.model.model_fields_set
        made.model.model_fields_set.difference_update(unset - {key.removeprefix("model.") for key in values})
        return made

    def resolve(self, *, image_size: ImageSize | None, in_chans: int, num_classes: int) -> Experiment:
        """Fill in what follows from the data; a conflict with what was set is a :class:`ConfigError`.

        ``image_size`` is the data's uniform size, or None when its images differ (then it must be configured).
        """
        size = self.data.image_size or self.model.image_size or image_size
        if size is None:
            raise ConfigError(
                "the images of this dataset differ in size",
                where="data.image_size",
                remedy="set data.image_size to the side that training should see, for example 224",
            )
        values: dict[str, Any] = {"model.image_size": size, "data.image_size": size}
        for key, found in (("in_chans", in_chans), ("num_classes", num_classes)):
            wanted = getattr(self.model, key)
            if wanted not in (None, found):
                raise ConfigError(
                    f"is {wanted}, but the data has {found}", where=f"model.{key}", remedy="leave it unset"
                )
            values[f"model.{key}"] = found
        if self.model.image_size is not None and sides(self.model.image_size) != sides(size):
            raise ConfigError(
                f"is {self.model.image_size}, but data.image_size is {size}",
                where="model.image_size",
                remedy="set data.image_size alone",
            )
        try:
            return self.with_values(values)
        except ConfigError:
            for choice in model_choices(self.search and self.search.space, self.model.model_fields_set):
                with suppress(ConfigError):
                    return self.with_values(values | {f"model.{name}": value for name, value in choice.items()})
            raise

    @property
    def identity(self) -> str:
        """Hex digest over what decides the result: model, data, training, optimizer, number of workers."""
        parts = self.model_dump(mode="json", include={"model", "data", "train", "optim"})
        parts["workers"] = self.cluster.workers
        for key in FETCHED:
            del parts["data"][key]
        for key in (*KEPT, "init_path"):  # nor does what is kept of it, and where
            del parts["train"][key]
        if (digest := parts["train"].pop("init_sha256")) is not None:  # the same weights by whatever name
            parts["train"]["init_from"] = digest
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.identity)  # the search's space is a dict, which has no hash of its own

    def flat(self) -> dict[str, Any]:
        """Dotted keys and plain values of every section but the search, e.g. ``{"model.depth": 6}``."""
        flat: dict[str, Any] = {}

        def walk(prefix: str, value: Any) -> None:
            if isinstance(value, dict):
                for key, inner in value.items():
                    walk(f"{prefix}.{key}" if prefix else key, inner)
            else:
                flat[prefix] = value

        walk("", self.model_dump(mode="json", exclude={"search"}))
        return flat
