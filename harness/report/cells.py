"""Cells of tables: numbers as people read them, with the exact ones behind them for CSV files."""

import math
from decimal import ROUND_HALF_UP, Decimal

from harness.report.statistics import Interval


class Number(str):
    """The text of a cell, with the numbers behind it for the CSV file: `value`, and others by name."""

    columns: dict[str, float | int | str]

    def __new__(cls, text: str, value: float | str = "", **others: float | int | str) -> "Number":
        self = super().__new__(cls, text)
        self.columns = {"": value, **others}
        return self


ABSENT = Number("–")


def score_cell(value: float, std: float | None = None, digits: int = 1, mark: str = "", **others: int) -> Number:
    """A value with its standard deviation; the mark, in brackets, says what it is not over."""
    text = rounded(value, digits) + (f" ± {rounded(std, digits)}" if std is not None else "")
    others |= {} if std is None else {"std": std}
    return _marked(text, mark, value, **others)


def interval_cell(of: Interval, mark: str = "", digits: int = 3) -> Number:
    """A point, with its interval if there is one; the mark as in `score_cell`."""
    point, low, high = of
    if math.isnan(low):
        return score_cell(point, digits=digits, mark=mark)
    text = f"{rounded(point, digits)} [{rounded(low, digits)}, {rounded(high, digits)}]"
    return _marked(text, mark, point, low=low, high=high)


def count_cell(number: int, whole: int | None = None) -> Number:
    if whole in (None, number):
        return Number(str(number), number)
    return Number(f"{number} of {whole}", number, note=f"of {whole}")


def range_cell(least: int, most: int, mark: str = "") -> Number:
    """One number, or the least and the most."""
    text = str(least) if least == most else f"{least} to {most}"
    return _marked(text, mark, text)


def share(number: int, whole: int, what: str) -> str:
    """A mark; empty where nothing is missing."""
    return "" if number == whole else f"{number} of {whole} {what}"


def rounded(value: float, digits: int) -> str:
    """Rounds as a person does: a half goes up, and nothing is minus zero."""
    text = str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    return text.lstrip("-") if float(text) == 0 else text


def _marked(text: str, mark: str, value: float | str, **others: float | int | str) -> Number:
    return Number(f"{text} ({mark})", value, **others, note=mark) if mark else Number(text, value, **others)
