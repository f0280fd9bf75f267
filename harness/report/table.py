"""A table as Markdown, CSV, LaTeX, and text for a terminal."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

from harness.report.cells import Number

OURS, YOURS = "ours: ", "yours: "  # beginnings of columns and rows of one's own
PAGE_ROWS = 45  # rows of one LaTeX table
WIDEST = 40  # letters of a cell in a terminal
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "–": "--",
    "<": r"$<$", ">": r"$>$", "[": "{[}", "]": "{]}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Cells are text; notes are sentences that belong below the table."""

    name: str  # file name without suffix
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    key: int = 0  # the column that names a row
    is_folded: bool = False  # shown on the page after a click

    def write(self, folder: Path) -> list[Path]:
        """Writes the table in each form; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {f"{self.name}.csv": self.csv(), f"{self.name}.md": self.markdown(), f"{self.name}.tex": self.latex()}
        for name, text in texts.items():
            (folder / name).write_text(text)
        return [folder / name for name in texts]

    def markdown(self) -> str:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in self._lines()]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        lines.insert(1, "|" + "|".join("---:" if self._is_numeric(i) else "---" for i in range(len(self.header))) + "|")
        return "\n".join([f"### {self.title}", "", *lines, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"

    def csv(self) -> str:
        """Unrounded numbers; a column whose cells hold several of them becomes several columns."""
        kinds = [
            list(dict.fromkeys(kind for row in self.rows for kind in getattr(row[i], "columns", {"": ""}))) or [""]
            for i in range(len(self.header))
        ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            f"{name} {kind}".strip() for name, column in zip(self.header, kinds, strict=True) for kind in column
        )
        for row in self.rows:
            values = [getattr(cell, "columns", {"": cell}) for cell in row]
            writer.writerow(value.get(kind, "") for value, column in zip(values, kinds, strict=True) for kind in column)
        return text.getvalue()

    def latex(self) -> str:
        """Floats of a page at most, shrunk to the page's width if they are wider; they need the package graphicx."""
        kinds = "".join("r" if self._is_numeric(i) else "l" for i in range(len(self.header)))
        stacked = len(kinds) > 8  # cells of several lines keep columns narrow
        header, *rows = (
            " & ".join(_latex_cell(cell, kind, stacked) for cell, kind in zip(row, kinds, strict=True)) + r" \\"
            for row in self._lines()
        )
        floats = []
        for start in range(0, max(1, len(rows)), PAGE_ROWS):
            is_last = start + PAGE_ROWS >= len(rows)
            notes = " ".join(map(_latex, self.notes if is_last else ["Continued below."]))
            floats += [
                r"\begin{table*}[t]",
                r"\centering",
                rf"\caption{{{_latex(self.title)}{', continued' if start else ''}}}",
                rf"\label{{tab:{self.name}{f'-{start}' if start else ''}}}\par\smallskip",
                r"\small",
                r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{kinds}}}",
                r"\hline",
                header,
                r"\hline",
                *rows[start : start + PAGE_ROWS],
                r"\hline",
                r"\end{tabular}}",
                rf"\par\smallskip\parbox{{\textwidth}}{{\footnotesize {notes}}}",
                r"\end{table*}",
                "",
            ]
        return "\n".join(floats)

    def terminal(self) -> str:
        """Aligned columns with long cells in several lines, without those that a narrow window has no room for."""
        mean = self.header.index("mean") if "mean" in self.header else None
        columns = [*range(mean - 1), mean] if mean else range(len(self.header))
        cells = ([wrap(row[i], WIDEST, break_on_hyphens=False) for i in columns] for row in self._lines())
        lines = [line for row in cells for line in zip_longest(*row, fillvalue="")]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, *texts, ""])

    def _lines(self) -> list[list[str]]:
        return [self.header, *self.rows]

    def _is_numeric(self, column: int) -> bool:
        return any(isinstance(row[column], Number) for row in self.rows)


def is_own(row: Sequence[str]) -> bool:
    """Tells whether a row is of a method of ours or of the user's."""
    return row[1].startswith((OURS, YOURS))


def _latex_cell(text: str, side: str, stacked: bool) -> str:
    parts = re.split(r"(?<=[,:]) (?=[^\d-])| (?=[\[(]|over |of game)", text) if stacked else [text]
    first, *others = map(_latex, parts)
    lines = "".join(rf" \\ {other}" for other in others)
    return rf"\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}{first}{lines}\end{{tabular}}" if others else first


def _latex(text: str) -> str:
    escaped = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.-])-(?=[\d.])", "$-$", escaped)
