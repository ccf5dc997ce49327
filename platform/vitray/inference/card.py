"""The card of a model, in Markdown: what it is, how good, what it was trained on and how, what it is for, how to load.

MLflow shows it on the version's page and on the run's, with the run's own pictures in it. Mitchell et al. 2019, "Model
Cards for Model Reporting", say what belongs into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from vitray.augment_config import AugmentConfig
from vitray.data.images import ShardedImages
from vitray.experiment import Experiment
from vitray.inference.score import Score
from vitray.model_size import count_parameters, flops
from vitray.tracking.card_text import PICTURES, RUN_HERE, VERSION_HERE
from vitray.train.intervals import wilson

_MOST_CLASSES = 12  # rows of the table; with more classes, the worst ones


@dataclass(frozen=True)
class Card:
    """What a card says.

    Args:
        name: of the registered model.
        score: on the test split.
        validation: how the model was chosen, in words.
        lineage: (what, which), e.g. ("sweep", "first").
        pictures: (caption, path among the run's artifacts).
    """

    name: str
    experiment: Experiment
    data: ShardedImages
    score: Score
    validation: str
    lineage: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[tuple[str, str]] = ()

    def markdown(self) -> str:
        """The card; below 5,000 characters however many classes there are."""
        parts = [
            self._summary(),
            "## Results\n" + self._results(),
            *([f"{PICTURES}\n" + self._pictures()] if self.pictures else []),
            "## Model\n" + self._model(),
            "## Data\n" + self._data(),
            "## Recipe\n" + self._recipe(),
            "## Use\n" + self._use(),
            "## Lineage\n" + "\n".join(f"- {what}: {which}" for what, which in self.lineage.items()),
        ]
        return "\n\n".join(parts) + "\n"

    def _summary(self) -> str:
        model, (low, high) = self.experiment.model, self.score.interval
        return (
            f"Vision Transformer, patch {model.patch_size}, depth {model.depth}, {model.num_heads} heads, "
            f"width {model.embed_dim}, positions {model.pos_encoding}. Test accuracy **{self.score.accuracy:.4f}** "
            f"(95 % interval {low:.3f} to {high:.3f}, {self.score.samples} images)."
        )

    def _results(self) -> str:
        score, totals = self.score, self.score.confusion.sum(axis=1)
        shown = sorted(score.per_class.items(), key=lambda item: item[1])
        head = "Each class" if len(shown) <= _MOST_CLASSES else f"The {_MOST_CLASSES} worst of {len(shown)} classes"
        counts = dict(zip(score.classes, totals.tolist(), strict=True))
        rows = []
        for name, share in shown[:_MOST_CLASSES]:
            cells = (_cell(name), f"{share:.3f}", _interval(share, counts[name]), counts[name], self._taken_for(name))
            rows.append("| " + " | ".join(map(str, cells)) + " |")
        table = "| class | accuracy | 95 % interval | images | taken most for |\n|---|---|---|---|---|\n"
        return f"Chosen by validation: {self.validation}.\n\n{head}:\n\n{table}" + "\n".join(rows)

    def _taken_for(self, name: str) -> str:
        """What a class is confused with most often."""
        row = self.score.confusion[self.score.classes.index(name)].copy()
        row[self.score.classes.index(name)] = 0
        most = int(row.argmax())
        return f"{_cell(self.score.classes[most])} ({row[most]})" if row[most] else ""

    def _pictures(self) -> str:
        """From the server that shows the card: its own address of a run's artifact."""
        address = f"get-artifact?run_uuid={RUN_HERE}&path="
        return "\n".join(f"![{caption}]({address}{quote(path, safe='')})" for caption, path in self.pictures)

    def _model(self) -> str:
        model = self.experiment.model
        size = model.image_size if isinstance(model.image_size, int) else "x".join(map(str, model.image_size or ()))
        return (
            f"- input: {size} px, {model.in_chans} channel{'s' if model.in_chans != 1 else ''}\n"
            f"- {count_parameters(model):,} parameters, {flops(model).forward / 1e9:.3g} GFLOP an image\n"
            f"- attention {model.attention}, pool {model.pool}, mlp ratio {model.mlp_ratio:g}"
        )

    def _data(self) -> str:
        manifest = self.data.store.manifest
        rows = ", ".join(f"{name} {split.rows:,}" for name, split in manifest.splits.items())
        return (
            f"- {_cell(self.data.store.shown)}, prepared from {_cell(manifest.source)}\n"
            f"- images: {rows}; {len(manifest.classes)} classes\n"
            f"- fingerprint `{self.data.fingerprint}`"
        )

    def _recipe(self) -> str:
        train, optim = self.experiment.train, self.experiment.optim
        begun = f"\n- begun with {_cell(train.init_from)}" if train.init_from else ""
        usual, augments = AugmentConfig(), self.experiment.data.augment
        changed = {name: value for name, value in augments if value != getattr(usual, name)}
        augment = ", ".join(f"{name} {value}" for name, value in changed.items()) or "none"
        return (
            f"- trained on {train.split}, {train.epochs} epochs, global batch {train.global_batch}, seed {train.seed}\n"
            f"- AdamW, learning rate {optim.lr:g}, weight decay {optim.weight_decay:g}\n"
            f"- augmentation: {augment}; mixup {train.mixup:g}, label smoothing {train.label_smoothing:g}{begun}"
        )

    def _use(self) -> str:
        return (
            f"For images of the kind it was trained on. Whatever it is shown, it answers with one of its "
            f"{len(self.score.classes)} classes, so other images get a wrong answer, not none; how far its "
            f"probabilities can be trusted, `vitray evaluate` says.\n\n"
            "```python\n"
            "from vitray.inference import Predictor\n"
            f'Predictor.load("models:/{self.name}/{VERSION_HERE}").predict(["image.png"])\n\n'
            "import mlflow\n"
            f'mlflow.pyfunc.load_model("models:/{self.name}/{VERSION_HERE}").predict(["image.png"])\n'
            "```"
        )


def _interval(share: float, count: int) -> str:
    low, high = wilson(share, count)
    return f"{low:.3f} to {high:.3f}"


def _cell(text: object) -> str:
    """Names may hold what Markdown would take for its own, or HTML."""
    shown = str(text)[:60]
    for mark in "\\`*_[]<>|#":
        shown = shown.replace(mark, f"\\{mark}")
    return shown.replace("\n", " ")
