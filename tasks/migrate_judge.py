"""Stage migrate-judge: another judge brought onto the old one's scale, and so onto people's; and what that changes.

The rubrics stay. Per edit type a rising map leads from the new judge's scores to the old one's, and the old judge's map
goes on from there to people's, so that scores stay comparable when a judge is no longer to be had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import fmean
from typing import Any

import pyarrow as pa
from pydantic import Field

from storage.records import EditType, Score, identity
from storage.schemas import SCORES, from_table, to_table
from storage.store import Store, Version, VersionNotFoundError
from storage.work import ShardResult
from tasks.calibrate_scorer import AGREEMENT, JUDGEMENTS, SCORER, CalibrateScorer
from tasks.calibration.migration import Migration, Pair, migration
from tasks.calibration.picking import Pickable, split_held_out
from tasks.calibration.triplets import Labels, RatedTriplet, held_out_of, labels_of, rated_triplets
from tasks.hp_scorer.calibration import Calibration, calibration_of, scorer_rows
from tasks.hp_scorer.catalogue import judge_asked_by
from tasks.hp_scorer.contract import Outcome, Scorer
from tasks.hp_scorer.judge import JudgeError, SpendingCapError
from tasks.hp_scorer.prices import forecast
from tasks.hp_scorer.settings import ScorerConfig
from tasks.limits import Limit
from tasks.pages.migration import render_migration
from tasks.rate_edits import calibrated, rate
from tasks.rows import Filled, Rows
from tasks.settings import passing
from tasks.stage import GatedConfig, Progress, Result, Shard, Stage, join_tables, sum_counts

MOVED = pa.schema(
    [(name, pa.string()) for name in ("edit_id", "edit_type", "source_id")]
    + [(name, pa.float64()) for name in ("old_raw", "new_raw", "new_mapped", "residual", "old_rank", "new_rank")]
    + [(name, pa.bool_()) for name in ("old_full", "new_full", "held_out")]
)
"""The triplets that both judges scored. `new_mapped` is on the old judge's scale, `residual` what it lies above
`old_raw`. Ranks are within an edit type, 1 the best, ties at their mean."""
NOT_ASKED = "not_asked"
"""The outcome of a score that the old judge was not asked for."""

Make = Callable[[Scorer, Sequence[RatedTriplet], Sequence[int]], Generator[tuple[int, Score], None, None]]


class MigrateConfig(GatedConfig):
    """From which judge to which."""

    old: ScorerConfig
    scorer: ScorerConfig
    """The new judge. A version of the artifact `scorer` says under this name whose calibration it is."""
    ask_old: bool = Field(
        True, description="Off: the old judge is gone, and triplets that it has not scored yet are left out."
    )
    held_out_share: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="Of images that nobody rated; rated ones are split as when they were calibrated on.",
    )
    seed: int = 0
    limits: dict[str, Limit] = passing({"coverage": Limit(at_least=0.9)}, "Within which a version becomes `latest`.")


class MigrateJudge(Stage):
    """The rubrics of a calibration with maps for another judge, and a report."""

    name = "migrate-judge"
    artifact = "scorer"
    code_version = 1

    def __init__(self, store: Store, config: MigrateConfig, scorer: Version, triplets: Version | None = None) -> None:
        """A migration of a calibration.

        Args:
            scorer: of the old judge: calibrated, or migrated to it earlier.
            triplets: what both judges score; none: those whose labels it was calibrated on.

        Raises: ValueError where `scorer` is not of the old judge, or of the new one already, or its triplets are gone.
        """
        origin = calibrated_version(scorer)
        labels = origin and _parent(origin, "labels")
        triplets = triplets or (labels and _parent(labels, "triplets"))
        if triplets is None:
            raise ValueError(f"{scorer}: the triplets that it was calibrated on are gone, name others")
        inputs = {"scorer": scorer, "triplets": triplets}
        super().__init__(store, config, inputs | ({"labels": labels} if labels else {}))
        self.config: MigrateConfig = config
        try:
            self.calibration.check(config.old)
        except ValueError as error:
            raise ValueError(f"old judge: {error}") from error
        if _is_of(self.calibration, config.scorer):
            raise ValueError(f"{scorer} is a calibration of the new judge already")

    @cached_property
    def calibration(self) -> Calibration:
        """The rubrics, and maps from the old judge to people."""
        calibration = calibration_of(self.inputs["scorer"])
        assert calibration is not None
        return calibration

    @cached_property
    def old_judge(self) -> Scorer:
        """On its own scale."""
        return judge_asked_by(self.config.old, self.calibration.rubrics)

    @cached_property
    def new_judge(self) -> Scorer:
        """On its own scale."""
        return judge_asked_by(self.config.scorer, self.calibration.rubrics)

    @cached_property
    def types(self) -> dict[str, EditType]:
        """The edit types of the triplets, by edit."""
        parts = self.inputs["triplets"].parts("triplets", ["edit_id", "edit_type"])
        return {row["edit_id"]: EditType(row["edit_type"]) for part in parts for row in part.to_pylist()}

    @cached_property
    def rows(self) -> Rows[Score]:
        """What either judge said in earlier calibrations and migrations."""
        return Rows(self.store, JUDGEMENTS, self.name, self.fingerprints().values())

    def fingerprints(self) -> dict[str, str]:
        # As a calibration of either judge names it, so that one takes over what the other asked.
        judges = {"judge": self.config.scorer, "old judge": self.config.old}
        return {role: identity("judge", config.deciding()) for role, config in judges.items()}

    def shards(self) -> list[Shard]:
        counts = Counter(self.types.values())
        read = [self.inputs[role].ref.manifest for role in ("scorer", "triplets")]
        judges = (self.old_judge, self.new_judge)
        return [
            Shard(
                t,
                2 * counts[t],
                [t, read, self.config.ask_old, [[judge.fingerprint_of(t), judge.full_at] for judge in judges]],
            )
            for t in EditType
        ]

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        edit_type = EditType(shard.name)
        everything: Labels = {edit_id: {} for edit_id, t in self.types.items() if t == edit_type}
        triplets = rated_triplets(self.inputs["triplets"], edit_type, everything, dict.fromkeys(everything, False))
        known = self._known(edit_type)
        missing = [triplet for triplet in triplets if _name(triplet, self.old_judge) not in known]
        progress(len(triplets) - len(missing))
        # What the old judge said is never made again: it may not be there to be asked.
        asked = self._filled(shard, self.old_judge, missing, self._ask_old, progress)
        known |= {score.score_id: score for score in asked.rows}
        olds = [known[_name(triplet, self.old_judge)] for triplet in triplets]
        scored = [t for t, old in zip(triplets, olds, strict=True) if old.outcome == Outcome.SCORED]
        filled = self._filled(shard, self.new_judge, scored, _ask, progress, self.refresh)
        progress(len(triplets) - len(scored))
        said = [
            calibrated(replace(score, edit_id=triplet.edit.edit_id), judge)
            for judge, some, scores in ((self.old_judge, triplets, olds), (self.new_judge, scored, filled.rows))
            for triplet, score in zip(some, scores, strict=True)
        ]
        old_made, old_failed = (len(asked.made), asked.failed) if self.config.ask_old else (0, 0)
        return ShardResult(
            tables={"judgements": (self.store.add_table(to_table(said, SCORES), shard.name),)},
            counts={
                "triplets": len(triplets),
                "old": dict(Counter(score.outcome for score in olds)),
                "new": dict(Counter(score.outcome for score in filled.rows)),
            },
            done=old_made + len(filled.made),
            failed=old_failed + filled.failed,
        )

    def _known(self, edit_type: EditType) -> dict[str, Score]:
        """What the calibration heard from the old judge, however long ago that was."""
        said: dict[str, Score] = {}
        for file in self.inputs["scorer"].files("judgements"):
            if file.partition in (None, edit_type):
                scores = from_table(self.store.read_table(file), Score)
                said |= {score.score_id: score for score in scores if score.outcome == Outcome.SCORED}
        return said

    def _filled(
        self,
        shard: Shard,
        judge: Scorer,
        triplets: Sequence[RatedTriplet],
        make: Make,
        progress: Progress,
        refresh: bool = False,
    ) -> Filled[Score]:
        return self.rows.fill(
            self.key_of(shard),
            [_name(triplet, judge) for triplet in triplets],
            lambda some: make(judge, triplets, some),
            progress,
            refresh,
            more_to_come=True,
        )

    def _ask_old(
        self, judge: Scorer, triplets: Sequence[RatedTriplet], some: Sequence[int]
    ) -> Generator[tuple[int, Score], None, None]:
        """Ask the old judge, if it is still there. Raises: JudgeError that says what to do if it is not."""
        if not self.config.ask_old:
            for number in some:
                yield number, _not_asked(triplets[number], judge)
            return
        try:
            yield from _ask(judge, triplets, some)
        except SpendingCapError:
            raise
        except JudgeError as error:
            raise JudgeError(
                f"old judge: {error}. If it is gone for good, set ask_old to false (--old-is-gone): what it scored "
                "before is used, other triplets are left out"
            ) from error

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        of_shards = {edit_id: t for edit_id, t in self.types.items() if t in {shard.name for shard in shards}}
        judges = [("new", "judge", self.config.scorer, self.new_judge)]
        if self.config.ask_old:
            judges.insert(0, ("old", "old judge", self.config.old, self.old_judge))
        for which, role, config, judge in judges:
            if config.kind == "measured":
                continue
            own = [self.fingerprints()[role], *(judge.fingerprint_of(edit_type) for edit_type in EditType)]
            rows = Rows(self.store, JUDGEMENTS, self.name, own)
            known = rows.known_of("edit_id", map(self.key_of, shards)) & set(of_shards)
            wanted = Counter(t for edit_id, t in of_shards.items() if edit_id not in known)
            told = forecast(config, self.calibration.rubrics, wanted, len(known), rows.seconds_each())
            yield from (f"{which} judge: {line}" for line in told.lines())

    def finish(self, results: Sequence[ShardResult]) -> Result:
        tables, counts = join_tables(results), sum_counts(results)
        columns = ["edit_id", "scorer", "score", "full"]
        said = {
            (row["edit_id"], row["scorer"]): row
            for file in tables["judgements"]
            for row in self.store.read_table(file, columns).to_pylist()
            if row["score"] is not None
        }
        labels = self.inputs.get("labels")
        human = {edit: fmean(by_rater.values()) for edit, by_rater in (labels_of(labels) if labels else {}).items()}
        both = []
        for part in self.inputs["triplets"].parts("triplets", ["edit_id", "edit_type", "source_id"]):
            for row in part.to_pylist():
                judges = (self.old_judge, self.new_judge)
                keys = [(row["edit_id"], judge.fingerprint_of(EditType(row["edit_type"]))) for judge in judges]
                if all(key in said for key in keys):
                    both.append((row, *(said[key] for key in keys)))
        held_out = self._held_out(
            [Pickable(row["edit_id"], row["edit_type"], row["source_id"], old["score"]) for row, old, _ in both]
        )
        pairs = [
            Pair(
                edit_id=row["edit_id"],
                edit_type=EditType(row["edit_type"]),
                source_id=row["source_id"],
                old=old["score"],
                new=new["score"],
                old_full=old["full"],
                new_full=new["full"],
                human=human.get(row["edit_id"]),
                held_out=held_out[row["source_id"]],
            )
            for row, old, new in sorted(both, key=lambda found: found[0]["edit_id"])
        ]
        found = migration(pairs, self.calibration.maps, self.old_judge.full_at, self.config.seed)
        return self._result(found, tables, counts, _told(labels))

    def _result(self, found: Migration, tables: dict[str, Any], counts: dict[str, Any], raters: str) -> Result:
        asked, scored = sum(counts["new"].values()), counts["new"].get(Outcome.SCORED, 0)
        left_out = {
            "no score of the old judge": counts["triplets"] - asked,
            "no score of the new judge": asked - scored,
        }
        names = {"old": self.config.old.deciding(), "new": self.config.scorer.deciding()}
        page = render_migration(found, names, self.inputs, left_out, raters)
        notes = {edit_type: fit.note for edit_type, fit in found.to_old.items()}
        for name, rows, schema in (
            ("scorer", scorer_rows(self.calibration.rubrics, found.to_people, notes), SCORER),
            ("moved", found.moved_rows(), MOVED),
            ("agreement", found.agreement_rows(), AGREEMENT),
        ):
            tables[name] = [self.store.add_table(pa.Table.from_pylist(rows, schema=schema))]
        tables["report"] = [self.store.add_file(page.encode(), ".html")]
        statistics = {"counts": counts, "left_out": left_out, "raters": raters, **found.statistics()}
        coverage = scored / asked if asked else float("nan")
        return Result(tables, statistics, {"coverage": coverage, **found.measures()})

    def _held_out(self, items: Sequence[Pickable]) -> dict[str, bool]:
        """Which source images are set aside: of the rated ones those that no question or map was chosen by."""
        split: dict[str, bool] = {}
        if (origin := calibrated_version(self.inputs["scorer"])) and (labels := self.inputs.get("labels")):
            config, triplets = origin.manifest.config, _parent(origin, "triplets")
            if triplets is not None:
                of_edits = held_out_of(triplets, labels_of(labels), config["held_out_share"], config["seed"])
                for part in triplets.parts("triplets", ["edit_id", "source_id"]):
                    split |= {
                        r["source_id"]: of_edits[r["edit_id"]] for r in part.to_pylist() if r["edit_id"] in of_edits
                    }
        rest = [item for item in items if item.cluster not in split]
        of_rest = split_held_out(rest, self.config.held_out_share, self.config.seed)
        return split | {item.cluster: of_rest[item.edit_id] for item in rest}


def calibrated_version(scorer: Version) -> Version | None:
    """The calibration on people's labels that a version goes back to; None where that is gone."""
    found: Version | None = scorer
    while found is not None and found.manifest.stage != CalibrateScorer.name:
        found = _parent(found, "scorer")
    return found


