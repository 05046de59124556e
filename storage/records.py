"""The records that travel between the stages, one frozen dataclass each.

A record knows its own identity: `case_id` and the other identifiers are content hashes (see `identity`), so the same
case has the same name on every machine and in every run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


class EditType(StrEnum):
    """The paper's eight edit types."""

    ADDITION = "object_addition"
    REMOVAL = "object_removal"
    SWAP = "object_swap"
    BACKGROUND = "background_replacement"
    COLOUR = "colour_change"
    BOKEH = "bokeh"
    RELIGHT = "relighting"
    STYLE = "style_transfer"


def identity(*parts: Any) -> str:
    """The content hash of JSON-able parts and bytes: 16 hexadecimal digits (64 bits) of a SHA-256.

    The parts are length-prefixed, so moving a character from one part to its neighbour gives another identity.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, separators=(",", ":")).encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an instruction asks for, in a form a program can read; unset fields are what it leaves open.

    The instruction is what an editing model is told. The request beside it serves the editors and judges that
    understand no language: the classical editor and the measured stand-in judge.
    """

    new_category: str | None = None
    """Object addition and swap: the COCO category of the new object."""
    colour: str | None = None
    """Colour change, and a new object whose colour is named: a name in `vocabulary.COLOURS`."""
    place: str | None = None
    """Object addition: "left" or "right"."""
    background: str | None = None
    """Background replacement: a name in `vocabulary.BACKGROUNDS`."""
    light: str | None = None
    """Relighting: where the light comes from, a name in `vocabulary.LIGHTS`."""
    tint: str | None = None
    """Relighting: a name in `vocabulary.TINTS`."""
    style: str | None = None
    """Style transfer: a name in `vocabulary.STYLES`."""

    def to_dict(self) -> dict[str, str]:
        """The fields that are set."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> Request:
        """The inverse of `to_dict`. Raises: TypeError for an unknown field."""
        return cls(**values)
