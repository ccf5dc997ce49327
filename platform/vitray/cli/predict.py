"""``vitray predict``: classify images, a few for the eye or any number into a file."""

from __future__ import annotations

from typing import Any

import click

from vitray.cli.options import address_option
from vitray.cli.output import emit, grid, note, output_option
from vitray.errors import DataError

_SHOWN = 10_000  # images for the eye; beyond, a file serves better


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="SOURCE...", type=click.Path())
@click.option("--to", metavar="FILE", type=click.Path(), help="Write to this .parquet, .csv or .jsonl file instead.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Classes to list per image.")
@click.option("--split", metavar="NAME", help="Of a dataset folder [default: test].")
@click.option("--image-column", metavar="NAME", help="Of Parquet files [default: found by type and usual names].")
@click.option("--path-column", metavar="NAME", help="Of listings [default: found by its usual names].")
@click.option("--overwrite", is_flag=True, help="Replace what is at --to, finished or not.")
@click.option(
    "--executor",
    type=click.Choice(["auto", "local", "ray"]),
    default="auto",
    show_default=True,
    help="For --to: threads here, workers on Ray, or what suits the size of the work.",
)
@address_option
@click.option("--device", help="Where the model runs: cpu, cuda, cuda:1, ... [default: cpu; with Ray, GPUs if any].")
@output_option
def predict(model: str, images: tuple[str, ...], to: str | None, top: int, output: str, **options: Any) -> None:
    """Classify images with MODEL.

    MODEL is models:/NAME@alias, models:/NAME/version, or a folder made by `vitray models pull`. A SOURCE is an image
    file; a folder of them, at any depth; a pattern in quotes ('photos/**/*.jpg'); a dataset folder or builtin:digits; a
    Parquet file or a folder of them, with a column of images; tar files, or a listing (.csv) of paths. An image that
    cannot be read is reported, and the others are answered all the same.

    Without --to a table is printed, and the exit code is 2 if an image could not be read. With --to the answers go to a
    file, a row an image in the order of the sources:

    \b
    path         the file, or the row or member of one
    label        the most probable class
    probability  its probability
    top          the most probable classes, with theirs
    truth        the true class, where the source says it
    error        why there is no answer

    A scoring that was stopped or killed goes on when the same command is given again.
    """
    if to is None:
        _refuse_without_file(options)
        _show(model, images, top, output, **options)
        return
    from vitray.cli.predict_file import score_file

    score_file(model, images, to, top, output, **options)


def _refuse_without_file(options: dict[str, Any]) -> None:
    named = {"--overwrite": options.pop("overwrite"), "--address": options.pop("address")}
    named["--executor"] = options.pop("executor") != "auto"
    for option, given in named.items():
        if given:
            raise click.UsageError(f"{option} goes with --to: without it, images are classified here and shown")


def _show(
    model: str,
    images: tuple[str, ...],
    top: int,
    output: str,
    *,
    split: str | None,
    image_column: str | None,
    path_column: str | None,
    device: str | None,
) -> None:
    from vitray.tracking.registry import download

    folder = download(model)  # before importing torch, so that a misspelt name is answered at once
    from vitray.inference.inputs import open_inputs

    inputs = open_inputs(images, split=split, image_column=image_column, path_column=path_column, missing_ok=True)
    chunks = inputs.chunks()
    _refuse_many(sum(chunk.images or 0 for chunk in chunks), images)
    from vitray.inference.batch import BatchScorer
    from vitray.inference.predictor import Predictor
    from vitray.inference.units import cut

    scorer = BatchScorer(Predictor.load(folder, device=device or "cpu"), inputs, top_k=top)
    rows: list[dict[str, Any]] = []
    for unit in cut(chunks, 256):
        rows += scorer.score(unit).to_pylist()
        _refuse_many(len(rows), images)
    answers = [_as_dict(row) for row in rows]
    emit(answers, output, table=lambda: _table(answers, top))
    for line in inputs.notes:
        note(line)
    bad = [answer for answer in answers if answer["error"]]
    for answer in bad:
        note(f"{answer['file']}: {answer['error']}")
    if bad:
        what = f"{len(bad)} of {len(answers)} images could not be classified (see above)"
        raise DataError(what, remedy="give image files that are whole")


def _refuse_many(count: int, images: tuple[str, ...]) -> None:
    if count > _SHOWN:
        what = f"holds {count:,} images, too many to be shown"
        raise DataError(what, where=", ".join(images[:3]), remedy="write the answers to a file: --to scores.parquet")


def _as_dict(row: dict[str, Any]) -> dict[str, Any]:
    known = {"truth": row["truth"]} if row["truth"] is not None else {}
    return {
        "file": row["path"],
        "label": row["label"],
        "probability": row["probability"],
        "top": row["top"] or [],
        **known,
        "error": row["error"],
    }


def _table(answers: list[dict[str, Any]], top: int) -> str:
    rows = []
    for answer in answers:
        if answer["error"]:
            rows.append([answer["file"], "-", "-", f"({answer['error']})"])
        else:
            others = ", ".join(f"{each['label']} {each['probability']:.4f}" for each in answer["top"][1:])
            rows.append([answer["file"], answer["label"], f"{answer['probability']:.4f}", others])
    headers = ["file", "class", "probability", "next"]
    plain = top == 1 and not any(answer["error"] for answer in answers)
    return grid([row[:3] for row in rows], headers[:3]) if plain else grid(rows, headers)
