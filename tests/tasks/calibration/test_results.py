"""What a calibration came to: the badge and its reasons, the probes, and what is kept for the judge."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from storage.records import EditType, canonical_json
from tasks.calibration.agreement import Measured
from tasks.calibration.probes import PROBES
from tasks.calibration.results import JUDGES, OVERALL, BadgeLimits, Judged, calibration_result
from tasks.calibration.score_map import IDENTITY, ScoreMap
from tasks.hp_scorer.calibration import CalibratedScorer, Calibration
from tasks.hp_scorer.contract import Judgement, Outcome, Scorer
from tasks.hp_scorer.rubric import Rubric, RubricQuestion, rubric_of

ONE = {EditType.SWAP: rubric_of(EditType.SWAP)}
TWO = ONE | {EditType.STYLE: rubric_of(EditType.STYLE)}


def judged(count=60, noise=0.2, shift=0.5, edit_type=EditType.SWAP):
    """People who agree, and a judge that follows them from above; two triplets of each image, half of them held out."""
    rng = np.random.default_rng(0)
    held_out = rng.permutation(count // 2) % 2
    rows = []
    for number in range(count):
        human = number // 2 % 6
        row = Judged(
            edit_type=edit_type,
            edit_id=f"{edit_type}-{number}",
            source_id=f"image-{number // 2}",
            ratings={"a": human, "b": human},
            held_out=bool(held_out[number // 2]),
            generic=float(rng.uniform(0, 5)),
            raw=float(np.clip(human + shift + rng.normal(0, noise), 0, 5)),
            reply="",
        )
        rows.append(row)
    return rows


def result_of(rows, rubrics=ONE, probed=(), limits=None, steps=(), simulated=False):
    return calibration_result(rows, rubrics, steps, probed, limits or BadgeLimits(), simulated=simulated)


def reasons_of(*args, **options):
    return list(result_of(*args, **options).badge.reasons)


def test_a_good_judge_is_calibrated():
    result = result_of(judged())
    assert result.badge.reasons == ()
    assert result.badge.calibrated
    assert result.statistics()["badge"] == "calibrated"
    assert result.maps[EditType.SWAP].fitted


UNREACHABLE = {
    "coverage": (1.1, "coverage is 1.00, wanted at least 1.1"),
    "qwk": (1.1, r"the lower end of qwk is 0\.9\d, wanted at least 1.1"),
    "pair_accuracy": (1.1, r"pair_accuracy is \d\.\d\d, wanted at least 1.1"),
    "mae": (0.0, r"mae is 0\.\d\d, wanted at most 0"),
    "bias": (0.0, r"bias is [+-]0\.\d\d, wanted at most 0"),
}


@pytest.mark.parametrize("name", BadgeLimits.model_fields)
def test_each_limit_is_a_reason_of_its_own(name):
    limit, said = UNREACHABLE[name]
    (reason,) = reasons_of(judged(), limits=BadgeLimits(**{name: limit}))
    assert re.fullmatch(said, reason), reason


def test_what_is_just_reached_is_reached():
    found = result_of(judged()).agreement[OVERALL]["calibrated"]
    exactly = {name: found[name].value for name in ("coverage", "mae", "pair_accuracy")}
    assert (
        reasons_of(judged(), limits=BadgeLimits(**exactly, qwk=found["qwk"].low, bias=abs(found["bias"].value))) == []
    )


def test_a_bias_counts_in_both_directions():
    """The map takes away a bias that is the same everywhere; here the held-out triplets got another one."""
    for shift in (-1.0, 1.0):
        rows = [
            replace(row, raw=float(np.clip(row.raw + shift, 0, 5))) if row.held_out else row
            for row in judged(shift=0.0)
        ]
        biased = [reason for reason in reasons_of(rows) if reason.startswith("bias")]
        assert len(biased) == 1
        assert biased[0].startswith(f"bias is {'+' if shift > 0 else '-'}0.")


def test_what_cannot_be_measured_is_a_reason_not_a_pass():
    all_fives = [replace(row, ratings={"a": 5}) for row in judged()]
    reasons = reasons_of(all_fives)
    assert "the lower end of qwk is unknown: all human scores are 5" in reasons
    assert "pair_accuracy is unknown: all human scores are 5" in reasons
    two_images = [replace(row, source_id=f"image-{number % 2}") for number, row in enumerate(judged())]
    assert reasons_of(two_images) == ["the lower end of qwk is unknown: no interval: only 2 source images"]


def test_a_judge_that_failed_everywhere_says_so_in_every_reason():
    silent = [replace(row, raw=None, generic=None) for row in judged()]
    result = result_of(silent)
    assert "coverage is 0.00, wanted at least 0.99" in result.badge.reasons
    assert "mae is unknown: the judge scored no triplet" in result.badge.reasons
    assert result.measures()["coverage"] == 0
    assert np.isnan(result.measures()["pearson"])
    assert result.maps[EditType.SWAP].score_map == IDENTITY
    canonical_json([result.statistics(), result.agreement_rows(), result.scorer_rows()])


def test_nothing_at_all_is_a_result_that_says_so():
    result = result_of([], TWO)
    assert not result.badge.calibrated
    assert all("no triplets" in reason or "pairs" in reason for reason in result.badge.reasons)
    assert set(result.maps) == set(TWO)
    canonical_json([result.statistics(), result.agreement_rows(), result.scorer_rows(), result.probes])


def test_an_edit_type_without_a_map_is_a_reason_by_name():
    rows = judged(18) + judged(8, edit_type=EditType.STYLE)
    few = [row for row in rows if row.held_out or row.edit_type == EditType.STYLE]
    reasons = reasons_of(few, TWO)
    noted = [reason for reason in reasons if reason.startswith(("object_swap: ", "style_transfer: "))]
    assert [reason.split(":")[0] for reason in noted] == ["object_swap", "style_transfer"]
    assert all("that a map needs" in reason for reason in noted)


def test_a_small_edit_type_borrows_the_map_of_all_and_says_so():
    result = result_of(judged(120) + judged(20, edit_type=EditType.STYLE), TWO)
    assert not result.maps[EditType.SWAP].pooled
    assert result.maps[EditType.STYLE].pooled
    assert result.badge.calibrated, "a borrowed map is a map"
    (note,) = [row["note"] for row in result.scorer_rows() if row["edit_type"] == EditType.STYLE]
    assert "the map of all edit types together" in note


def test_nothing_is_fitted_on_what_was_set_aside():
    """What people say of held-out triplets, and what the judge says of them, does not change the map."""
    rows = judged()
    spoilt = [replace(row, ratings={"a": 5 - row.ratings["a"]}, raw=2.0) if row.held_out else row for row in rows]
    assert result_of(spoilt).maps == result_of(rows).maps
    tuned = [row if row.held_out else replace(row, raw=5 - row.raw) for row in rows]
    assert result_of(tuned).maps != result_of(rows).maps


def test_everything_is_measured_on_what_was_set_aside():
    rows = judged()
    assert {m.n for m in result_of(rows).agreement[OVERALL]["rubric"].values()} == {sum(r.held_out for r in rows)}
    tuned = [row if row.held_out else replace(row, raw=0.3) for row in rows]
    assert result_of(tuned).agreement[OVERALL]["rubric"] == result_of(rows).agreement[OVERALL]["rubric"]


def test_the_three_judges_are_three_stages_of_one():
    found = result_of(judged(shift=1.0)).agreement[OVERALL]
    assert list(found) == list(JUDGES)
    assert found["generic"]["pearson"].value < 0.5 < found["rubric"]["pearson"].value
    assert found["calibrated"]["mae"].value < found["rubric"]["mae"].value
    assert found["calibrated"]["bias"].value == pytest.approx(0, abs=0.2)
    improvement = result_of(judged(shift=1.0)).improvement
    assert improvement.before == found["generic"]["pearson"].value
    assert improvement.after == found["calibrated"]["pearson"].value
    assert improvement.better_share > 0.99


def probed(name, before=4.5, after=1.0, count=4):
    return [{"probe": name, "edit_id": f"e{i}", "before": before, "after": after} for i in range(count)]


def test_a_failed_probe_is_a_reason_and_a_passed_one_is_not():
    rows = [*probed("unchanged", after=4.0), *probed("black", after=0.0)]
    result = result_of(judged(), probed=rows)
    assert list(result.badge.reasons) == ["probe unchanged failed"]
    assert result.statistics()["probes_failed"] == ["unchanged"]
    shown = {row["probe"]: row for row in result.probes}
    assert [row["probe"] for row in result.probes] == [probe.name for probe in PROBES]
    assert (shown["unchanged"]["passed"], shown["black"]["passed"]) == (False, True)
    assert (shown["black"]["n"], shown["black"]["before"], shown["black"]["after"]) == (4, 4.5, 0.0)


def test_a_probe_without_scores_is_neither_passed_nor_failed():
    rows = [*probed("black", after=None), *probed("jpeg", before=None)]
    result = result_of(judged(), probed=rows)
    shown = {row["probe"]: row for row in result.probes}
    for name in ("black", "jpeg", "crop"):
        assert (shown[name]["passed"], shown[name]["n"], shown[name]["after"]) == (None, 0, None)
    told = [f"probe {name} showed nothing: the judge gave no score" for name in ("black", "jpeg")]
    assert list(result.badge.reasons) == told, "what was tried in vain speaks against it, what was not tried does not"
    assert result.statistics()["probes_failed"] == []


def test_a_probe_is_judged_by_the_pairs_that_have_both_scores():
    rows = [*probed("unchanged", after=1.0, count=2), *probed("unchanged", after=None, count=9)]
    (row,) = [row for row in result_of(judged(), probed=rows).probes if row["probe"] == "unchanged"]
    assert (row["n"], row["passed"]) == (2, True)


class Says(Scorer):
    """A judge with one raw score."""

    def __init__(self, raw):
        self.raw = raw

    def judgements(self, triplets, attempt=0):
        return ((n, Judgement(outcome=Outcome.SCORED, score=self.raw)) for n, _ in enumerate(triplets))


def test_what_is_kept_for_the_judge_is_read_back():
    question = RubricQuestion(name="gone", text='Is "it" gone?')
    result = result_of(judged(120, shift=1.0), {EditType.SWAP: ONE[EditType.SWAP].with_questions([question])})
    (row,) = result.scorer_rows()
    assert json.loads(canonical_json(row)) == row
    rubric, score_map = Rubric.model_validate_json(row["rubric"]), ScoreMap.from_json(json.loads(row["score_map"]))
    assert rubric.questions == (question,)
    assert rubric.fingerprint == result.rubrics[EditType.SWAP].fingerprint
    assert score_map == result.maps[EditType.SWAP].score_map != IDENTITY
    calibration = Calibration({}, {EditType.SWAP: rubric}, {EditType.SWAP: score_map})
    one = next(j for j in result.judged if 1 < j.raw < 4)
    (judgement,) = CalibratedScorer(Says(one.raw), calibration.maps).score([one])
    assert judgement.score == result.calibrated_score(one) != one.raw
    assert judgement.raw == one.raw
    assert result.calibrated_score(replace(one, raw=None)) is None


def test_every_figure_is_a_row():
    rows = result_of(judged()).agreement_rows()
    found = {(row["edit_type"], row["judge"], row["measure"]): row for row in rows}
    assert len(found) == len(rows)
    assert {group for group, _, _ in found} == {OVERALL, EditType.SWAP}
    assert {judge for _, judge, _ in found} == {*JUDGES, "people"}
    pearson = found[OVERALL, "calibrated", "pearson"]
    assert pearson["low"] < pearson["value"] < pearson["high"]
    assert found[OVERALL, "people", "pearson"]["value"] == 1
    assert set(pearson) == {"edit_type", "judge", "measure", *Measured.__slots__}


def test_whose_ratings_they_were_is_said():
    assert result_of(judged(), simulated=True).statistics()["raters"] == "simulated"
    assert result_of(judged(), simulated=False).statistics()["raters"] == "people"


def test_the_same_gives_the_same():
    assert canonical_json(result_of(judged()).statistics()) == canonical_json(result_of(judged()).statistics())
