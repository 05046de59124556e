"""Stage benchmark: the baseline and a post-trained editor on cases that neither has seen, paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import pyarrow as pa
from pydantic import Field

from storage.lineage import ancestors
from storage.manifest import DataFile
from storage.records import Case, Edit, EditType, Score
from storage.schemas import IMAGE, from_table, with_image_features
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.calibration.score_map import IDENTITY
from tasks.edit_baseline import edit_cases
from tasks.editing.catalogue import fingerprint_of_editor, make_pair
from tasks.editing.interface import Editor
from tasks.editing.settings import BaselineConfig, ModelEditorConfig
from tasks.hp_scorer.calibration import calibration_of
from tasks.hp_scorer.catalogue import fingerprints_of, make_scorer, rubrics_of
from tasks.hp_scorer.contract import Scorer
from tasks.hp_scorer.prices import forecast
from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig
from tasks.images import contact_sheet, decode
from tasks.rate_edits import rate
from tasks.stage import Progress, Result, Shard, Stage, StageConfig, check_coverage, join_tables
from tasks.statistics import paired_gain

MODELS = ("baseline", "post_trained")
SAMPLES = with_image_features(
    pa.schema(
        [(name, pa.string()) for name in ("case_id", "source_id", "edit_type", "category", "instruction")]
        + [("source", IMAGE)]
        + [(f"{model}_edited", IMAGE) for model in MODELS]
        + [(f"{model}_{what}", pa.float64()) for model in MODELS for what in ("score", "raw_score", "referee")]
        + [(f"{model}_outcome", pa.string()) for model in MODELS]
    )
)


class BenchmarkConfig(StageConfig):
    """With what to compare."""

    editor: BaselineConfig = ModelEditorConfig()
    """The baseline; the post-trained editor is the same with the adapter."""
    scorer: ScorerConfig = MeasuredConfig()
    referee: bool = Field(True, description="miniature only: also ask the referee, who sees the clean target.")
    seed: int = Field(0, description="Of the noise; both editors start from the same.")


class RunBenchmark(Stage):
    """One row per bench case: both pictures, both scores."""

    name = "benchmark"
    artifact = "benchmark"
    code_version = 5

    def __init__(
        self, store: Store, config: BenchmarkConfig, cases: Version, adapter: Version, scorer: Version | None = None
    ) -> None:
        """A comparison on the bench split of `cases`.

        Args:
            scorer: a calibration of the configured judge.
        """
        super().__init__(store, config, {"cases": cases, "adapter": adapter} | ({"scorer": scorer} if scorer else {}))
        self.config: BenchmarkConfig = config
        _check_unseen(cases, adapter)

    @cached_property
    def _editor_configs(self) -> dict[str, ModelEditorConfig]:
        trained = self.config.editor.model_copy(update={"adapter": str(self.inputs["adapter"])})
        return dict(zip(MODELS, (self.config.editor, trained), strict=True))

    @cached_property
    def editors(self) -> dict[str, Editor]:
        """Both, made on first use."""
        return dict(zip(MODELS, make_pair(self._editor_configs["post_trained"], self.store), strict=True))

    @cached_property
    def scorer(self) -> Scorer:
        """Made on first use."""
        return make_scorer(self.config.scorer, calibration_of(self.inputs.get("scorer")))

    def fingerprints(self) -> dict[str, str]:
        configs = self._editor_configs.items()
        editors = {model: fingerprint_of_editor(config, self.store) for model, config in configs}
        return {**editors, **fingerprints_of(self.scorer)}

    def shards(self) -> list[Shard]:
        files = self.inputs["cases"].files("bench")
        # Without the maps: they are applied at the end, so that a new one rates nothing anew.
        asked = {name: value for name, value in self.fingerprints().items() if not name.startswith("map of ")}
        basis = [asked, self.settings]
        return [Shard(f"bench-{i:05d}", 2 * (f.rows or 0), basis, {"cases": f}) for i, f in enumerate(files)]

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        config = self.config.scorer
        if config.kind == "vlm":
            wanted: Counter[EditType] = Counter()
            for shard in shards:
                types = self.store.read_table(shard.files["cases"], ["edit_type"])["edit_type"].to_pylist()
                wanted.update(EditType(edit_type) for edit_type in types * len(MODELS))
            rubrics = rubrics_of(config, calibration_of(self.inputs.get("scorer")))
            yield from forecast(config, rubrics, wanted).lines()

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        file = shard.files["cases"]
        cases = list(from_table(self.store.read_table(file), Case))
        rows: list[dict[str, Any]] = [
            {n: getattr(case, n) for n in ("case_id", "source_id", "edit_type", "category", "instruction")}
            | {"source": {"bytes": case.source, "path": None}}
            for case in cases
        ]
        referee = _referee() if self.config.referee else None
        failed = 0
        for model, editor in self.editors.items():
            made = dict(edit_cases(editor, cases, self.config.seed))
            edits = [made[position] for position in range(len(cases))]
            for position, score in rate(self.scorer, cases, edits):
                failed += edits[position].edited is not None and score.score is None
                rows[position] |= _columns(model, cases[position], edits[position], score, referee)
                progress(1)
        samples = self.store.add_table(pa.Table.from_pylist(rows, schema=SAMPLES), file.partition)
        return ShardResult(tables={"samples": (samples,)}, done=len(self.editors) * len(rows), failed=failed)

    def finish(self, results: Sequence[ShardResult]) -> Result:
        tables = join_tables(results)
        if any(self.scorer.map_of(edit_type) != IDENTITY for edit_type in EditType):
            tables["samples"] = [self._calibrated(file) for file in tables["samples"]]
        columns = [name for name in SAMPLES.names if not name.endswith(("_edited", "source"))]
        rows = [row for file in tables["samples"] for row in self.store.read_table(file, columns).to_pylist()]
        expected = self.inputs["cases"].table("bench", ["case_id"])["case_id"].to_pylist()
        check_coverage("bench samples", expected, [row["case_id"] for row in rows])
        judges = ["score", *(["referee"] if self.config.referee else [])]
        return Result(tables, {judge: compare(rows, judge) for judge in judges})

    def _calibrated(self, file: DataFile) -> DataFile:
        """The samples of a file with their scores on people's scale."""
        table = self.store.read_table(file)
        maps = [self.scorer.map_of(EditType(edit_type)) for edit_type in table["edit_type"].to_pylist()]
        for model in MODELS:
            name, raws = f"{model}_score", table[f"{model}_raw_score"].to_pylist()
            mapped = [None if raw is None else one(raw) for one, raw in zip(maps, raws, strict=True)]
            table = table.set_column(table.column_names.index(name), name, pa.array(mapped, pa.float64()))
        return self.store.add_table(table, file.partition)

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        rows = []
        first = [r for f in version.samples("samples") for r in self.store.read_table(f).to_pylist()]
        for edit_type in EditType:
            of_type = [r for r in first if r["edit_type"] == edit_type][:3]
            whole = [r for r in of_type if all(r[f"{model}_edited"] for model in MODELS)]
            pictures = [r[c]["bytes"] for r in whole for c in ("source", "baseline_edited", "post_trained_edited")]
            if whole:
                rows.append((f"{edit_type}: {whole[0]['instruction']}", [decode(p) for p in pictures]))
        return [("source, baseline, post-trained", contact_sheet(rows))]


