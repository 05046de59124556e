"""One triplet while the stand-in judge looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from storage.records import EditType, Request
from tasks.hp_scorer.contract import EditTriplet
from tasks.hp_scorer.measurements import Image, Measured


class Sighting(Protocol):
    """Where an object was found, see `SpriteRecogniser`."""

    @property
    def explained(self) -> float: ...

    @property
    def opacity(self) -> float: ...

    @property
    def alpha(self) -> Image: ...


class Recogniser(Protocol):
    """Knows what objects look like. The miniature has one; for photographs there is none."""

    @property
    def fingerprint(self) -> str: ...

    def look(self, seen: Measured, edit_type: EditType, request: Request) -> Sighting:
        """Look for the requested new object where it should be."""


@dataclass(frozen=True)
class Case:
    """One triplet while it is being judged."""

    triplet: EditTriplet
    seen: Measured
    sighting: Sighting | None
    """Of the new object, in additions and swaps that are judged with a recogniser."""
