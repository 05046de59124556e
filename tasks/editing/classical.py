"""The classical editor: all eight edit types by image processing, on photographs and miniatures, without a model.

It reads the mask and the structured request instead of the instruction. It works carefully or carelessly, as people
do: which, it draws from the edit's seed, so that a set of its edits is of mixed quality and there is something to
learn from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, Request, identity
from tasks.collection.vocabulary import BACKGROUNDS, COLOURS, LIGHTS, PLACES, STYLES, TINTS
from tasks.editing import classical_effects as effects
from tasks.editing import classical_pasting as pasting
from tasks.editing.classical_filling import fill_hole
from tasks.editing.classical_flaws import KINDS, WHILE_PLACING, Made, spoil
from tasks.editing.classical_matting import Image, as_bytes, as_floats, blend, clean_colours, grow, matte, unit_of
from tasks.editing.cutouts import Cutouts
from tasks.editing.interface import EditFailure, EditTask
from tasks.miniature import backgrounds

CODE_VERSION = "classical-1"
"""Declared by hand: another version of this code makes other pictures under the same settings."""
CARELESS_SHARE = 0.5
FILL_MARGIN = 0.8
"""Units by which the mask of a removed object is grown: its outline is drawn a little too tight."""

_NEEDED: dict[EditType, dict[str, tuple[str, ...] | None]] = {
    EditType.ADDITION: {"new_category": None, "place": PLACES},
    EditType.REMOVAL: {},
    EditType.SWAP: {"new_category": None},
    EditType.BACKGROUND: {"background": BACKGROUNDS},
    EditType.COLOUR: {"colour": tuple(COLOURS)},
    EditType.BOKEH: {},
    EditType.RELIGHT: {"light": tuple(LIGHTS), "tint": tuple(TINTS)},
    EditType.STYLE: {"style": STYLES},
}
"""The fields of a request that an edit type reads, and their known values; None: any."""


class Quality(StrEnum):
    """How much care an edit is made with."""

    CAREFUL = "careful"
    ORDINARY = "ordinary"
    CARELESS = "careless"


@dataclass(frozen=True)
class ClassicalEditor:
    """The editor, see `Editor`.

    Attributes:
        cutouts: the objects that it can add and swap in.
        careful_share: of the edits made as well as it can.
        careless_share: of the other edits, the share with two plain flaws; the rest, the ordinary ones, have one
            slight flaw.
    """

    cutouts: Cutouts
    careful_share: float = 0.5
    careless_share: float = CARELESS_SHARE

    def __post_init__(self) -> None:
        if not (0 <= self.careful_share <= 1 and 0 <= self.careless_share <= 1):
            raise ValueError(f"shares {self.careful_share} and {self.careless_share}: not both in [0, 1]")

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.careful_share, self.careless_share)

    def edit(self, tasks: Sequence[EditTask]) -> list[NDArray[np.uint8] | EditFailure]:
        return [self._edit(task) for task in tasks]

    def quality_of(self, task: EditTask) -> Quality:
        """The care that an edit is made with: drawn from its case and seed alone."""
        careful, careless = _rng(task, "quality").uniform(size=2)
        if careful < self.careful_share:
            return Quality.CAREFUL
        return Quality.CARELESS if careless < self.careless_share else Quality.ORDINARY

    def _edit(self, task: EditTask) -> NDArray[np.uint8] | EditFailure:
        reason = _why_impossible(task)
        if reason:
            return EditFailure(reason)
        assert task.edit_type is not None
        flaws = _draw_flaws(task, self.quality_of(task))
        made = _make(task, self.cutouts, flaws)
        if isinstance(made, EditFailure):
            return made
        picture = made.picture
        for kind, strength in flaws.items():
            if task.edit_type != EditType.ADDITION or kind not in WHILE_PLACING:
                picture = spoil(made, picture, kind, strength, _rng(task, "flaw", kind))
        return as_bytes(picture)


def fingerprint_of(careful_share: float, careless_share: float = CARELESS_SHARE) -> str:
    """The fingerprint of the editor with these settings, whatever objects it has to paste."""
    return identity(CODE_VERSION, careful_share, careless_share)


def _rng(task: EditTask, *use: str) -> np.random.Generator:
    """A generator for one use of one edit: what is drawn for one does not move the others."""
    return np.random.default_rng(int(identity(task.case_id, task.seed, *use), 16))


def _draw_flaws(task: EditTask, quality: Quality) -> dict[str, float]:
    """Kinds of flaws and their strengths, in [0, 1], in the order in which they are added."""
    assert task.edit_type is not None
    rng = _rng(task, "flaws")
    kinds = [str(kind) for kind in rng.permutation(KINDS[task.edit_type])]
    match quality:
        case Quality.CAREFUL:
            return {}
        case Quality.ORDINARY:
            return {kinds[0]: float(rng.uniform(0.1, 0.5))}
        case Quality.CARELESS:
            drawn = {kinds[0]: float(rng.uniform(0.6, 1.0)), kinds[1]: float(rng.uniform(0.3, 0.8))}
            return {kind: drawn[kind] for kind in KINDS[task.edit_type] if kind in drawn}


def _why_impossible(task: EditTask) -> str:
    """Why an edit cannot be made, as far as its task alone tells; empty if it can."""
    source, mask = task.source, task.mask
    if task.edit_type is None or mask is None:
        return "this editor reads no instruction: it needs a case, with edit type, request and mask"
    if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or min(source.shape) < 1:
        return f"the source is {source.dtype} {source.shape}, not uint8 (H, W, 3)"
    if mask.shape != source.shape[:2]:
        return f"the mask is {mask.shape}, the picture {source.shape[:2]}"
    if not mask.any():
        return "the mask is empty"
    if mask.all() and task.edit_type in (EditType.REMOVAL, EditType.SWAP, EditType.BACKGROUND, EditType.BOKEH):
        return "the subject covers the whole picture"
    for name, known in _NEEDED[task.edit_type].items():
        value = getattr(task.request, name)
        if value is None:
            return f"the request names no {name.replace('_', ' ')}"
        if known is not None and value not in known:
            return f"unknown {name.replace('_', ' ')} {value!r}; known: {', '.join(known)}"
    return ""


def _make(task: EditTask, cutouts: Cutouts, flaws: dict[str, float]) -> Made | EditFailure:
    """The careful edit; only the flaws of an addition that concern its place are in it already."""
    assert task.edit_type is not None
    assert task.mask is not None
    source, request, mask = as_floats(task.source), task.request, task.mask.astype(bool)
    subject = matte(source, mask)
    made = Made(edit_type=task.edit_type, request=request, source=source, mask=mask, subject=subject, picture=source)

    def done(picture: Image) -> Made:
        return dataclasses.replace(made, picture=picture)

    match task.edit_type:
        case EditType.ADDITION | EditType.SWAP:
            assert request.new_category
            cutout = cutouts.find(request.new_category, task.seed)
            if cutout is None:
                return EditFailure(f"no cut-out: {request.new_category}")
            return _with_new_object(task, made, cutout, flaws)
        case EditType.REMOVAL:
            return done(_without_subject(task, made))
        case EditType.BACKGROUND:
            assert request.background
            backdrop = backgrounds.paint(request.background, *mask.shape).astype(np.float32)
            return done(blend(backdrop, clean_colours(source, subject), subject))
        case EditType.COLOUR:
            assert request.colour
            return done(effects.recolour(source, subject * effects.main_coloured(source, mask), request.colour))
        case EditType.BOKEH:
            return done(effects.blur_background(source, subject))
        case EditType.RELIGHT:
            assert request.light
            assert request.tint
            return done(effects.relight(source, effects.light_field(request.light, request.tint, *mask.shape)))
        case EditType.STYLE:
            assert request.style
            return done(effects.stylise(source, request.style))


def _without_subject(task: EditTask, made: Made) -> Image:
    hole = grow(made.mask, FILL_MARGIN * unit_of(made.source))
    # A picture that is nearly all subject leaves nothing to copy from beyond a wide margin.
    return fill_hole(made.source, hole if not hole.all() else made.mask, _rng(task, "filling"))


def _with_new_object(
    task: EditTask, made: Made, cutout: tuple[NDArray[np.uint8], NDArray[np.uint8]], flaws: dict[str, float]
) -> Made:
    """An addition or a swap."""
    rgb, alpha = cutout
    request: Request = task.request
    assert request.new_category
    coverage = float(alpha.mean() / 255)
    if task.edit_type == EditType.SWAP:
        without = _without_subject(task, made)
        box = pasting.instead_of(made.mask, alpha.shape, coverage)
    else:
        without = made.source
        assert request.place
        box = pasting.beside(
            made.mask,
            request.place,
            alpha.shape,
            coverage,
            (task.category, request.new_category),
            _rng(task, "place"),
            smaller=1 - 0.8 * flaws.get("tiny", 0),
            astray=flaws.get("astray", 0),
        )
    placed = pasting.harmonise(without, pasting.place(rgb, alpha, made.mask.shape, box))
    return dataclasses.replace(made, picture=pasting.paste(without, placed), new=placed.alpha, without=without)