def _check_unseen(cases: Version, adapter: Version) -> None:
    """Raises: ValueError where the adapter was trained on images of the bench."""
    bench = set(cases.table("bench", ["source_id"])["source_id"].to_pylist())
    for ancestor in ancestors(adapter):
        if ancestor.artifact == "cases":
            seen = bench & set(ancestor.table("train", ["source_id"])["source_id"].to_pylist())
            if seen:
                raise ValueError(
                    f"{adapter} was trained on cases of {ancestor}, which hold {len(seen)} of the {len(bench)} bench "
                    f"images of {cases} ({min(seen)}, ...): benchmark it on {ancestor}"
                )


def compare(rows: Sequence[dict[str, Any]], judge: str) -> dict[str, Any]:
    """Paired gains by a judge's scores, over all rows and per edit type."""

    def gain(chosen: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        found = paired_gain(
            [r[f"baseline_{judge}"] for r in chosen],
            [r[f"post_trained_{judge}"] for r in chosen],
            [r["source_id"] for r in chosen],
        )
        return None if found is None else {k: round(v, 4) for k, v in asdict(found).items()}

    per_type = {t: gain([r for r in rows if r["edit_type"] == t]) for t in EditType}
    return {"overall": gain(rows), "per_edit_type": {t: g for t, g in per_type.items() if g is not None}}


def _columns(
    model: str, case: Case, edit: Edit, score: Score, referee: Callable[[Case, bytes], float] | None
) -> dict[str, Any]:
    return {
        f"{model}_edited": None if edit.edited is None else {"bytes": edit.edited, "path": None},
        f"{model}_score": score.raw,
        f"{model}_raw_score": score.raw,
        f"{model}_outcome": score.outcome,
        f"{model}_referee": referee(case, edit.edited) if referee and edit.edited else None,
    }


def _referee() -> Callable[[Case, bytes], float]:
    """The miniature world's referee, who knows each scene."""
    from tasks.miniature.coco import scene_of
    from tasks.miniature.referee import referee_score

    return lambda case, edited: referee_score(scene_of(case.source_id), case.edit_type, case.request, decode(edited))
