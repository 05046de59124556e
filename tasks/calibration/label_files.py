"""People's ratings as tables, read without guessing."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from tasks.calibration.ratings import Rating, Skipped, latest_of, read_rating

_COLUMNS = ("edit_id", "rater", "score", "rated_at")
_DELIMITERS = ",;\t"
_SEPARATOR_LINE = re.compile(r"sep=([,;\t])\r?\n", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+([.,][0-9]+)?([eE][0-9]+)?")
_FORMULA_STARTS = "=+-@\t\r\n＝＋－＠'"


def read_csv(text: str) -> tuple[list[Rating], list[Skipped]]:
    """Read a table with the columns edit_id, rater, score and perhaps rated_at; others are ignored.

    It may be separated by commas, semicolons or tabs, quoted or not, with a byte order mark or a "sep=" line. Of two
    ratings of an edit by one person the later counts, see `keep_latest`.

    Raises: ValueError where it is no such table: a column missing or there twice, or not readable at all.
    """
    text = text.removeprefix("\ufeff")
    before_header = 0
    if marked := _SEPARATOR_LINE.match(text):
        delimiter, text, before_header = marked[1], text[marked.end() :], 1
    else:
        delimiter = max(_DELIMITERS, key=text.lstrip().partition("\n")[0].count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    found: list[tuple[str, Rating]] = []
    skipped: list[Skipped] = []
    try:
        places = _places([name.strip().lower() for name in next((row for row in table if row), [])])
        for row in table:
            if not any(field.strip() for field in row):
                continue
            fields = {name: _unguarded(row[place]) for name, place in places.items() if place < len(row)}
            where = f"line {table.line_num + before_header}"
            taken = read_rating(where, *(fields.get(name, "") for name in _COLUMNS))
            if isinstance(taken, Rating):
                found.append((where, taken))
            else:
                skipped.append(taken)
    except csv.Error as error:
        raise ValueError(f"line {table.line_num + before_header}: {error}") from error
    kept, again = latest_of(found)
    return kept, skipped + again


def write_csv(ratings: Sequence[Rating]) -> str:
    """Write what `read_csv` reads back.

    Text that a spreadsheet would take for a formula (a rater named "=1+1"), or for a number that it would shorten (an
    identifier of digits only), gets an apostrophe before it; `read_csv` takes it away again.
    """
    out = io.StringIO(newline="")
    table = csv.writer(out)
    table.writerow(_COLUMNS)
    for rating in ratings:
        table.writerow([_guarded(rating.edit_id), _guarded(rating.rater), str(rating.score), _guarded(rating.rated_at)])
    return out.getvalue()


def _places(names: list[str]) -> dict[str, int]:
    """Where each column stands."""
    missing = [name for name in _COLUMNS[:3] if name not in names]
    if missing:
        raise ValueError(f"columns missing: {missing}; there are: {names}")
    if doubled := [name for name in _COLUMNS if names.count(name) > 1]:
        raise ValueError(f"columns there twice: {doubled}")
    return {name: names.index(name) for name in _COLUMNS if name in names}


def _taken_wrongly(text: str) -> bool:
    """Whether a spreadsheet would take the text for something else, or for guarded."""
    return bool(text) and (text[0] in _FORMULA_STARTS or _NUMBER.fullmatch(text) is not None)


def _guarded(text: str) -> str:
    return f"'{text}" if _taken_wrongly(text) else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and _taken_wrongly(text[1:]) else text
