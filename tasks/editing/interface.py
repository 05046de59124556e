"""What it takes to edit a case: the interface that all editors share, trainable or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, Request

AT_ONCE = 64
"""Tasks that an editor is given at once, unless it takes them as it needs them."""
_OPEN = Request()


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTask:
    """One edit to make. A model reads the source and the instruction; the rest is for editors without language, and
    nobody knows it of a photograph that is no case.
    """

    case_id: str
    instruction: str
    source: NDArray[np.uint8]
    """(H, W, 3) sRGB."""
    seed: int
    """Of this edit: the same task gives the same picture."""
    edit_type: EditType | None = None
    request: Request = _OPEN
    category: str = ""
    mask: NDArray[np.bool_] | None = None
    """(H, W): the subject."""


@dataclass(frozen=True, slots=True)
class EditFailure:
    """An edit that could not be made, and why. It is a row, not a crash."""

    reason: str
    """The kind of failure, which is counted by, perhaps a colon and the particulars."""


class EditorError(RuntimeError):
    """An editor cannot be used as it is set up: nothing that asking again would help."""


Picture = NDArray[np.uint8] | EditFailure
"""What comes of a task: (H, W, 3) sRGB of any size, or why there is nothing."""


class Editor(Protocol):
    """Anything that edits."""

    @property
    def fingerprint(self) -> str:
        """The hash of everything that changes the pictures."""

    def edit(self, tasks: Sequence[EditTask]) -> list[Picture]:
        """One picture or failure per task, in order."""


class StreamingEditor(ABC):
    """An editor that gives each picture as soon as it has it: it decides itself how much it works on at once."""

    fingerprint: str
    """See `Editor`."""

    @abstractmethod
    def edits(self, tasks: Iterable[EditTask]) -> Generator[tuple[int, Picture], None, None]:
        """One picture or failure per task with its position, in any order; tasks are taken as they are needed."""

    def edit(self, tasks: Sequence[EditTask]) -> list[Picture]:
        """See `Editor`."""
        found = dict(self.edits(tasks))
        return [found[position] for position in range(len(tasks))]


def pictures_of(editor: Editor, tasks: Iterable[EditTask]) -> Generator[tuple[int, Picture], None, None]:
    """What an editor makes of tasks, each with its position, as it comes; not all images are in memory."""
    if isinstance(editor, StreamingEditor):
        yield from editor.edits(tasks)
        return
    waiting, start = iter(tasks), 0
    while some := list(islice(waiting, AT_ONCE)):
        yield from enumerate(editor.edit(some), start)
        start += len(some)
