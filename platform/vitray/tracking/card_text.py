"""The description of a model's version, Markdown: what registration fills in, and how it is kept short."""

from __future__ import annotations

VERSION_HERE, RUN_HERE = "{{version}}", "{{run_id}}"  # not known before the version is there
PICTURES = "## Pictures"
LIMIT = 5000  # characters; MLflow's


def filled(markdown: str, version: str, run_id: str) -> str:
    """With the version's number and MLflow's id of its run."""
    return markdown.replace(VERSION_HERE, version).replace(RUN_HERE, run_id)


def cut(text: str) -> str:
    """As much as MLflow takes."""
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"


def without_pictures(markdown: str) -> str:
    """The card for readers that have no MLflow to fetch pictures from."""
    kept = [line for line in markdown.splitlines() if not line.startswith("![") and line != PICTURES]
    return "\n".join(kept) + "\n"
