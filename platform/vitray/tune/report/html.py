"""HTML by construction: whatever is not markup made here is text, and is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Iterable["Child"] | None


def element(name: str, *children: Child, **attributes: str | bool | None) -> Markup:
    """``<name attributes>children</name>``. ``class_`` is class, ``data_x`` is data-x; None leaves an attribute out."""
    said = ""
    for key, value in attributes.items():
        if value is not None and value is not False:
            shown = key.rstrip("_").replace("_", "-")
            said += f" {shown}" if value is True else f' {shown}="{html.escape(str(value))}"'
    return Markup(f"<{name}{said}>{joined(children)}</{name}>")


def joined(children: Child) -> Markup:
    """One piece of markup of many; plain text in it is escaped."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(html.escape(children.encode("utf-8", "replace").decode()))
    return Markup("".join(joined(child) for child in children))


def table(
    headers: Sequence[str], rows: Iterable[Sequence[Child]], *, numbers: Iterable[int] = (), class_: str | None = None
) -> Markup:
    """A table in a box of its own that scrolls sideways. ``numbers``: columns to be set to the right."""
    right = frozenset(numbers)

    def cells(name: str, row: Sequence[Child]) -> list[Markup]:
        kind = {"scope": "col"} if name == "th" else {}
        return [element(name, cell, class_="number" if i in right else None, **kind) for i, cell in enumerate(row)]

    head = element("thead", element("tr", cells("th", headers)))
    body = element("tbody", [element("tr", cells("td", row)) for row in rows])
    return element("div", element("table", head, body, class_=class_), class_="scroll", tabindex="0")
