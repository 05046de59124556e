"""Stage edit-baseline: an editor works through the cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from storage.records import Case, Edit, EditType, identity
from storage.schemas import EDITS, from_table, to_table
from storage.store import Store, Version
from tasks.collect_cases import cases_of
from tasks.collection.coco import decode_mask
from tasks.editing.catalogue import EditorConfig, make_editor
from tasks.editing.interface import EditFailure, Editor, EditTask
from tasks.images import contact_sheet, decode, png
from tasks.stage import Progress, Result, ShardResult, Stage, StageConfig, check_coverage, join_tables, sum_counts

BATCH = 64
"""Edits between two looks at the progress."""


class EditConfig(StageConfig):
    """What to edit, and with what."""

    split: Literal["train", "bench"] = "train"
    editor: EditorConfig = EditorConfig()
    seed: int = Field(0, description="Of the noise that an editor starts from.")


class EditBaseline(Stage):
    """Edits of one split; one output file per input file, row by row."""

    name = "edit-baseline"
    artifact = "edits"
    code_version = 2

    def __init__(self, store: Store, config: EditConfig, cases: Version) -> None:
        """Edits of `cases`."""
        super().__init__(store, config, {"cases": cases})
        self.config: EditConfig = config

    @cached_property
    def editor(self) -> Editor:
        """Made once; its fingerprint is part of the key."""
        cases = self.inputs["cases"]
        return make_editor(self.config.editor, self.store, lambda: cases_of(cases, self.config.split))

    def fingerprints(self) -> dict[str, str]:
        return {"editor": self.editor.fingerprint}

    def shards(self) -> list[str]:
        return [f"edits-{i:05d}" for i in range(len(self.inputs["cases"].manifest.tables[self.config.split]))]

    def num_items(self) -> int:
        return self.inputs["cases"].manifest.rows(self.config.split)

    def work(self, shard: str, progress: Progress) -> ShardResult:
        file = self.inputs["cases"].manifest.tables[self.config.split][int(shard.removeprefix("edits-"))]
        cases = list(from_table(self.store.read_table(file), Case))
        edits = edit_cases(self.editor, cases, self.config.seed, progress)
        # A reason may go on with a detail after a colon; only the reason is counted by.
        counts = Counter("edited" if not e.failure else f"failed: {e.failure.split(':')[0]}" for e in edits)
        return ShardResult(tables={"edits": (self.store.add_table(to_table(edits, EDITS)),)}, counts=dict(counts))

    def finish(self, results: Sequence[ShardResult]) -> Result:
        tables = join_tables(results)
        expected = self.inputs["cases"].table(self.config.split, ["case_id"])["case_id"].to_pylist()
        found = [i for file in tables["edits"] for i in self.store.read_table(file, ["case_id"])["case_id"].to_pylist()]
        check_coverage("edits of cases", expected, found)
        return Result(tables, {"counts": sum_counts(results), "editor": self.config.editor.model_dump(mode="json")})

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        edits = {edit.case_id: edit for edit in from_table(next(version.parts("edits")), Edit)}
        rows: dict[EditType, list[np.ndarray]] = {}
        titles: dict[EditType, str] = {}
        for part in self.inputs["cases"].parts(self.config.split):
            for case in from_table(part, Case):
                edit = edits.get(case.case_id)
                if edit is None or edit.edited is None or len(rows.setdefault(case.edit_type, [])) >= 6:
                    continue
                titles.setdefault(case.edit_type, f"{case.edit_type}: {case.instruction}")
                rows[case.edit_type] += [decode(case.source), decode(edit.edited)]
        return [("source and edit", contact_sheet([(titles[t], pictures) for t, pictures in rows.items()]))]


def edit_cases(editor: Editor, cases: Sequence[Case], seed: int, progress: Progress) -> list[Edit]:
    """Edit cases in order; what an editor cannot do is a row with its reason."""
    edits: list[Edit] = []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        for case, picture in zip(batch, editor.edit([task_of(case, seed) for case in batch]), strict=True):
            failure = picture.reason if isinstance(picture, EditFailure) else ""
            edits.append(
                Edit(
                    edit_id=Edit.id_of(case.case_id, editor.fingerprint, seed),
                    case_id=case.case_id,
                    edit_type=case.edit_type,
                    edited=None if isinstance(picture, EditFailure) else png(picture),
                    failure=failure,
                    editor=editor.fingerprint,
                    seed=seed,
                )
            )
        progress(len(batch))
    return edits


def task_of(case: Case, seed: int) -> EditTask:
    """A case as a task for an editor; its own seed comes from the case, so that order and batch do not count."""
    return EditTask(
        case_id=case.case_id,
        edit_type=case.edit_type,
        instruction=case.instruction,
        request=case.request,
        category=case.category,
        source=decode(case.source),
        mask=decode_mask(case.mask),
        seed=int(identity(case.case_id, seed), 16) % 2**31,
    )
