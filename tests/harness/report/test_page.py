import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.report import figures
from harness.report.cells import Number
from harness.report.page import Section, Video, build_page, inline_svg
from harness.report.table import Table

TABLE = Table(
    "scores",
    "Scores & more",
    ["suite", "game", "random", "DER, published", "MLR, published", "ours: MLR", "ours: <b>"],
    [
        ["atari", "pong", *(Number(text, 0.0) for text in ("1", "2", "3", "4 ± 1 (2 of 3 seeds)", "–"))],
        ["atari", "mean", *(Number(text, 0.0) for text in ("1", "2", "3", "4 [1, 9]", "5"))],
    ],
    ["A note with <script>alert(1)</script>."],
    key=1,
)


class Page(HTMLParser):
    """Elements that were opened and closed in order, and the text of cells by row."""

    VOID = {"meta", "link"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.seen, self.rows = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def attributes(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.seen if name == tag]


def page_of(*sections: Section) -> Page:
    return Page(build_page("A title", "A lead", {"Runs": "2"}, ["No <i>result</i>"], sections))


@pytest.fixture
def figure(tmp_path) -> figures.Figure:
    intervals = {"MLR": {"IQM": (0.4, 0.3, 0.5)}, "Baseline": {"IQM": (0.2, 0.1, 0.3)}}
    paths = figures.draw_intervals(tmp_path, "some_figure", intervals, figures.styles(list(intervals)), "score")
    return figures.Figure("some_figure", "A figure", "What it shows.", paths)


def test_texts_are_escaped():
    page = page_of(Section("Atari", tables=[TABLE]))
    assert not {"script", "b", "i"} & {tag for tag, _ in page.seen}
    assert page.rows[0][3] == "ours: <b>"


def test_our_columns_come_first_and_then_the_newest_published_one():
    page = page_of(Section("Atari", tables=[TABLE]))
    header = ["suite", "game", "ours: MLR", "ours: <b>", "MLR, published", "DER, published", "random"]
    assert page.rows == [
        header,
        ["atari", "pong", "4 ± 1 (2 of 3 seeds)", "–", "3", "2", "1"],
        ["atari", "mean", "4 [1, 9]", "5", "3", "2", "1"],
    ]
    shown = [cell["class"].split() for cell in page.attributes("th") if cell.get("scope") == "col" and "class" in cell]
    assert shown[:2] == [["key"], ["ours", "number"]]
    assert [cell.get("class") for cell in page.attributes("tr")] == [None, None, "summary"]


def test_columns_keep_their_order_without_runs_of_ours():
    names = ["game", "random", "MLR, published"]
    page = page_of(Section("Atari", tables=[Table("x", "X", names, [["pong", "1", "2"]], [])]))
    assert page.rows == [names, ["pong", "1", "2"]]


def test_links_lead_to_sections():
    page = page_of(Section("Learning curves"), Section("Where from?"))
    targets = [attributes["href"] for attributes in page.attributes("a")]
    assert targets == ["#learning-curves", "#where-from"]
    assert [f"#{attributes['id']}" for attributes in page.attributes("section")] == targets


def test_a_figure_is_drawn_inline_in_the_colours_of_the_page(figure):
    page = page_of(Section("Atari", figures=[figure]))
    (svg,) = page.attributes("svg")
    assert svg["aria-label"] == "A figure" and "viewbox" in svg and "height" not in svg
    text = inline_svg(figure.paths[1].read_text(), "some_figure", "A figure")
    used = set(re.findall(r"#[0-9a-f]{6}\b", text))
    assert not used & {figures.INK, figures.FAINT, figures.PAPER, *figures.PALETTE}
    variables = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert {"--ink", "--faint", "--paper", "--series-1", "--series-2"} <= variables
    style = Path(figures.__file__).with_name("page.css").read_text()
    assert all(style.count(f"{variable}:") == 2 for variable in variables)  # in light and in dark


def test_identifiers_of_figures_do_not_meet(figure):
    text = inline_svg(figure.paths[1].read_text(), "some_figure", "A figure")
    defined = set(re.findall(r'\bid="([^"]*)"', text))
    used = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text))
    assert len(used) > 2
    assert {a or b for a, b in used} <= defined
    assert all(name.startswith("some_figure-") for name in defined)


def test_a_video_is_inside_the_page(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"\x00\xff")
    (video,) = page_of(Section("Videos", videos=[Video("boxing", "seed 1", path)])).attributes("video")
    assert video["src"] == "data:video/mp4;base64,AP8="
    assert "autoplay" not in video


def test_an_empty_section_says_so(figure):
    assert Section("Videos", ["Some text."]).is_empty
    assert not Section("Atari", figures=[figure]).is_empty
