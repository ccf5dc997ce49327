"""What an experiment is: the frozen, validated, hashable description that every other part reads.

Imports neither Ray, torch nor MLflow, so that a config is checked in milliseconds. Anything that the data decides
(image size, channels, classes) may stay unset here and is filled in by :meth:`Experiment.resolve`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vitray.augment_config import AugmentConfig
from vitray.config_base import Section
from vitray.errors import ConfigError, nearest

PosEncoding = Literal["none", "learned", "sinusoidal", "sinusoidal_2d", "relative", "rope_2d"]
Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
ImageSize = Positive | tuple[Positive, Positive]


def divisors(n: int) -> list[int]:
    """In rising order."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def _sides(size: ImageSize) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _closest(value: int, valid: Sequence[int]) -> str:
    below = [v for v in valid if v < value][-1:]
    above = [v for v in valid if v > value][:1]
    return " or ".join(str(v) for v in below + above)


# Width, depth and heads by name: timm's for the vit_ family, and small ones for images of a few hundred pixels.
PRESETS: dict[str, tuple[int, int, int]] = {
    "vit_nano": (64, 4, 4),
    "vit_micro": (128, 6, 4),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}


class ModelConfig(Section):
    """A Vision Transformer's shape. Sizes in pixels; ``image_size`` is a side or (height, width)."""

    image_size: ImageSize | None = None
    patch_size: Positive = 16
    in_chans: Positive | None = None
    num_classes: Positive | None = None
    embed_dim: Positive = 192
    depth: Positive = 12
    num_heads: Positive = 3
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    pos_encoding: PosEncoding = "learned"
    attention: Literal["full", "axial"] = "full"
    pool: Literal["cls", "mean"] = "cls"
    patch_embed: Literal["conv", "linear"] = "conv"
    dropout: Probability = 0.0
    attn_dropout: Probability = 0.0
    drop_path: Probability = 0.0
    registers: Annotated[int, Field(ge=0)] = 0
    layer_scale: Annotated[float, Field(gt=0)] | None = None
    qk_norm: bool = False

    @classmethod
    def preset(cls, name: str, *, patch_size: int = 16, **changes: Any) -> ModelConfig:
        """A model of a known size, e.g. ``ModelConfig.preset("vit_base", patch_size=32, pool="mean")``.

        Raises:
            ConfigError: no such preset, or a change that does not fit.
        """
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}", where="model", remedy=nearest(name, PRESETS))
        embed_dim, depth, num_heads = PRESETS[name]
        size = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
        return cls(**size | {"patch_size": patch_size} | changes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width); the model must be resolved."""
        assert self.image_size is not None, "image_size is filled in by Experiment.resolve"
        return _sides(self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.embed_dim % self.num_heads:
            heads = divisors(self.embed_dim)
            if self.pos_encoding == "rope_2d":
                heads = [h for h in heads if self.embed_dim // h % 4 == 0] or heads
            raise ValueError(
                f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}; "
                f"nearest that do: {_closest(self.num_heads, heads)}"
            )
        if self.image_size is not None:
            for side in set(self.size):
                if side % self.patch_size:
                    common = [d for d in divisors(self.size[0]) if self.size[1] % d == 0]
                    raise ValueError(
                        f"patch_size {self.patch_size} does not divide image_size {side}; "
                        f"nearest that do: {_closest(self.patch_size, common)}"
                    )
        width, head = self.embed_dim, self.embed_dim // self.num_heads
        if self.pos_encoding == "rope_2d" and head % 4:
            fit = [h for h in divisors(width) if width // h % 4 == 0]
            advice = f"num_heads that fit: {', '.join(map(str, fit))}" if fit else self._widths(4 * self.num_heads)
            raise ValueError(
                f"rope_2d rotates pairs on two axes, so embed_dim / num_heads must be a multiple of 4, not {head}; "
                f"{advice}"
            )
        if self.pos_encoding == "sinusoidal_2d" and width % 4:
            raise ValueError(
                f"sinusoidal_2d gives each axis sines and cosines, so embed_dim must be a multiple of 4, not {width}; "
                f"{self._widths(math.lcm(4, self.num_heads))}"
            )
        if self.pos_encoding == "sinusoidal" and width % 2:
            raise ValueError(
                f"sinusoidal pairs sines with cosines, so embed_dim must be even, not {width}; "
                f"{self._widths(math.lcm(2, self.num_heads))}"
            )
        return self

    def _widths(self, multiple: int) -> str:
        low = self.embed_dim // multiple * multiple
        return f"embed_dim that fit: {' or '.join(str(v) for v in (low, low + multiple) if v)}"


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
    CutMix with probability ``switch_prob``, else MixUp.
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
    checkpoint_steps: Positive | None = None
    keep_checkpoints: Positive = 2
    init_from: str | None = None


class OptimConfig(Section):
    """AdamW with linear warm-up and a cosine down to ``min_lr_ratio * lr``."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.0
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01


