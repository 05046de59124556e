"""Every score of a training, kept as it comes: an iteration that is done again gets the same, and pays for none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the stage reads journals, and does without torch
    from training.editors.interface import Pixels
    from training.reward import Reward


class JournaledReward:
    """A reward that remembers. A failure is not remembered: it is asked for again."""

    def __init__(self, reward: Reward, path: Path, judge: str) -> None:
        """Over a file that may be there from before.

        Args:
            judge: what identifies the judge; another one's scores are not taken for its own.
        """
        self.reward = reward
        self.path = path
        self.judge = judge
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            # A line that was cut off must not swallow the next one.
            with path.open("a") as file:
                file.write("\n")
        self._known = {line["key"]: line["score"] for line in read_scores(path) if line["judge"] == judge}

    def __call__(self, case_ids: Sequence[str], images: Sequence[Pixels]) -> list[float | None]:
        keys = [self._key(case_id, image) for case_id, image in zip(case_ids, images, strict=True)]
        asked = [i for i, key in enumerate(keys) if key not in self._known]
        if asked:
            # All at once: what belongs to one case stays together.
            scores = self.reward([case_ids[i] for i in asked], [images[i] for i in asked])
            given = [(i, score) for i, score in zip(asked, scores, strict=True) if score is not None]
            with self.path.open("a") as file:
                for i, score in given:
                    line = {"case_id": case_ids[i], "key": keys[i], "judge": self.judge, "score": score}
                    file.write(json.dumps(line) + "\n")
            self._known |= {keys[i]: score for i, score in given}
        return [self._known.get(key) for key in keys]

    @staticmethod
    def _key(case_id: str, image: Pixels) -> str:
        return hashlib.sha256(repr((case_id, image.shape)).encode() + image.tobytes()).hexdigest()


def read_scores(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; a last one that was cut off is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
