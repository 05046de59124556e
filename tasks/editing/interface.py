"""What it takes to edit a case: the interface that all editors share, trainable or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTask:
    """One edit to make. A model reads the source and the instruction; the rest is for editors without language."""

    case_id: str
    edit_type: EditType
    instruction: str
    request: Request
    category: str
    source: NDArray[np.uint8]
    """(H, W, 3) sRGB."""
    mask: NDArray[np.bool_]
    """(H, W): the subject."""
    seed: int
    """Of this edit: the same task gives the same picture."""


@dataclass(frozen=True, slots=True)
class EditFailure:
    """An edit that could not be made, and why. It is a row, not a crash."""

    reason: str


class Editor(Protocol):
    """Anything that edits."""

    @property
    def fingerprint(self) -> str:
        """The hash of everything that changes the pictures."""

    def edit(self, tasks: Sequence[EditTask]) -> list[NDArray[np.uint8] | EditFailure]:
        """One picture, (H, W, 3) sRGB, or failure per task, in order."""