class ClusterConfig(Section):
    """What a run takes: ranks, and on what. ``workers`` may be [min, max]."""

    workers: Positive | tuple[Positive, Positive] = 1
    use_gpu: bool | Literal["auto"] = "auto"
    threads: Positive | None = None
    max_restarts: Annotated[int, Field(ge=0)] = 3

    @model_validator(mode="after")
    def _range(self) -> Self:
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers must be [min, max] with min <= max, not {list(self.workers)}")
        return self


class SearchConfig(Section):
    """A sweep: the space, how it is searched, and what counts as best."""

    space: dict[str, Any]
    trials: Positive = 16
    algorithm: Literal["grid", "random"] = "random"
    scheduler: Literal["none", "asha"] = "asha"
    grace_epochs: Positive = 5
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    metric: Literal["val/accuracy", "val/loss", "train/loss"] = "val/accuracy"
    mode: Literal["max", "min"] = "max"
    seed: Annotated[int, Field(ge=0)] = 0
    concurrent: Positive | Literal["auto"] = "auto"
    retrain: bool = True
    retrain_epochs: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _less_loss_is_better(cls, values: Any) -> Any:
        if isinstance(values, dict) and "mode" not in values and str(values.get("metric")).endswith("loss"):
            return {**values, "mode": "min"}
        return values


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

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """Read YAML, apply ``section.key=value`` overrides, validate.

        Raises:
            ConfigError: (a ``ValueError``) missing file, bad YAML, unknown key, value out of range.
        """
        from vitray.overrides import load_mapping  # the loader knows this class; imported late to stay one-way

        return cls(**load_mapping(path, overrides, root=cls))

    def with_values(self, values: dict[str, Any]) -> Experiment:
        """A copy with dotted keys replaced, e.g. ``{"model.depth": 6}``, validated anew."""
        from vitray.overrides import assign

        raw = self.model_dump()
        for key, value in values.items():
            assign(raw, key, value, root=type(self))
        return type(self)(**raw)

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
        if self.model.image_size is not None and _sides(self.model.image_size) != _sides(size):
            raise ConfigError(
                f"is {self.model.image_size}, but data.image_size is {size}",
                where="model.image_size",
                remedy="set data.image_size alone",
            )
        return self.with_values(values)

    @property
    def identity(self) -> str:
        """Hex digest over what decides the result: model, data, training, optimizer, number of workers."""
        parts = self.model_dump(mode="json", include={"model", "data", "train", "optim"})
        parts["workers"] = self.cluster.workers
        for key in ("cache", "cache_bytes", "verify", "workers", "prefetch"):
            # How the bytes are fetched never changes what is learned.
            del parts["data"][key]
        for key in ("checkpoint_steps", "keep_checkpoints"):  # nor does what is kept of it
            del parts["train"][key]
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