def _parent(version: Version, role: str) -> Version | None:
    parent = version.manifest.parents.get(role)
    try:
        return version.store.version(parent.artifact, parent.version) if parent else None
    except VersionNotFoundError:
        return None


def _is_of(calibration: Calibration, judge: ScorerConfig) -> bool:
    try:
        calibration.check(judge)
    except ValueError:
        return False
    return True


def _told(labels: Version | None) -> str:
    """Who rated."""
    if labels is None:
        return "none"
    return "simulated" if labels.manifest.statistics["simulated"] else "people"


def _name(triplet: RatedTriplet, judge: Scorer) -> str:
    return Score.id_of(triplet.edit.edited, triplet.case, judge.fingerprint_of(triplet.case.edit_type), 0)


def _ask(
    judge: Scorer, triplets: Sequence[RatedTriplet], some: Sequence[int]
) -> Generator[tuple[int, Score], None, None]:
    return rate(judge, [triplet.case for triplet in triplets], [triplet.edit for triplet in triplets], some)


def _not_asked(triplet: RatedTriplet, judge: Scorer) -> Score:
    return Score(
        score_id=_name(triplet, judge),
        edit_id=triplet.edit.edit_id,
        case_id=triplet.case.case_id,
        edit_type=triplet.case.edit_type,
        outcome=NOT_ASKED,
        score=None,
        full=False,
        answers={},
        raw_reply="",
        scorer=judge.fingerprint_of(triplet.case.edit_type),
        attempt=0,
    )
