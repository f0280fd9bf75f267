"""One self-contained HTML page: style sheet, figures and videos are inside, nothing is fetched and no script runs."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from harness.report.figures import FAINT, INK, PALETTE, PAPER, Figure
from harness.report.tables import Number, Table

STYLE = Path(__file__).with_suffix(".css")
OURS = "ours: "  # how headers of such columns begin


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

    @property
    def is_empty(self) -> bool:
        return not (self.tables or self.figures or self.videos)

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def build_page(
    title: str, lead: str, facts: Mapping[str, str], warnings: Sequence[str], sections: Sequence[Section]
) -> str:
    """The page's HTML. `facts` are short names and values at the top; `warnings` say what the numbers are not."""
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
    named = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    limits = f'<aside class="warnings"><h2>What these numbers are not</h2><ul>{items}</ul></aside>' if items else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{STYLE.read_text()}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
<nav aria-label="sections">{links}</nav>
</header>
<main>
<dl class="facts">{named}</dl>
{limits}
{_lines(map(_section, sections))}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    paragraphs = _lines(f"<p>{escape(text)}</p>" for text in section.paragraphs)
    tables = _lines(map(_table, section.tables))
    media = _lines([*map(_figure, section.figures), *map(_video, section.videos)])
    media = f'<div class="figures">\n{media}\n</div>' if media else ""
    return f"""<section id="{section.anchor}">
<h2>{escape(section.title)}</h2>
{paragraphs}
{tables}
{media}
</section>"""


def _table(table: Table) -> str:
    """The table in a box that scrolls sideways, its notes below."""
    columns = [
        _column(name, [row[i] for row in table.rows], is_key=i == table.key) for i, name in enumerate(table.header)
    ]
    columns = [columns[i] for i in _order(table.header, table.key)]
    head, *body = zip(*columns, strict=True)
    rows = (f"<tr{_row_class(row)}>{''.join(cells)}</tr>" for row, cells in zip(table.rows, body, strict=True))
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return f"""<h3>{escape(table.title)}</h3>
<div class="box" role="region" aria-label="{escape(table.title)}" tabindex="0">
<table id="table-{escape(table.name)}">
<thead><tr>{"".join(head)}</tr></thead>
<tbody>
{_lines(rows)}
</tbody>
</table>
</div>
<ul class="notes">{notes}</ul>
<p class="notes">Files: <code>tables/{escape(table.name)}</code> as CSV, Markdown and LaTeX</p>"""


def _order(header: Sequence[str], key: int) -> list[int]:
    """Columns of our runs come first on a screen, then the published ones from the last back to the oldest."""
    ours = [i for i, name in enumerate(header) if name.startswith(OURS)]
    others = [i for i in range(key + 1, len(header)) if i not in ours]
    return [*range(key + 1), *ours, *(reversed(others) if ours else others)]


def _column(name: str, cells: Sequence[str], is_key: bool) -> list[str]:
    """The cells of a column with its header."""
    classes = ["key"] if is_key else []
    classes += ["ours"] if name.startswith(OURS) else []
    classes += ["number"] if any(isinstance(cell, Number) for cell in cells) else []
    classes += ["long"] if any(len(cell) > 60 and " " in cell for cell in cells) else []
    attributes = f' class="{" ".join(classes)}"' if classes else ""
    tag, scope = ("th", ' scope="row"') if is_key else ("td", "")
    column = [f'<th scope="col"{attributes}>{escape(name)}</th>']
    return column + [f"<{tag}{scope}{attributes}>{_marked(cell)}</{tag}>" for cell in cells]


def _marked(cell: str) -> str:
    """What a number lacks, in brackets at its end, goes on a line of its own."""
    text, bracket, mark = cell.partition(" (")
    if isinstance(cell, Number) and bracket:
        return f"{escape(text)}<small> ({escape(mark)}</small>"
    return escape(cell)


def _row_class(row: Sequence[str]) -> str:
    """Marks the first of the rows that sum up the tasks above."""
    return ' class="summary"' if "mean" in row[:2] else ""


def _figure(figure: Figure) -> str:
    (svg,) = (path for path in figure.paths if path.suffix == ".svg")
    kinds = ", ".join(path.suffix[1:].upper() for path in figure.paths)
    return f"""<figure id="{escape(figure.name)}">
<h3>{escape(figure.title)}</h3>
{inline_svg(svg.read_text(), figure.name, figure.title)}
<figcaption>{escape(figure.caption)} Files: <code>figures/{escape(figure.name)}</code> as {kinds}</figcaption>
</figure>"""


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


def _video(video: Video) -> str:
    data = base64.b64encode(video.path.read_bytes()).decode()
    return f"""<figure>
<h3>{escape(video.title)}</h3>
<video controls muted loop playsinline preload="metadata" src="data:video/mp4;base64,{data}"></video>
<figcaption>{escape(video.caption)}</figcaption>
</figure>"""


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(filter(None, parts))
