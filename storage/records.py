"""The records that travel between the stages.

A record knows its own identity: identifiers are content hashes (see `identity`), so the same case has the same name
on every machine and in every run.
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


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values have equal bytes. NaN is refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def identity(*parts: Any) -> str:
    """The content hash of JSON-able parts and bytes: 16 hexadecimal digits (64 bits) of a SHA-256.

    The parts are length-prefixed, so moving a character from one part to its neighbour gives another identity.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else canonical_json(part)
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
    """Colour change: a name in `vocabulary.COLOURS`."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to edit: a source image and an instruction."""

    case_id: str
    split: str
    """"train" or "bench"; the two share no source image."""
    edit_type: EditType
    instruction: str
    request: Request
    category: str
    """The subject's COCO category."""
    source_id: str
    """Which image of its collection it is."""
    source: bytes
    """The image file's bytes, PNG or JPEG."""
    width: int
    height: int
    mask: Mapping[str, Any]
    """The subject in COCO's run-length encoding, {"size": [height, width], "counts": "..."}."""
    licence: str
    licence_url: str
    origin_url: str
    """Where the image is from, for attribution."""

    @staticmethod
    def id_of(source: bytes, instruction: str, edit_type: EditType) -> str:
        """The identity of a case."""
        return identity(source, instruction, edit_type)

    @property
    def annotation(self) -> str:
        """The identity of what is known of the image beside it: it may be corrected, and the case is still the same."""
        return identity(self.category, self.request.to_dict(), dict(self.mask))


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What an editor made of a case."""

    edit_id: str
    case_id: str
    edit_type: EditType
    edited: bytes | None
    """PNG bytes; None where the editor failed."""
    failure: str
    """Why there is no image; empty where there is one."""
    editor: str
    """The editor's fingerprint."""
    seed: int

    @staticmethod
    def id_of(case: Case, editor: str, seed: int) -> str:
        """The identity of an edit: what was asked of whom, not what came out."""
        return identity(case.case_id, case.annotation, editor, seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What an editing model makes of a case before it draws: source image and instruction, encoded."""

    encoding_id: str
    case_id: str
    edit_type: EditType
    shape: Mapping[str, Any]
    """Rows and columns of tokens, {"target": [32, 32], "sources": [[32, 32]]}; empty where encoding failed."""
    tensors: bytes | None
    """The named tensors as a safetensors file; None where encoding failed."""
    failure: str
    """Why there is nothing; empty where there is something."""
    editor: str
    """The fingerprint of the editing model."""

    @staticmethod
    def id_of(case_id: str, editor: str) -> str:
        """The identity of an encoding: a case's own identity is that of its image and instruction."""
        return identity(case_id, editor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a judge said of an edit."""

    score_id: str
    edit_id: str
    case_id: str
    edit_type: EditType
    outcome: str
    """"scored", or the kind of failure; see `tasks.hp_scorer.contract.Outcome`."""
    score: float | None
    """0 to 5; None unless scored."""
    full: bool
    """Whether this is a full score, by the judge's own threshold."""
    answers: Mapping[str, float]
    raw_reply: str
    scorer: str
    """The judge's fingerprint for this edit type."""
    attempt: int
    raw_score: float | None = None
    """The judge's own score, before calibration; None where it is the same, or where there is none."""
    score_map: str = ""
    """The fingerprint of the map from raw scores; empty where there is none."""
    digit_mass: float | None = None
    """logit modes: the probability that the judge was about to give a digit at all."""
    spread: float | None = None
    """Standard deviation of the raw score: over the digit's probabilities, or over repeats."""
    judge: str = ""
    """The model that was asked."""
    revision: str = ""
    """Its revision, as it was set."""
    model: str = ""
    """The model that answered, as its server calls it: an alias may come to mean another one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the judge was set up with."""

    @property
    def raw(self) -> float | None:
        """The judge's own score."""
        return self.score if self.raw_score is None else self.raw_score

    @staticmethod
    def id_of(edited: bytes | None, case: Case, scorer: str, attempt: int) -> str:
        """The identity of a score: editors are not bit-stable, so the image itself is named."""
        return identity(edited or b"", case.case_id, case.annotation, scorer, attempt)
