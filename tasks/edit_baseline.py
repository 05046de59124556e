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
from tasks.editing.adapters import pinned
from tasks.editing.catalogue import fingerprint_of_editor, make_editor
from tasks.editing.interface import EditFailure, Editor, EditorError, EditTask, pictures_of
from tasks.editing.settings import EditorConfig, ModelEditorConfig
from tasks.images import contact_sheet, decode, png
from tasks.limits import Limit
from tasks.rows import Kind, Rows
from tasks.settings import passing
from tasks.stage import GatedConfig, Progress, Result, Shard, Stage, check_rows, join_tables, sum_counts

ROWS = Kind("edits", "edits", Edit, EDITS, "edit_id", good=("failure", ""), maker="editor")
"""An edit that failed is tried again when its shard is worked on again."""


LIMITS = {"coverage": Limit(at_least=0.5)}
"""An editor that fails on most cases is set up wrongly, or its server is gone."""


class EditConfig(GatedConfig):
    """What to edit, and with what."""

    split: Literal["train", "bench"] = "train"
    editor: EditorConfig = ModelEditorConfig()
    seed: int = Field(0, description="Of the noise that an editor starts from.")
    limits: dict[str, Limit] = passing(LIMITS, "Within which a version becomes `latest`.")


class EditBaseline(Stage):
    """Edits of one split; one output file per input file, row by row."""

    name = "edit-baseline"
    artifact = "edits"
    code_version = 4

    def __init__(self, store: Store, config: EditConfig, cases: Version) -> None:
        """Edits of `cases`."""
        config = config.model_copy(update={"editor": pinned(config.editor, store)})
        super().__init__(store, config, {"cases": cases})
        self.config: EditConfig = config

    @cached_property
    def editor(self) -> Editor:
        """Made on first use: a night without new cases loads no model."""
        cases = self.inputs["cases"]
        editor = make_editor(self.config.editor, self.store, lambda: cases_of(cases, self.config.split))
        if editor.fingerprint != self.fingerprint:
            raise EditorError(f"the editor is not what it was when this run began ({self.fingerprint}): run it again")
        return editor

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

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        editor = self.config.editor
        if editor.kind == "remote":
            count = sum(shard.num_items for shard in shards)
            price = (
                "price unknown (set editor.price)" if editor.price is None else f"at most ${count * editor.price:,.2f}"
            )
            yield f"at most {count:,} pictures asked of {editor.model}; {price}"

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
        for number, edit in edit_cases(self.editor, [cases[i] for i in some], self.config.seed) if some else ():
            yield some[number], edit

    def finish(self, results: Sequence[ShardResult]) -> Result:
        check_rows("edits of cases", self, results, ["edits"])
        counts = sum_counts(results)
        statistics = {"counts": counts, "editor": self.config.editor.deciding()}
        total = sum(counts.values())
        # Of no cases at all, none is missing.
        return Result(join_tables(results), statistics, {"coverage": counts.get("edited", 0) / total if total else 1.0})

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


def edit_cases(editor: Editor, cases: Sequence[Case], seed: int) -> Generator[tuple[int, Edit], None, None]:
    """Edit cases; each edit comes with its case's position, in any order, as soon as it is there.

    What an editor cannot do is a row with its reason.
    """
    for position, picture in pictures_of(editor, (task_of(case, seed) for case in cases)):
        case = cases[position]
        yield (
            position,
            Edit(
                edit_id=Edit.id_of(case, editor.fingerprint, seed),
                case_id=case.case_id,
                edit_type=case.edit_type,
                edited=None if isinstance(picture, EditFailure) else png(picture),
                failure=picture.reason if isinstance(picture, EditFailure) else "",
                editor=editor.fingerprint,
                seed=seed,
            ),
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
