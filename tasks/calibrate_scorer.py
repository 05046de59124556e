"""Stage calibrate-scorer: rubrics and maps by which a judge agrees with people, and how far it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from storage.records import EditType, Score, identity
from storage.schemas import SCORES, to_table
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.calibration.probes import PROBES
from tasks.calibration.proposals import proposer
from tasks.calibration.question_loop import People, Step, choose_questions
from tasks.calibration.results import BadgeLimits, Judged, calibration_result
from tasks.calibration.triplets import Labels, RatedTriplet, held_out_of, labels_of, rated_triplets
from tasks.hp_scorer.catalogue import judge_asked_by, make_scorer
from tasks.hp_scorer.contract import Outcome, Scorer
from tasks.hp_scorer.judge import Spent
from tasks.hp_scorer.prices import forecast
from tasks.hp_scorer.question_bank import bank_of
from tasks.hp_scorer.rubric import Rubric, RubricQuestion, generic_rubric, rubric_of
from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig, ServerSettings
from tasks.images import contact_sheet, decode
from tasks.limits import Limit
from tasks.pages.calibration import disagreements, render_calibration
from tasks.rate_edits import rate, triplet_of
from tasks.rows import Kind, Rows
from tasks.settings import passing
from tasks.stage import GatedConfig, Progress, Result, Shard, Stage, join_tables

JUDGEMENTS = Kind("scorer", "judgements", Score, SCORES, "score_id", good=("outcome", Outcome.SCORED), maker="scorer")
"""Everything that the judge said on the way: a calibration with more labels asks for nothing twice."""
CHOSEN = pa.schema([(name, pa.string()) for name in ("edit_type", "rubric", "generic", "chosen")])
"""The rubric, and the fingerprints of the judge asked by the general criteria alone, and by the rubric."""
STEPS = pa.schema(
    [(name, pa.string()) for name in ("edit_type", "question", "text")]
    + [("kept", pa.bool_()), ("reason", pa.string()), ("proposed", pa.bool_()), ("n", pa.int32())]
    + [(name, pa.float64()) for name in ("before", "after", "difference", "low", "high", "better_share")]
)
PROBED = pa.schema(
    [(name, pa.string()) for name in ("edit_type", "probe", "edit_id")]
    + [("before", pa.float64()), ("after", pa.float64())]
)
SCORER = pa.schema([(name, pa.string()) for name in ("edit_type", "rubric", "score_map", "note")])
DISAGREEMENTS = pa.schema(
    [(name, pa.string()) for name in ("edit_type", "edit_id")] + [(name, pa.float64()) for name in ("people", "judge")]
)
AGREEMENT = pa.schema(
    [(name, pa.string()) for name in ("edit_type", "judge", "measure")]
    + [(name, pa.float64()) for name in ("value", "low", "high")]
    + [("n", pa.int32()), ("note", pa.string())]
)


_USUAL_ROUNDS = 3


class CalibrateConfig(GatedConfig):
    """Which judge is calibrated, and how."""

    scorer: ScorerConfig = MeasuredConfig()
    bank: dict[EditType, tuple[RubricQuestion, ...]] = Field(
        {},
        description="Questions to try, by edit type; empty: of the rubric files, or all that the stand-in knows.",
    )
    held_out_share: float = Field(0.4, gt=0, lt=1, description="Of the triplets, set aside to report on.")
    least_better_share: float = Field(
        0.9, ge=0.5, le=1, description="A question stays if agreement is better in this share of the resamples."
    )
    most_questions: int = Field(8, ge=1, description="In one rubric.")
    proposer: ServerSettings | None = Field(None, description="A language model that proposes questions.")
    proposals: int = Field(0, ge=0, description="How many it proposes per edit type, after the bank.")
    probed_per_edit_type: int = Field(8, ge=0, description="Triplets that each probe is tried on.")
    badge: BadgeLimits = BadgeLimits()
    seed: int = 0
    limits: dict[str, Limit] = passing({"coverage": Limit(at_least=0.9)}, "Within which a version becomes `latest`.")

    @model_validator(mode="after")
    def _check_proposer(self) -> CalibrateConfig:
        if self.proposer is not None and self.scorer.kind == "measured":
            raise ValueError("proposer: the stand-in judge can answer no new questions; calibrate one of kind vlm")
        return self


class CalibrateScorer(Stage):
    """One rubric and one map per edit type, with a report."""

    name = "calibrate-scorer"
    artifact = "scorer"
    code_version = 1

    def __init__(self, store: Store, config: CalibrateConfig, labels: Version) -> None:
        """A calibration on `labels` and the triplets that they are of."""
        triplets = labels.manifest.parents["triplets"]
        super().__init__(
            store, config, {"labels": labels, "triplets": store.version(triplets.artifact, triplets.version)}
        )
        self.config: CalibrateConfig = config

    @cached_property
    def labels(self) -> Labels:
        """What people said."""
        return labels_of(self.inputs["labels"])

    @cached_property
    def held_out(self) -> dict[str, bool]:
        """By edit, whether it is set aside."""
        return held_out_of(self.inputs["triplets"], self.labels, self.config.held_out_share, self.config.seed)

    @cached_property
    def rows(self) -> Rows[Score]:
        """What the judge said in earlier calibrations."""
        return Rows(self.store, JUDGEMENTS, self.name, [self.fingerprints()["judge"]])

    @cached_property
    def spent(self) -> Spent:
        """By all rubrics that are tried, together."""
        return Spent()

    def fingerprints(self) -> dict[str, str]:
        generic = generic_rubric().fingerprint
        asked = {
            f"bank of {t}": identity(
                generic, rubric_of(t).fingerprint, [question.model_dump(mode="json") for question in self._bank(t)]
            )
            for t in EditType
        }
        if self.config.scorer.kind == "measured":  # its answers are code, which its settings do not tell
            asked["stand-in"] = make_scorer(self.config.scorer).fingerprint
        return {"judge": identity("judge", self.config.scorer.deciding()), **asked}

    def shards(self) -> list[Shard]:
        counts = dict.fromkeys(EditType, 0)
        for part in self.inputs["triplets"].parts("triplets", ["edit_id", "edit_type"]):
            for row in part.to_pylist():
                counts[EditType(row["edit_type"])] += row["edit_id"] in self.labels
        # As many rounds as a rubric usually grows in.
        tried = {t: 2 + _USUAL_ROUNDS * len(self._bank(t)) + self.config.proposals for t in EditType}
        probed = len(PROBES) * self.config.probed_per_edit_type
        return [Shard(t, counts[t] * tried[t] + probed if counts[t] else 0, [self.key, t]) for t in EditType]

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        edit_type = EditType(shard.name)
        triplets = rated_triplets(self.inputs["triplets"], edit_type, self.labels, self.held_out)
        asking = _Asking(self, edit_type, self.key_of(shard), progress)
        tuned = [triplet for triplet in triplets if not triplet.held_out]
        rubric, steps = choose_questions(
            rubric_of(edit_type).with_questions(()),
            self._bank(edit_type),
            lambda asked: [score.raw for score in asking.scores(asked, tuned)],
            People([triplet.human for triplet in tuned], [triplet.case.source_id for triplet in tuned]),
            least_better_share=self.config.least_better_share,
            most_questions=self.config.most_questions,
            propose=proposer(self.config.proposer, tuned),
            proposals=self.config.proposals,
            seed=self.config.seed,
        )
        for asked in (generic_rubric(), rubric):
            asking.scores(asked, triplets)
        chosen = {"edit_type": edit_type, "rubric": rubric.model_dump_json()} | {
            name: asking.scorer(asked).fingerprint_of(edit_type)
            for name, asked in (("generic", generic_rubric()), ("chosen", rubric))
        }
        probed = (
            asking.probed(rubric, triplets, self.config.probed_per_edit_type)
            if self.config.probed_per_edit_type
            else []
        )
        progress(shard.num_items - asking.told)
        tables = {
            "chosen": _table([chosen], CHOSEN),
            "steps": _table([_step_row(edit_type, step) for step in steps], STEPS),
            "probed": _table(probed, PROBED),
            "judgements": to_table(asking.said.values(), SCORES),
        }
        files = {name: (self.store.add_table(table, shard.name),) for name, table in tables.items()}
        failed = sum(score.outcome != Outcome.SCORED for score in asking.said.values())
        failed += sum(row["after"] is None for row in probed)
        self.rows.done_with(self.key_of(shard))
        return ShardResult(tables=files, done=asking.made, failed=failed)

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        if self.config.scorer.kind == "measured":
            return
        rubrics = {edit_type: rubric_of(edit_type) for edit_type in EditType}
        wanted = {EditType(shard.name): shard.num_items for shard in shards}
        yield from forecast(self.config.scorer, rubrics, wanted, 0, self.rows.seconds_each()).lines()

    def finish(self, results: Sequence[ShardResult]) -> Result:
        tables = join_tables(results)
        read = {
            name: [row for file in tables[name] for row in self.store.read_table(file).to_pylist()] for name in tables
        }
        said = {(row["edit_id"], row["scorer"]): row for row in read["judgements"]}
        judged = [
            Judged(
                edit_type=edit_type,
                edit_id=triplet.edit.edit_id,
                source_id=triplet.case.source_id,
                ratings=triplet.ratings,
                held_out=triplet.held_out,
                generic=said[triplet.edit.edit_id, chosen["generic"]]["score"],
                raw=said[triplet.edit.edit_id, chosen["chosen"]]["score"],
                reply=said[triplet.edit.edit_id, chosen["chosen"]]["raw_reply"],
            )
            for chosen in read["chosen"]
            for edit_type in [EditType(chosen["edit_type"])]
            for triplet in rated_triplets(self.inputs["triplets"], edit_type, self.labels, self.held_out)
        ]
        rubrics = {EditType(row["edit_type"]): Rubric.model_validate_json(row["rubric"]) for row in read["chosen"]}
        labels = self.inputs["labels"]
        result = calibration_result(
            judged,
            rubrics,
            read["steps"],
            read["probed"],
            self.config.badge,
            simulated=bool(labels.manifest.statistics["simulated"]),
            seed=self.config.seed,
        )
        page = render_calibration(result, self.config.scorer.deciding(), self.inputs["triplets"], labels)
        tables["scorer"] = [self.store.add_table(_table(result.scorer_rows(), SCORER))]
        tables["agreement"] = [self.store.add_table(_table(result.agreement_rows(), AGREEMENT))]
        apart = [
            {"edit_type": t, "edit_id": j.edit_id, "people": j.human, "judge": result.calibrated_score(j)}
            for t in rubrics
            for j in disagreements(result, t)
        ]
        tables["disagreements"] = [self.store.add_table(_table(apart, DISAGREEMENTS))]
        tables["report"] = [self.store.add_file(page.encode(), ".html")]
        return Result(tables, result.statistics(), result.measures())

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        """The largest disagreements with the raters, since they tell what the judge does not see."""
        shown: dict[str, list[dict[str, Any]]] = {}
        for row in version.table("disagreements").to_pylist():
            shown.setdefault(row["edit_type"], []).append(row)
        sheet = []
        for file in self.inputs["triplets"].files("triplets"):
            table = self.store.read_table(file, ["edit_id", "edit_type", "source", "edited"])
            images = {row["edit_id"]: row for row in table.to_pylist()}
            for edit_type, rows in shown.items():
                found = [row for row in rows[:3] if row["edit_id"] in images]
                said = [
                    f"{row['people']:.1f} against {'none' if row['judge'] is None else format(row['judge'], '.1f')}"
                    for row in found
                ]
                pictures = [decode(images[r["edit_id"]][c]["bytes"]) for r in found for c in ("source", "edited")]
                if found:
                    sheet.append((f"{edit_type}, raters against judge: {'; '.join(said)}", pictures))
        return [("largest disagreements: source and edit", contact_sheet(sheet))] if sheet else []

    def _bank(self, edit_type: EditType) -> Sequence[RubricQuestion]:
        return self.config.bank.get(edit_type, ()) if self.config.bank else bank_of(self.config.scorer)[edit_type]


class _Asking:
    """One judge, asked by many rubrics about the triplets of one edit type; the same is never asked twice."""

    def __init__(self, stage: CalibrateScorer, edit_type: EditType, key: str, progress: Progress) -> None:
        self.said: dict[str, Score] = {}
        """Everything, by identifier."""
        self.made = 0
        self.told = 0
        self._stage, self._edit_type, self._key, self._progress = stage, edit_type, key, progress
        self._scorers: dict[str, Scorer] = {}

    def scorer(self, rubric: Rubric) -> Scorer:
        """The judge, asked by a rubric."""
        if rubric.fingerprint not in self._scorers:
            rubrics = dict.fromkeys(EditType, generic_rubric()) | {self._edit_type: rubric}
            scorer = judge_asked_by(self._stage.config.scorer, rubrics, self._stage.spent)
            self._scorers[rubric.fingerprint] = scorer
        return self._scorers[rubric.fingerprint]

    def scores(self, rubric: Rubric, triplets: Sequence[RatedTriplet]) -> list[Score]:
        """What the judge says of triplets, in order."""
        scorer = self.scorer(rubric)
        fingerprint = scorer.fingerprint_of(self._edit_type)
        names = [Score.id_of(t.edit.edited, t.case, fingerprint, 0) for t in triplets]
        todo = [number for number, name in enumerate(names) if name not in self.said]
        cases, edits = [triplets[n].case for n in todo], [triplets[n].edit for n in todo]
        filled = self._stage.rows.fill(
            self._key,
            [names[number] for number in todo],
            lambda some: rate(scorer, cases, edits, some),
            self._tell,
            self._stage.refresh,
            more_to_come=True,
        )
        self.made += len(filled.made)
        self.said |= {
            names[number]: replace(score, edit_id=triplets[number].edit.edit_id)
            for number, score in zip(todo, filled.rows, strict=True)
        }
        return [self.said[name] for name in names]

    def probed(self, rubric: Rubric, triplets: Sequence[RatedTriplet], count: int) -> list[dict[str, Any]]:
        """The probes: on the best edits where the score should fall or stay, on the worst where it must not rise."""
        ordered = sorted(triplets, key=lambda triplet: (-triplet.human, triplet.edit.edit_id))
        rows = []
        for probe in PROBES:
            some = ordered[-count:] if probe.wanted == "no higher" else ordered[:count]
            before = [score.raw for score in self.scores(rubric, some)]
            seen = [triplet_of(triplet.case, triplet.edit) for triplet in some]
            changed = [probe.change(one, seen[number - 1]) for number, one in enumerate(seen)]
            there = [number for number, one in enumerate(changed) if one is not None]
            after = self.scorer(rubric).score([one for one in changed if one is not None])
            for number, judgement in zip(there, after, strict=True):
                what = {"edit_type": self._edit_type, "probe": probe.name, "edit_id": some[number].edit.edit_id}
                rows.append({**what, "before": before[number], "after": judgement.raw})
            self._tell(len(seen))
        return rows

    def _tell(self, count: int) -> None:
        self.told += count
        self._progress(count)


def _step_row(edit_type: EditType, step: Step) -> dict[str, Any]:
    found = asdict(step.improvement)
    found.pop("note")
    asked = {"question": step.question.name, "text": step.question.text}
    return {
        "edit_type": edit_type,
        **asked,
        "kept": step.kept,
        "reason": step.reason,
        "proposed": step.proposed,
        **found,
    }


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)
