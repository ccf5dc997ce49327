"""The report as a document: for a sweep in any state it is whole, says what is known, and takes no text for markup."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_sweep import BEGAN, Written, in_full, searched

from vitray.data.decode import decode
from vitray.errors import VitrayError
from vitray.plots.drawing import Box, Dot, Line, Text, drawing
from vitray.plots.scales import scale_for, tick_labels
from vitray.plots.svg import svg
from vitray.tune.report import report_figures, write_report
from vitray.tune.report.html import element, table
from vitray.tune.state import SavedSweep

VOID = {"meta", "link"}
SECTIONS = ["winner", "tradeoff", "importance", "pairs", "curves", "time", "failures", "trials"]


class Parsed(HTMLParser):
    """The text of each section, and all tags that were opened; closing another than the last one fails."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags = Counter[str]()
        self.text: dict[str, str] = {}
        self.links: list[str] = []
        self.ids: list[str] = []
        self._section = "header"
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags[tag] += 1
        self.ids += [known["id"] or ""] if "id" in known else []
        self.links += [value or "" for key, value in attrs if key in ("href", "src")]
        if tag == "section":
            self._section = known["id"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data


def parsed(saved: SavedSweep) -> Parsed:
    return Parsed(write_report(saved).read_text(encoding="utf-8"))


@pytest.mark.slow  # intervals over seeds import scipy
def test_the_answer_comes_first(tmp_path: Path) -> None:
    saved = searched(tmp_path, trials=7)
    page = parsed(saved)
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    best = next(r for r in saved.records if r.name == saved.facts["best"])
    winner = page.text["winner"]
    for said in (best.name, "0.9417", "0.9126 to 0.9616", "360 images that no trial saw", "digits/3", "alias champion"):
        assert said in winner
    repeats = [r.reports[-1]["val/accuracy"] for r in saved.records if r.kind == "repeat"]
    assert f"{sum(repeats) / 3:.4f}" in winner
    assert "3 other seeds" in winner
    assert "worker-hours" in winner
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert page.tags["script"] == 1
    assert "Importance is left out: there are 4 scored trials" in page.text["importance"]


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_a_sweep_that_has_not_ended_says_so(tmp_path: Path, status: str) -> None:
    page = parsed(searched(tmp_path, trials=6, status=status))
    assert status in page.text["header"]
    assert ("vitray sweep resume digits" in page.text["header"]) == (status != "running")
    assert "Leading so far" in page.text["winner"]
    assert "Test accuracy" not in page.text["winner"]
    assert "running" in page.text["trials"]


def test_a_sweep_in_which_nothing_happened_yet_has_a_report_too(tmp_path: Path) -> None:
    page = parsed(Written(tmp_path).finish("interrupted"))
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert "No trial has a score yet." in page.text["winner"]
    assert "No trial failed." in page.text["failures"]


def test_a_sweep_in_which_everything_failed_has_one_too(tmp_path: Path) -> None:
    written = Written(tmp_path)
    for point in written.sweep.plan.points[:10]:
        written.end(written.add(point), "failed", failure="CUDA out of memory", failure_class="oom")
    page = parsed(written.finish("failed"))
    assert "10 trials: out of memory" in page.text["failures"]
    assert "failed (10)" not in page.text["winner"]


def test_failures_are_counted_by_class_with_reason_and_trial(tmp_path: Path) -> None:
    text = write_report(searched(tmp_path, trials=7)).read_text(encoding="utf-8")
    failures = re.search(r'<section id="failures">.*?</section>', text, re.DOTALL)
    assert failures is not None
    page = Parsed(failures[0])
    for said in ("1 trial: out of memory", "trial-0001", "tried to allocate 3.2 GiB", "trial-0003", "trial-0005"):
        assert said in page.text["failures"]
    assert "<script>document.title='taken'</script> is no class & no \"name\"" in page.text["failures"]
    assert page.tags["script"] == 0


HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\x00\ud800'\"&amp;"


def test_no_name_or_message_becomes_markup(tmp_path: Path) -> None:
    written = Written(tmp_path)
    first, second = written.sweep.plan.points[:2]
    index = written.add(first)
    written.train(index, 4)
    written.end(index, "stopped", ended_by=HOSTILE)
    failed = written.add(second)
    written.ledger.append("retry", failed, what=HOSTILE)
    written.end(failed, "failed", failure=HOSTILE, failure_class=HOSTILE)
    tree = parsed(written.finish(best=HOSTILE, model=HOSTILE, alias=HOSTILE, test_accuracy=0.5))
    assert (tree.tags["script"], tree.tags["img"]) == (1, 0)
    assert "<script>alert(1)</script>" in tree.text["failures"]


def test_credentials_in_messages_are_masked(tmp_path: Path) -> None:
    written = Written(tmp_path)
    message = "cannot read s3://key:hunter2@bucket/data"
    written.end(written.add(written.sweep.plan.points[0]), "failed", failure=message, failure_class="code")
    assert "hunter2" not in write_report(written.finish()).read_text(encoding="utf-8")


def test_the_less_loss_the_better(tmp_path: Path) -> None:
    written = Written(tmp_path, metric="val/loss", epochs=12)
    for point in written.sweep.plan.points[:5]:
        index = written.add(point)
        written.train(index, 12)
        written.end(index)
    saved = written.finish()
    best = min((r for r in saved.records), key=lambda r: r.best("val/loss", "min"))
    page = parsed(saved)
    assert best.name in page.text["winner"]
    assert "lower and further left is better" in page.text["tradeoff"]
    order = re.findall(r"trial-\d{4}", page.text["trials"])
    assert order == [r.name for r in sorted(saved.records, key=lambda r: r.best("val/loss", "min"))]


def test_a_grid_is_compared_by_matched_pairs(tmp_path: Path) -> None:
    space = {"model.pos_encoding": ["none", "rope_2d"], "model.patch_size": [1, 2, 4], "train.seed": [0, 1]}

    def score(point: Any) -> float:
        other = 0.1 * point["model.patch_size"] + 0.003 * point["train.seed"]
        return 0.3 + other + 0.05 * (point["model.pos_encoding"] == "rope_2d")

    written = Written(tmp_path / "plan", space=space, algorithm="grid", scheduler="none")
    few = [p for p in written.sweep.plan.points if p["train.seed"] == 0]
    page = parsed(in_full(tmp_path, few, space, score, algorithm="grid"))
    assert "+5.0 [+5.0, +5.0], 3 pairs" in page.text["pairs"]
    assert "Compared with none (3 trials); 3 matched pairs in all." in page.text["pairs"]
    assert "after epoch 3" in page.text["pairs"]


def test_pbt_shows_who_went_on_from_whom(tmp_path: Path) -> None:
    written = Written(tmp_path, scheduler="pbt", space={"optim.lr": {"log": [1e-3, 1e-2]}}, epochs=12)
    for rate in (1e-3, 3e-3):
        index = written.add({"optim.lr": rate})
        written.train(index, 4)
        if index == 0:
            written.ledger.append("change", index, epoch=4, donor=1, point={"optim.lr": 4e-3})
        written.train(index, 12)
        written.end(index)
    saved = written.finish()
    page = write_report(saved).read_text(encoding="utf-8")
    assert "took over another trial&#x27;s weights: trial-0000" in page
    assert "after epoch 4, which 2 of 2 reached: before any took over" in Parsed(page).text["importance"]


def test_latency_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    written = Written(tmp_path)
    for at, point in enumerate(written.sweep.plan.points[:3]):
        index = written.add(point)
        metrics = {"val/accuracy": 0.5 + at / 10, "latency_ms": 2.5 + at}
        written.ledger.append("report", index, at=BEGAN + 5, epoch=40, metrics=metrics)
        written.end(index)
    page = parsed(written.finish())
    assert "latency (ms)" in page.text["tradeoff"]
    assert "Latency was not measured" not in page.text["tradeoff"]
    assert "latency 4.5 ms" in page.text["winner"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    saved = searched(tmp_path, trials=4)
    path = write_report(saved)
    before = path.read_bytes()
    blocked = path / "below-a-file.html"
    with pytest.raises(VitrayError, match="cannot be written"):
        write_report(saved, blocked)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_the_same_charts_are_pictures(tmp_path: Path) -> None:
    saved = searched(tmp_path, trials=20)
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "old.png").write_bytes(b"")
    assert report_figures(saved, folder) == folder
    names = {path.stem for path in folder.iterdir()}
    assert names >= {"score_by_gflops", "score_by_parameters", "importance", "compare_pos_encoding"}
    assert names >= {"compare_patch_size", "learning_curves", "time_by_outcome", "time_by_trial"}
    assert "old" not in names
    for path in folder.iterdir():
        image = decode(path.read_bytes(), 3)
        assert image.shape[1] == 1760
        assert len(set(map(tuple, image[:, ::40].reshape(-1, 3).tolist()))) > 10
    nothing = Written(tmp_path, "nothing").finish("interrupted")
    assert list(report_figures(nothing, tmp_path / "none").iterdir()) == []


@settings(max_examples=40)
@given(st.text(), st.text())
def test_text_stays_text(text: str, value: str) -> None:
    markup = element("p", text, element("b", value, title=value), class_=text)
    tree = Parsed(table(("a",), [[markup]]))
    assert tree.tags == {"div": 1, "table": 1, "thead": 1, "tbody": 1, "tr": 2, "th": 1, "td": 1, "p": 1, "b": 1}
    marks = (
        Text(1, 2, text),
        Line(((0, 0), (1, 1)), "grid", value),
        Box(0, 0, 1, 1, "bar", value),
        Dot(1, 1, 2, "done"),
    )
    tree = Parsed(svg(drawing(10, 10, value, marks)))
    assert set(tree.tags) <= {"svg", "text", "polyline", "rect", "circle", "title"}


@settings(max_examples=60)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5), st.booleans(), st.integers(3, 12))
def test_a_scale_holds_its_values_and_its_ticks_tell_them_apart(values: list[float], log: bool, most: int) -> None:
    values = [round(abs(v) + 1e-3, 6) for v in values] if log else [round(v, 6) for v in values]
    scale = scale_for(values, 10, 400, log=log)
    assert all(10 <= scale(v) <= 400 for v in values)
    ticks = scale.ticks(most)
    assert len(ticks) <= most + 2
    assert all(9.99 <= scale(t) <= 400.01 for t in ticks)
    spread = max(values) - min(values)
    if spread > 1e-2 * max(map(abs, values)):
        labels = tick_labels(ticks)
        assert len(set(labels)) == len(ticks) >= 1


