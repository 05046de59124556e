"""A calibration with made-up scores and tiny pictures, through the real measures and the real store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage.manifest import Manifest
from storage.records import EditType
from storage.store import Store, Version
from tasks.calibration.results import BadgeLimits, CalibrationResult, Judged, calibration_result
from tasks.hp_scorer.rubric import Rubric, RubricQuestion, generic_rubric
from tasks.hp_scorer.settings import MeasuredConfig, ServerSettings, VlmConfig
from tasks.images import png
from tasks.pages.calibration import render_calibration
from tasks.pick_triplets import TRIPLETS

TYPES = (EditType.SWAP, EditType.REMOVAL)
STAND_IN = MeasuredConfig().deciding()
HP_SCORER = VlmConfig(
    judge=ServerSettings(model="Qwen/Qwen3-VL-8B-Instruct", revision="0c351dd"), image_quality=90, repeats=3
).deciding()
RATERS = ("ann", "bob", "cem")
QUESTION = RubricQuestion(name="gone", text="Is the original object gone?")
PICTURE = png(np.full((8, 8, 3), 90, np.uint8))


@dataclass(frozen=True)
class Calibrated:
    result: CalibrationResult
    triplets: Version
    labels: Version
    page: str


def judged_rows(
    edit_type: EditType, count: int, seed: int = 0, raters: Sequence[str] = RATERS, **fixed: Any
) -> list[Judged]:
    """Raters who see the same with some noise, a judge that follows them from half a point above; every third is held
    out, by source images of two triplets each.
    """
    rng = np.random.default_rng([seed, list(EditType).index(edit_type)])
    rows = []
    for number in range(count):
        quality = rng.uniform(0, 5)
        seen = np.clip(np.round(quality + rng.normal(0, 0.4, len(raters))), 0, 5).astype(int)
        row: dict[str, Any] = {
            "edit_type": edit_type,
            "edit_id": f"{edit_type}-{number:03d}",
            "source_id": f"{edit_type}-image{number // 2}",
            "ratings": dict(zip(raters, seen.tolist(), strict=True)),
            "held_out": number // 2 % 3 == 0,
            "generic": float(np.clip(2 + 0.5 * quality + rng.normal(0, 1.2), 0, 5)),
            "raw": float(np.clip(quality + 0.5 + rng.normal(0, 0.4), 0, 5)),
            "reply": f"reply to {number}",
        }
        rows.append(Judged(**(row | fixed)))
    return rows


def step(edit_type: EditType, question: RubricQuestion = QUESTION, **values: Any) -> dict[str, Any]:
    """A row of what was tried."""
    row = {"edit_type": str(edit_type), "question": question.name, "text": question.text, "kept": True}
    row |= {"reason": "agreement improved", "proposed": False, "n": 40, "before": 0.4125, "after": 0.625}
    return row | {"difference": 0.2125, "low": 0.05, "high": 0.375, "better_share": 0.995} | values


def probed(name: str, before: float | None = 4.5, after: float | None = 1.25, count: int = 4) -> list[dict[str, Any]]:
    """What a judge gave without and with a change."""
    return [
        {"edit_type": "object_swap", "probe": name, "edit_id": f"e{number}", "before": before, "after": after}
        for number in range(count)
    ]


def made_store(
    folder: Path,
    judged: Sequence[Judged],
    instructions: Mapping[str, str] | None = None,
    pictures: Mapping[str, bytes | None] | None = None,
) -> tuple[Version, Version]:
    """Triplets, one file for each edit type, and labels, of which only the name matters."""
    store = Store(str(folder))
    files = []
    for edit_type in EditType:
        rows = []
        for one in judged:
            if one.edit_type == edit_type:
                edited = (pictures or {}).get(one.edit_id, PICTURE)
                cells: dict[str, Any] = {"edit_id": one.edit_id, "source_id": one.source_id, "edit_type": edit_type}
                cells["instruction"] = (instructions or {}).get(one.edit_id, f"do {one.edit_id}")
                cells["source"] = {"bytes": PICTURE, "path": None}
                cells["edited"] = None if edited is None else {"bytes": edited, "path": None}
                rows.append(dict.fromkeys(TRIPLETS.names) | cells)
        files.append(store.add_table(pa.Table.from_pylist(rows, schema=TRIPLETS), edit_type))
    triplets = store.commit(_manifest("triplets", tables={"triplets": tuple(files)}))
    labels = store.commit(_manifest("labels", parents={"triplets": triplets.as_parent()}))
    return triplets, labels


def calibrate(
    folder: Path,
    judged: Sequence[Judged],
    *,
    steps: Sequence[Mapping[str, Any]] = (),
    probes: Sequence[Mapping[str, Any]] = (),
    questions: Sequence[RubricQuestion] = (QUESTION,),
    types: Sequence[EditType] = TYPES,
    limits: BadgeLimits | None = None,
    simulated: bool = False,
    judge: Mapping[str, Any] = STAND_IN,
    instructions: Mapping[str, str] | None = None,
    pictures: Mapping[str, bytes | None] | None = None,
) -> Calibrated:
    """The result of made-up scores, and its page."""
    rubrics: dict[EditType, Rubric] = {edit_type: generic_rubric().with_questions(questions) for edit_type in types}
    result = calibration_result(judged, rubrics, steps, probes, limits or BadgeLimits(), simulated=simulated)
    triplets, labels = made_store(folder, judged, instructions, pictures)
    return Calibrated(result, triplets, labels, render_calibration(result, judge, triplets, labels))


def _manifest(artifact: str, **parts: Any) -> Manifest:
    whole: dict[str, Any] = {"stage": artifact, "stage_version": 1, "key": f"key-{artifact}", "config": {}}
    return Manifest(artifact=artifact, **(whole | {"parents": {}, "tables": {}} | parts))
