"""``vitray predict --to``: refuses what it can before anything is loaded, shows how far it is, prints a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitray.cli.data_prepare import progress_bars
from vitray.cli.output import emit, grid, note
from vitray.cluster.address import check_answers, named_address

if TYPE_CHECKING:
    from vitray.inference.scoring import Scored

_CLASSES_SHOWN = 20


def score_file(
    model: str,
    sources: tuple[str, ...],
    to: str,
    top: int,
    output: str,
    *,
    split: str | None,
    image_column: str | None,
    path_column: str | None,
    overwrite: bool,
    executor: Any,
    address: str | None,
    device: str | None,
) -> None:
    """Score ``sources`` into the file ``to`` and print a summary."""
    if executor == "local" and address:
        raise click.UsageError("--address names a Ray cluster, but --executor local runs without one")
    from vitray.inference.results import check_target

    check_target(to, overwrite=overwrite)
    if executor != "local" and (target := named_address(address)) is not None:
        check_answers(target)
    from vitray.tracking.registry import download

    package = download(model)  # before importing torch, so that a misspelt name is answered at once
    from vitray.cluster.score_file import Job
    from vitray.cluster.score_file import score_file as score
    from vitray.inference.inputs import open_inputs
    from vitray.models.package import read_info

    info, _ = read_info(package)
    inputs = open_inputs(sources, classes=info.classes, split=split, image_column=image_column, path_column=path_column)
    for line in inputs.notes:
        note(line)
    job = Job(model, package, info, inputs, top, executor, address, device)
    workers: list[str] = []

    def tell(text: str) -> None:
        workers.append(text)
        note(f"scoring by {text}")

    with progress_bars() as bars:
        scored = score(
            job,
            to,
            overwrite=overwrite,
            progress=lambda done, total: bars("score", done, total),
            tell=tell,
        )
    if not scored.seconds:
        note(f"{to} was finished already: nothing was left to do (--overwrite makes it anew)")
    elif scored.resumed:
        note(f"{scored.resumed:,} images were there already, from a scoring that was stopped")
    facts = _facts(to, scored, workers[0] if workers else None)
    emit(facts, output, table=lambda: _text(facts))


def _facts(to: str, scored: Scored, workers: str | None) -> dict[str, Any]:
    tally = scored.tally
    return {
        "file": to,
        "images": tally.images,
        "bad": tally.bad,
        "labelled": tally.labelled,
        "accuracy": tally.accuracy,
        "classes": dict(sorted(tally.classes.items(), key=lambda pair: (-pair[1], pair[0]))),
        "resumed": scored.resumed,
        "images_per_s": scored.images_per_s,
        "start_s": scored.start_s,
        "seconds": scored.seconds,
        "workers": workers,
    }


def _text(facts: dict[str, Any]) -> str:
    bad = f", {facts['bad']:,} of them could not be read (see the column error)" if facts["bad"] else ""
    lines = [f"{facts['file']}: {facts['images']:,} images{bad}"]
    if facts["accuracy"] is not None:
        lines.append(f"accuracy {facts['accuracy']:.4f} of the {facts['labelled']:,} whose true class is known")
    if facts["workers"]:
        rate = f", {facts['images_per_s']:,.0f} images/s once started" if facts["images_per_s"] else ""
        lines.append(f"took {facts['seconds']:.1f} s by {facts['workers']}{rate}")
    counts = list(facts["classes"].items())
    rows = [(name, f"{count:,}") for name, count in counts[:_CLASSES_SHOWN]]
    if more := counts[_CLASSES_SHOWN:]:
        rows.append((f"({len(more)} more)", f"{sum(count for _, count in more):,}"))
    return "\n".join(lines) + ("\n\n" + grid(rows, ("class", "images")) if rows else "")
