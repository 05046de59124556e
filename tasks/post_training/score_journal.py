"""Every answer of a judge while training, kept as it comes.

An iteration that is done again gets the same scores and pays for none, also on another machine, where the journal is
restored from a published checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.post_training.reading import write_whole

if TYPE_CHECKING:  # the stage reads journals, and does without torch
    from training.editors.interface import Pixels

SCORED = "scored"


class ScoreJournal:
    """The answers of one judge, by case and image; one file per process, all of which are read at the start."""

    def __init__(self, path: Path, judge: str, others: Iterable[Path] = ()) -> None:
        """Over a file that may be there from before.

        Args:
            judge: what identifies the judge; another one's answers are not taken for its own.
            others: the files of other processes, and of other machines.
        """
        self.path = path
        self.judge = judge
        self.outcomes: Counter[str] = Counter()
        """Of the answers since somebody last looked, see `take_outcomes`."""
        self._lock = threading.Lock()
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            # A line that was cut off must not swallow the next one.
            with path.open("a") as file:
                file.write("\n")
        self._known = {
            line["key"]: line["score"]
            for file in (*others, path)
            for line in read_scores(file)
            if line["judge"] == judge
        }

    def known(self, case_id: str, image: Pixels) -> tuple[bool, float | None]:
        """Whether there is an answer, and its score; None of one that failed."""
        key = key_of(case_id, image)
        return key in self._known, self._known.get(key)

    def keep(self, case_id: str, image: Pixels, outcome: str, score: float | None, reply: str = "") -> None:
        """Write an answer down. A failure is kept with its reason: the run goes on without it, also when done again."""
        key = key_of(case_id, image)
        line = {"case_id": case_id, "key": key, "judge": self.judge, "outcome": outcome, "score": score}
        if score is None and reply:
            line["reply"] = reply[:2000]
        with self._lock:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._known[key] = score
            self.outcomes[outcome] += 1

    def take_outcomes(self) -> dict[str, int]:
        """How many answers there were of each outcome since the last call."""
        with self._lock:
            taken, self.outcomes = dict(self.outcomes), Counter()
        return taken

    def forget_failures(self) -> None:
        """So that they are asked for again: the judge was dead, and somebody has seen to it."""
        with self._lock:
            lines = [line for line in read_scores(self.path) if line["score"] is not None]
            write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def key_of(case_id: str, image: Pixels) -> str:
    """Of an image of a case."""
    return hashlib.sha256(repr((case_id, image.shape)).encode() + image.tobytes()).hexdigest()


def read_scores(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; one that was cut off is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
