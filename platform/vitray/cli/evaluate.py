"""``vitray evaluate``: how good a model is on a dataset, how well it knows how good, and at which image sizes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from vitray.cli.output import emit, note, output_option
from vitray.errors import VitrayError
from vitray.masking import public

if TYPE_CHECKING:
    from vitray.home import Home
    from vitray.inference.evaluation import Evaluation

_DELIVERY_S = 15.0  # the result is printed, and what a server that is away does not take is sent later
_LOOSE = "evaluations"  # MLflow experiment of models that are folders


class _Size(click.ParamType):
    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", str(value))
        if found is None:
            self.fail(f"{value!r} is no size: give N, or HEIGHTxWIDTH, in pixels", param, ctx)
        return int(found[1]), int(found[2] or found[1])


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--split", default="test", show_default=True)
@click.option("--size", "sizes", multiple=True, type=_Size(), help="Evaluate at this image size, too (repeatable).")
@click.option("--batch", default=256, show_default=True, type=click.IntRange(min=1), help="Images a forward pass.")
@click.option("--device", default="cpu", show_default=True, help="Where the model runs: cpu, cuda, cuda:1, ...")
@click.option(
    "--top-k", default=5, show_default=True, type=click.IntRange(min=2), help="For top-k accuracy, if more classes."
)
@click.option("--no-log", is_flag=True, help="Do not log the evaluation to MLflow.")
@output_option
def evaluate(
    model: str,
    data: str,
    split: str,
    sizes: tuple[tuple[int, int], ...],
    batch: int,
    device: str,
    top_k: int,
    no_log: bool,
    output: str,
) -> None:
    """Measure MODEL on a split of the dataset DATA.

    MODEL is models:/NAME@alias, models:/NAME/version, or a folder made by `vitray models pull`; DATA a dataset folder
    or URI, or builtin:digits. Every image counts once. Printed are accuracy (95 % Wilson intervals) in all and by
    class, which classes are taken for which, and calibration: NLL in nats, Brier score (summed over the classes, 0 to
    2) and ECE over 15 bins of equal width (Guo et al. 2017).

    At another --size the model's positions are interpolated to the larger or smaller grid of patches.

    The evaluation is a run in MLflow, with pictures; the same one again is the same run.
    """
    from vitray.home import Home
    from vitray.tracking.registry import download, is_model_uri, resolve

    home = Home.find()
    version = resolve(home.tracking_uri, model) if is_model_uri(model) else None
    package = download(model if version is None else version.uri, tracking_uri=home.tracking_uri)
    from vitray.data.images import ShardedImages

    images = ShardedImages.open(data)
    images.order(split, global_batch=1)  # a split that is not there is said before torch is imported
    from vitray.inference.evaluation import Evaluation
    from vitray.inference.predictor import Predictor
    from vitray.inference.score import check_match, check_size, score_model
    from vitray.inference.scoring import digest_of

    predictor = Predictor.load(package, device=device)
    info = predictor.info
    others = [size for size in dict.fromkeys(sizes) if size != info.model.size]
    check_match(info, images)
    for size in others:
        check_size(size, info)
    scores = [
        score_model(predictor.model, info, images, split, device, size=size, batch=batch)
        for size in (info.model.size, *others)
    ]
    found = Evaluation(
        model,
        version.uri if version else None,
        digest_of(package),
        images,
        scores[0],
        scores[1:],
        top_k if len(images.classes) > top_k else None,
    )
    from vitray.cli.evaluate_text import text

    facts = found.as_json() | {"data": public(data), "run": None if no_log else found.key}
    emit(facts, output, table=lambda: text(found))
    if not no_log:
        _log(found, home, version.name if version else _LOOSE)


def _log(found: Evaluation, home: Home, experiment: str) -> None:
    """Whatever goes wrong here, the result is printed already."""
    import tempfile
    from pathlib import Path

    from vitray.cluster.launch import tracking
    from vitray.plots.confusion import confusion_matrix
    from vitray.plots.figure import save
    from vitray.plots.reliability import reliability_diagram

    score = found.score
    bins = score.reliability
    assert bins is not None
    with tempfile.TemporaryDirectory(prefix="vitray-") as folder:
        title = found.name
        save(confusion_matrix(score.confusion, score.classes, title=title), Path(folder) / "confusion_matrix.png")
        diagram = reliability_diagram(bins.edges, bins.counts, bins.accuracy, bins.confidence, title=title)
        save(diagram, Path(folder) / "reliability.png")
        try:
            with tracking(home, experiment, delivery_s=0.0) as tracker:
                found.log(tracker, experiment, Path(folder))
                delivered = tracker.flush(_DELIVERY_S)
        except VitrayError as error:
            note(f"not logged: {error}")
            return
    if delivered:
        note(f"logged with pictures: run {found.name!r} of the experiment {experiment!r}; see it with: vitray ui")
