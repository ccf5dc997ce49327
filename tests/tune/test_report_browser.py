"""The report in a real browser: it opens from a file, asks the network for nothing, and is readable at any width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from written_sweep import searched

from vitray.tune.report import write_report
from vitray.tune.state import SavedSweep

pytestmark = pytest.mark.slow

# Every mark's box, of the charts that are shown.
MARKS = """[...document.querySelectorAll("svg.chart")].filter(s => s.checkVisibility()).map(s => ({
    says: s.getAttribute("aria-label"),
    width: s.getBoundingClientRect().width,
    letters: Math.min(...[...s.querySelectorAll("text")].map(t =>
        parseFloat(getComputedStyle(t).fontSize) * s.getBoundingClientRect().width / s.viewBox.baseVal.width)),
    marks: [...s.querySelectorAll("circle,path,rect,polyline")].map(m => {
        const box = m.getBoundingClientRect();
        return [m.tagName, box.x, box.y, box.width, box.height, getComputedStyle(m).fill, getComputedStyle(m).stroke];
    })
}))"""
# The right ends of all that does not scroll in a box of its own.
ENDS = """[...document.querySelectorAll("body *")]
    .filter(e => e.checkVisibility() && !e.parentElement.closest(".scroll"))
    .map(e => e.getBoundingClientRect().right)"""
COLUMN = """[...document.querySelectorAll("table.sortable tbody tr")].map(r => r.cells[%d].textContent)"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedSweep, Path]:
    saved = searched(tmp_path_factory.mktemp("runs"))
    return saved, write_report(saved)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_it_opens_quietly_and_draws_its_charts(
    report: tuple[SavedSweep, Path], browser: Browser, width: int, dark: bool
) -> None:
    saved, path = report
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(path.as_uri(), width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert max(browser.run(ENDS)) <= width
    # Without "by trial", which is folded; the strips are one a key.
    charts: list[dict[str, Any]] = browser.run(MARKS)
    drawn = {c["says"].split(":")[0].split(" of ")[0]: c for c in charts}
    assert len(charts) == 1 + 2 + 1 + 4 + 3 + 1 + 1
    for chart in charts:
        assert 300 <= chart["width"] <= width
        assert chart["letters"] >= 8.5
        assert all(math.isfinite(v) for m in chart["marks"] for v in m[1:5])
        assert all("rgb" in m[5] or "rgb" in m[6] for m in chart["marks"])
    scored = [r for r in saved.records if r.kind == "search" and r.reports]
    curves = drawn["validation accuracy by epoch"]["marks"]
    assert sum(m[0] == "polyline" and "none" in m[5] and m[3] > 5 and m[4] > 5 for m in curves) == len(scored)
    assert sum(m[0] == "path" for m in curves) == sum(r.status == "stopped" for r in scored)
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == dark
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_an_error_message_is_text_and_the_table_sorts(report: tuple[SavedSweep, Path], browser: Browser) -> None:
    saved, path = report
    browser.open(path.as_uri(), width=1280)
    assert browser.run("document.title") == "digits: sweep report"
    assert "<script>document.title='taken'</script>" in browser.run("document.querySelector('#failures').textContent")
    names = browser.run(COLUMN % 0)
    assert sorted(names) == sorted(r.name for r in saved.records)
    assert names[0] == saved.facts["best"]
    for rising in (True, False):
        browser.run("document.querySelector('#trials th:nth-child(4) button').click()")
        epochs = [int(text) for text in browser.run(COLUMN % 3)]
        assert epochs == sorted(epochs, reverse=not rising)
    for rising in (True, False):  # trials without a score come last either way
        browser.run("document.querySelector('#trials th:nth-child(3) button').click()")
        scores = list(browser.run(COLUMN % 2))
        known = [float(text) for text in scores if text != "-"]
        assert known == sorted(known, reverse=not rising)
        assert scores[len(known) :] == ["-"] * 3
    assert browser.run("document.querySelectorAll('#trials tbody tr').length") == len(saved.records)


def test_a_report_of_hundreds_of_trials_opens_too(tmp_path: Path, browser: Browser) -> None:
    saved = searched(tmp_path, trials=200, status="interrupted", name="many")
    browser.open(write_report(saved).as_uri(), width=400)
    assert browser.run("document.documentElement.scrollWidth") <= 400
    assert browser.run("document.querySelectorAll('#trials tbody tr').length") == 200
    assert "vitray sweep resume many" in browser.run("document.querySelector('header').textContent")
