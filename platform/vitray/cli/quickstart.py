"""``vitray quickstart``: the whole platform on real digits."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitray.cli.options import address_option, overrides_argument
from vitray.cli.output import emit, grid, note, output_option

if TYPE_CHECKING:
    from vitray.inference.predictor import Prediction

_SHOWN = 5


@click.command()
@overrides_argument
@address_option
@output_option
def quickstart(overrides: tuple[str, ...], address: str | None, output: str) -> None:
    """The main job: prepare real digits, sweep small ViTs over them, register the winner, predict with it.

    Everything is kept under $VITRAY_HOME (default: .vitray here). Overrides such as search.trials=8 apply.
    """
    from vitray.cli.sweep import result_table, run_shown, summary
    from vitray.cluster.launch import Prepared
    from vitray.data.samples import write_samples
    from vitray.home import Home

    home = Home.find()
    note(f"state: {home.root}")
    with resources.as_file(resources.files("vitray") / "configs" / "quickstart.yaml") as config:
        prepared = Prepared.load(str(config), overrides)
    data = prepared.data
    counts = ", ".join(f"{split} {data.num_samples(split)}" for split in data.store.manifest.splits)
    note(f"data: {len(data.classes)} classes of real handwritten digits ({counts}) in {data.store.shown}")
    result = run_shown(prepared, home, address)
    files = write_samples(data, "test", home.root / "samples", _SHOWN)
    from vitray.inference.predictor import Predictor

    predictions = Predictor.load(f"models:/{result.winner.model}@champion", home.tracking_uri).predict(files)
    facts = summary(result, home.tracking_uri)
    facts["predictions"] = [
        {"file": str(f), "label": p.label, "probability": p.probability}
        for f, p in zip(files, predictions, strict=True)
    ]
    emit(
        facts,
        output,
        table=lambda: "\n\n".join(
            [result_table(result), _predicted(files, predictions), _next(home.root, files, result.winner.model)]
        ),
    )


def _predicted(files: list[Path], predictions: list[Prediction]) -> str:
    rows = [(f.name, p.label, f"{p.probability:.3f}") for f, p in zip(files, predictions, strict=True)]
    return "five digits that no trial saw (the name says what each is):\n" + grid(
        rows, ("file", "predicted", "probability")
    )


def _next(root: Path, files: list[Path], model: str) -> str:
    folder = _shown(files[0].parent)
    where = f"when run below {root.parent}" if root.name == ".vitray" else f"with VITRAY_HOME={root}"
    return "\n".join(
        [
            "next:",
            "  vitray ui                                        browse the trials, curves and the registry",
            f"  vitray predict models:/{model}@champion {folder}/*.png",
            "  vitray models list                               what is registered",
            "  vitray sweep plan CONFIG                         a sweep of your own, before it costs anything",
            f"(they find this state {where})",
        ]
    )


def _shown(path: Path) -> Any:
    """Relative where that is shorter: it is going to be pasted."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
