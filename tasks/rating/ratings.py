"""What people were shown and what they said: items to rate, and a file of ratings that only grows.

The file has one JSON event per line: `{"edit_id", "rater", "score", "rated_at"}`. A score of null takes the rating
back. Nothing is ever rewritten, so the file is its own history.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks.calibration.ratings import BEST
from tasks.images import image_kind

NOT_JSON = "torn or not JSON"
"""Why a line is not understood that a crash cut off, or that is no JSON object."""
TEXT_BYTES = 200
"""So much is told of a line that is not understood."""
_EDIT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,119}")


@dataclass(frozen=True)
class RatingItem:
    """One edit to rate. Raises: ValueError for an identifier or an image file that cannot be served."""

    edit_id: str
    edit_type: str
    instruction: str
    source: bytes
    edited: bytes
    """Both are files, PNG or JPEG."""

    def __post_init__(self) -> None:
        if not _EDIT_ID.fullmatch(self.edit_id):
            raise ValueError(f"edit_id {self.edit_id!r} is not 1 to 120 letters, digits or _ . : -")
        for name, data in (("source", self.source), ("edited", self.edited)):
            if image_kind(data) is None:
                raise ValueError(f"{self.edit_id}: {name} is no PNG or JPEG file, it begins with {data[:8]!r}")


def media_type(image: bytes) -> str:
    """What a PNG or JPEG file is called in HTTP."""
    return f"image/{image_kind(image)}"


@dataclass(frozen=True)
class Rating:
    """What a rater thinks of an edit at present."""

    edit_id: str
    rater: str
    score: int
    """0 to 5."""
    rated_at: datetime
    """UTC; when the server heard of it."""


@dataclass(frozen=True)
class PassedOver:
    """A line of the file that is not understood."""

    line: int
    """From 1."""
    reason: str
    text: str
    """How it begins."""


class _Event(BaseModel):
    """A line of the file. Further fields are a later version's business."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    edit_id: str = Field(min_length=1)
    rater: str = Field(min_length=1)
    score: int | None = Field(ge=0, le=BEST, strict=True)
    rated_at: AwareDatetime


class RatingBook:
    """The file of ratings, for any number of threads and processes at once.

    Every event is one write at the end of the file, and on the disk before anyone is told that it is kept. What others
    append is seen at the next call.
    """

    def __init__(self, path: Path) -> None:
        """A book, perhaps of a file that is not there yet; the folder is made with the first event."""
        self.path = path
        self._lock = threading.Lock()
        self._forget()

    def rate(self, edit_id: str, rater: str, score: int) -> Rating:
        """Keep a rating; an earlier one of the same edit by the same rater no longer counts.

        Raises: ValueError for a score outside 0 to 5; OSError where it could not be kept.
        """
        if type(score) is not int or not 0 <= score <= BEST:
            raise ValueError(f"{edit_id}: score {score!r} is not an integer from 0 to {BEST}")
        rating = Rating(edit_id, rater, score, _now())
        with self._lock:
            self._append(edit_id, rater, score, rating.rated_at)
        return rating

    def undo(self, rater: str, edit_id: str | None = None) -> Rating | None:
        """Take back a rater's last rating, or the one of `edit_id`.

        With an identifier a second call changes nothing, so that one whose answer was lost can be repeated.

        Returns: what was taken back; None where there was nothing.
        """
        with self._lock:
            self._catch_up()
            last = self._last(rater) if edit_id is None else self._present.get((edit_id, rater))
            if last:
                self._append(last.edit_id, rater, None, _now())
            return last

    def ratings(self) -> list[Rating]:
        """The present ratings, in the order in which they were given: of each edit and rater the last event counts."""
        with self._lock:
            self._catch_up()
            return list(self._present.values())

    def of(self, rater: str) -> list[Rating]:
        """The present ratings of one rater, in the order in which they were given."""
        return [rating for rating in self.ratings() if rating.rater == rater]

    @property
    def passed_over(self) -> list[PassedOver]:
        """The lines that are not understood, in order. They stay in the file."""
        with self._lock:
            self._catch_up()
            return self._passed_over + self._torn

    @property
    def not_understood(self) -> Counter[str]:
        """How many lines were passed over, by reason."""
        return Counter(line.reason for line in self.passed_over)

    def _last(self, rater: str) -> Rating | None:
        return next((rating for rating in reversed(self._present.values()) if rating.rater == rater), None)

    def _append(self, edit_id: str, rater: str, score: int | None, rated_at: datetime) -> None:
        event = {
            "edit_id": edit_id,
            "rater": rater,
            "score": score,
            "rated_at": rated_at.isoformat(timespec="milliseconds"),
        }
        line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b", buffering=0) as file:
            # Behind a line that a crash cut off, this one must not become a part of it. Where the line was only being
            # written, a blank one comes in between, which nobody minds.
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = b"\n" + line
            written = file.write(line)
            if written != len(line):
                raise OSError(f"{self.path}: only {written} of {len(line)} bytes could be written")
            os.fsync(file.fileno())
        if new:
            _sync_folder(self.path.parent)

    def _forget(self) -> None:
        self._present: dict[tuple[str, str], Rating] = {}
        self._read = self._lines = 0
        """Bytes and lines of the file that are understood or passed over."""
        self._passed_over: list[PassedOver] = []
        self._torn: list[PassedOver] = []
        """The last line, if a crash cut it off."""

    def _catch_up(self) -> None:
        """Read what was appended since the last time. A line without its end may still be growing: it is read again."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._read:
            self._forget()  # another file has taken its place
        self._torn = []
        if size == self._read:
            return
        with open(self.path, "rb") as file:
            file.seek(self._read)
            *lines, rest = file.read().split(b"\n")
        for line in lines:
            self._read += len(line) + 1
            self._lines += 1
            self._take(line, self._lines, self._passed_over)
        # Whole but for its end, as editors may leave it, it counts already; taking it again later changes nothing.
        self._take(rest, self._lines + 1, self._torn)

    def _take(self, line: bytes, number: int, passed_over: list[PassedOver]) -> None:
        if not line.strip():
            return
        try:
            event = _Event.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            reason = f"{where}: {first['msg']}" if where else NOT_JSON
            passed_over.append(PassedOver(number, reason, line[:TEXT_BYTES].decode(errors="replace")))
            return
        # Taken out first, so that the order is that of the last events.
        self._present.pop((event.edit_id, event.rater), None)
        if event.score is not None:
            rating = Rating(event.edit_id, event.rater, event.score, event.rated_at)
            self._present[event.edit_id, event.rater] = rating


def _now() -> datetime:
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _sync_folder(folder: Path) -> None:
    """Let the name of a new file outlive a crash, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
