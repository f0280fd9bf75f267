"""One self-contained HTML page: style sheet, figures and videos are inside, nothing is fetched and no script runs."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment
from markupsafe import Markup, escape

from harness.report.cells import ABSENT, Number
from harness.report.figures import FAINT, INK, PALETTE, PAPER, Figure
from harness.report.table import OURS, Table, is_own

TEMPLATE, STYLE = (Path(__file__).with_suffix(suffix) for suffix in (".html.jinja", ".css"))


@dataclass(frozen=True)
class Video:
    title: str
    caption: str
    path: Path  # MP4


@dataclass(frozen=True)
class Section:
    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    videos: Sequence[Video] = ()
    is_folded: bool = False  # shown after a click

    @property
    def is_empty(self) -> bool:
        return not (self.tables or self.figures or self.videos)

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


class Column(NamedTuple):
    index: int  # in the table's rows
    name: str
    is_key: bool
    attributes: Markup


def build_page(
    title: str, lead: str, facts: Mapping[str, str], warnings: Sequence[str], sections: Sequence[Section]
) -> str:
    """The page's HTML. `facts` are short names and values at the top; `warnings` say what the numbers are not."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.tests["own"] = is_own
    environment.filters |= {"columns": _columns, "parts": _parts, "marked": _marked, "drawing": _drawing, "data": _data}
    template = environment.from_string(TEMPLATE.read_text())
    contents = {"title": title, "lead": lead, "facts": facts, "warnings": warnings, "sections": sections}
    return template.render(contents, style=Markup(STYLE.read_text()))


def _columns(table: Table) -> list[Column]:
    """Columns of our runs come first on a screen, then the published ones from the last back to the oldest."""
    columns = [_column(table, i) for i in range(len(table.header))]
    ours = [column for column in columns if column.name.startswith(OURS)]
    others = [column for column in columns[table.key + 1 :] if column not in ours]
    return [*columns[: table.key + 1], *ours, *(reversed(others) if ours else others)]


def _parts(table: Table) -> list[tuple[str, list[list[str]]]]:
    """Rows that are shown, and folded ones under a title: those without a run of ours where others have one."""
    if table.is_folded:
        return [(f"{len(table.rows)} published rows", table.rows)]
    ours = [index for index, name in enumerate(table.header) if name.startswith(OURS)]
    empty = [row for row in table.rows if ours and all(row[index] is ABSENT for index in ours)]
    shown = [row for row in table.rows if row not in empty]
    return [("", shown), (f"{len(empty)} rows without runs of ours", empty)] if empty else [("", shown)]


def _column(table: Table, index: int) -> Column:
    name, cells, is_key = table.header[index], [row[index] for row in table.rows], index == table.key
    classes = ["key"] if is_key else []
    classes += ["ours"] if name.startswith(OURS) else []
    classes += ["number"] if any(isinstance(cell, Number) for cell in cells) else []
    classes += ["long"] if any(len(cell) > 60 and " " in cell for cell in cells) else []
    return Column(index, name, is_key, Markup(f' class="{" ".join(classes)}"' if classes else ""))


def _marked(cell: str) -> Markup:
    """The cell; a number's mark, in brackets at its end, is on a line of its own."""
    text, bracket, mark = cell.partition(" (")
    if isinstance(cell, Number) and bracket:
        return escape(text) + Markup("<small> (") + mark + Markup("</small>")
    return escape(cell)


def _drawing(figure: Figure) -> Markup:
    (svg,) = (path for path in figure.paths if path.suffix == ".svg")
    return Markup(inline_svg(svg.read_text(), figure.name, figure.title))


def _data(video: Video) -> str:
    return base64.b64encode(video.path.read_bytes()).decode()


def inline_svg(svg: str, name: str, label: str) -> str:
    """The `svg` element of a figure's file as part of a page that gives it its colours.

    Its identifiers get `name` in front, because those of several figures meet on one page.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="[^"]*"', _fluid, svg, count=1)
    for colour, variable in {INK: "ink", FAINT: "faint", PAPER: "paper"}.items():
        svg = svg.replace(colour, f"var(--{variable})")
    for i, colour in enumerate(PALETTE, 1):
        svg = svg.replace(colour, f"var(--series-{i})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def _fluid(match: re.Match) -> str:
    """The drawn width as the largest one, a bit enlarged for the screen."""
    return f'{match[1]} style="max-width: {float(match[2]) * 1.15:.0f}pt"'
