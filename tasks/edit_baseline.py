"""Stage edit-baseline: an editor works through the cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from storage.records import Case, Edit, EditType, identity
from storage.schemas import EDITS, from_table, to_table
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.collect_cases import cases_of
from tasks.collection.coco import decode_mask
from tasks.editing.catalogue import EditorConfig, fingerprint_of_editor, make_editor
from tasks.editing.interface import EditFailure, Editor, EditTask
from tasks.images import contact_sheet, decode, png
from tasks.rows import Kind, Rows
from tasks.stage import Progress, Result, Shard, Stage, StageConfig, check_rows, join_tables, sum_counts

ROWS = Kind("edits", "edits", Edit, EDITS, "edit_id", good=("failure", ""), maker="editor")
"""An edit that failed is tried again when its shard is worked on again."""


BATCH = 64
"""Cases that an editor is given at once."""


class EditConfig(StageConfig):
    """What to edit, and with what."""

    split: Literal["train", "bench"] = "train"
    editor: EditorConfig = EditorConfig()
    seed: int = Field(0, description="Of the noise that an editor starts from.")


class EditBaseline(Stage):
    """Edits of one split; one output file per input file, row by row."""

    name = "edit-baseline"
    artifact = "edits"
    code_version = 4

    def __init__(self, store: Store, config: EditConfig, cases: Version) -> None:
        """Edits of `cases`."""
        if config.editor.adapter is not None:  # a tag may come to mean another version while this one runs
            adapter = str(store.resolve(config.editor.adapter))
            config = config.model_copy(update={"editor": config.editor.model_copy(update={"adapter": adapter})})
        super().__init__(store, config, {"cases": cases})
        self.config: EditConfig = config

    @cached_property
    def editor(self) -> Editor:
        """Made on first use: a night without new cases loads no model."""
        cases = self.inputs["cases"]
        return make_editor(self.config.editor, self.store, lambda: cases_of(cases, self.config.split))

    @cached_property
    def fingerprint(self) -> str:
        """The editor's."""
        return fingerprint_of_editor(self.config.editor, self.store)

    @cached_property
    def rows(self) -> Rows[Edit]:
        """The edits that there are already."""
        return Rows(self.store, ROWS, self.name, [self.fingerprint])

    def fingerprints(self) -> dict[str, str]:
        return {"editor": self.fingerprint}

    def shards(self) -> list[Shard]:
        files = self.inputs["cases"].files(self.config.split)
        basis = [self.fingerprint, self.config.seed]
        return [Shard(f"edits-{i:05d}", file.rows or 0, basis, {"cases": file}) for i, file in enumerate(files)]

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        cases = list(from_table(self.store.read_table(shard.files["cases"]), Case))
        filled = self.rows.fill(
            self.key_of(shard),
            [Edit.id_of(case, self.fingerprint, self.config.seed) for case in cases],
            lambda some: self._edited(cases, some),
            progress,
            self.refresh,
        )
        # A reason may go on with a detail after a colon; only the reason is counted by.
        counts = Counter("edited" if not e.failure else f"failed: {e.failure.split(':')[0]}" for e in filled.rows)
        file = self.store.add_table(to_table(filled.rows, EDITS), shard.files["cases"].partition)
        return ShardResult(tables={"edits": (file,)}, counts=dict(counts), done=len(filled.made), failed=filled.failed)

    def _edited(self, cases: Sequence[Case], some: Sequence[int]) -> Generator[tuple[int, Edit], None, None]:
        """The edits of some cases with their positions."""
        yield from zip(some, edit_cases(self.editor, [cases[i] for i in some], self.config.seed), strict=True)

    def finish(self, results: Sequence[ShardResult]) -> Result:
        check_rows("edits of cases", self, results, ["edits"])
        statistics = {"counts": sum_counts(results), "editor": self.config.editor.model_dump(mode="json")}
        return Result(join_tables(results), statistics)

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        rows: dict[EditType, list[np.ndarray]] = {}
        titles: dict[EditType, str] = {}
        cases_of_split = self.inputs["cases"].samples(self.config.split)
        for cases, edits in zip(cases_of_split, version.samples("edits"), strict=True):
            made = {edit.case_id: edit for edit in from_table(self.store.read_table(edits), Edit)}
            for case in from_table(self.store.read_table(cases), Case):
                edit = made.get(case.case_id)
                if edit is None or edit.edited is None or len(rows.setdefault(case.edit_type, [])) >= 6:
                    continue
                titles.setdefault(case.edit_type, f"{case.edit_type}: {case.instruction}")
                rows[case.edit_type] += [decode(case.source), decode(edit.edited)]
        return [("source and edit", contact_sheet([(titles[t], pictures) for t, pictures in rows.items()]))]


def edit_cases(editor: Editor, cases: Sequence[Case], seed: int) -> Iterator[Edit]:
    """Edit cases, in order; what an editor cannot do is a row with its reason."""
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        for case, picture in zip(batch, editor.edit([task_of(case, seed) for case in batch]), strict=True):
            failure = picture.reason if isinstance(picture, EditFailure) else ""
            yield Edit(
                edit_id=Edit.id_of(case, editor.fingerprint, seed),
                case_id=case.case_id,
                edit_type=case.edit_type,
                edited=None if isinstance(picture, EditFailure) else png(picture),
                failure=failure,
                editor=editor.fingerprint,
                seed=seed,
            )


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
