"""A file of ratings, whichever kind it is: of the rating page, of Label Studio, or a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasks.calibration.label_files import read_csv
from tasks.calibration.label_studio import read_label_studio
from tasks.calibration.ratings import Rating, Skipped
from tasks.rating.ratings import RatingBook


def read_ratings(path: Path) -> tuple[list[Rating], list[Skipped]]:
    """The ratings of a file, and what could not be taken; the file is named where.

    Raises: ValueError for a file of an unknown kind or one that cannot be read as what it is, FileNotFoundError.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file of ratings")
    try:
        ratings, skipped = _read(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return ratings, [replace(one, where=f"{path.name}, {one.where}") for one in skipped]


def _read(path: Path) -> tuple[list[Rating], list[Skipped]]:
    match path.suffix.lower():
        case ".jsonl":
            book = RatingBook(path)
            ratings = [Rating(r.edit_id, r.rater, r.score, r.rated_at.isoformat()) for r in book.ratings()]
            return ratings, [Skipped(f"line {one.line}", one.reason, one.text) for one in book.passed_over]
        case ".json":
            return read_label_studio(path.read_text(encoding="utf-8"))
        case ".csv" | ".tsv":
            return read_csv(path.read_text(encoding="utf-8"))
        case other:
            raise ValueError(f"{other or 'no suffix'} is no kind of rating file: .jsonl, .json, .csv or .tsv")