def test_the_answer_of_several_objectives_is_a_front(tmp_path: Path) -> None:
    space = {"model.depth": [1, 2, 4], "model.patch_size": [2, 4]}
    scores = {(1, 4): 0.5, (2, 4): 0.7, (4, 4): 0.6, (1, 2): 0.65, (2, 2): 0.8, (4, 2): 0.9}
    points = [{"model.depth": d, "model.patch_size": p} for d, p in scores]
    objectives = {"algorithm": "nsga2", "objectives": ["val/accuracy", "parameters"]}
    saved = in_full(
        tmp_path, points, space, lambda p: scores[p["model.depth"], p["model.patch_size"]], trials=6, **objectives
    )
    page = write_report(saved).read_text(encoding="utf-8")
    front = re.search(r"<h3>The front</h3>.*?</table>", page, re.DOTALL)
    assert front is not None
    # A patch of 2 x 2 pixels has a smaller embedding than one of 4 x 4, and here it is better at every depth.
    names = [saved.records[i].name for i, (_, patch) in enumerate(scores) if patch == 2]
    assert sorted(re.findall(r"trial-\d{4}", front[0])) == sorted(names)
    assert "nsga2 trades off val/accuracy and parameters" in front[0]


def test_with_few_trials_it_says_what_cannot_be_told(tmp_path: Path) -> None:
    page = parsed(searched(tmp_path, trials=7))
    assert "model.pos_encoding" in page.text["pairs"]
    assert "too few trials" in page.text["pairs"]
    assert "adjusted" not in page.text["pairs"]
