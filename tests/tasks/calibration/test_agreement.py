"""Every figure against an independent computation, and clear words where there is none."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.calibration import weighted
from tasks.calibration.agreement import agreement, paired_improvement, round_half_up

RANDOM = np.random.default_rng(0)
HUMAN = list(RANDOM.choice(6, 60, p=[0.1, 0.05, 0.1, 0.15, 0.2, 0.4]).astype(float))
JUDGE = [float(v) for v in np.clip(np.round(np.asarray(HUMAN) + RANDOM.normal(0, 1, 60), 1), 0, 5)]
CLUSTERS = [f"image {i // 2}" for i in range(60)]
ORDER = ["pearson", "spearman", "kendall", "qwk", "pair_accuracy"]
SCORES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 4.0, 4.5, 5.0])


def kappa_by_hand(judge, human):
    """From the table of counts, as it is defined."""
    table = np.zeros((6, 6))
    for j, h in zip(judge, human, strict=True):
        table[math.floor(j + 0.5), math.floor(h + 0.5)] += 1
    weights = (np.arange(6)[:, None] - np.arange(6)) ** 2
    chance = np.outer(table.sum(1), table.sum(0)) / table.sum()
    return 1 - (weights * table).sum() / (weights * chance).sum()


def pair_accuracy_by_hand(judge, human):
    """The best share over every threshold that makes a difference."""
    pairs = [(i, j) for i, j in itertools.combinations(range(len(judge)), 2)]
    differences = {i: {j: round(judge[i] - judge[j], 6) for j in range(len(judge))} for i in range(len(judge))}

    def sign(value):
        return int(value > 0) - int(value < 0)

    def share(threshold):
        said = [0 if abs(differences[i][j]) <= threshold else sign(differences[i][j]) for i, j in pairs]
        return sum(s == sign(human[i] - human[j]) for s, (i, j) in zip(said, pairs, strict=True)) / len(pairs)

    return max(share(t) for t in {0.0, *(abs(differences[i][j]) for i, j in pairs)})


def test_the_figures_are_those_of_scipy_and_of_the_definitions():
    found = agreement(JUDGE, HUMAN, CLUSTERS, resamples=50)
    judge, human = np.asarray(JUDGE), np.asarray(HUMAN)
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {
            "pearson": stats.pearsonr(judge, human).statistic,
            "spearman": stats.spearmanr(judge, human).statistic,
            "kendall": stats.kendalltau(judge, human).statistic,
            "qwk": kappa_by_hand(judge, human),
            "mae": np.abs(judge - human).mean(),
            "bias": judge.mean() - human.mean(),
            "within_1": np.mean([abs(round(j - h, 6)) <= 1 for j, h in zip(JUDGE, HUMAN, strict=True)]),
            "exact": np.mean([math.floor(j + 0.5) == h for j, h in zip(JUDGE, HUMAN, strict=True)]),
            "pair_accuracy": pair_accuracy_by_hand(JUDGE, HUMAN),
            "coverage": 1.0,
        }
    )
    assert {one.n for one in found.values()} == {60}
    assert not any(one.note for one in found.values())


@pytest.mark.parametrize(
    ("measure", "of_scipy"),
    [
        (weighted.pearson, stats.pearsonr),
        (weighted.spearman, stats.spearmanr),
        (weighted.kendall, stats.kendalltau),
    ],
)
def test_a_resample_by_weights_is_the_resample_written_out(measure, of_scipy):
    drawn = weighted.draw_weights(CLUSTERS, 40, seed=1)
    values = measure(drawn, np.asarray(JUDGE), np.asarray(HUMAN))
    for weights, value in zip(drawn, values, strict=True):
        judge, human = np.repeat(JUDGE, weights.astype(int)), np.repeat(HUMAN, weights.astype(int))
        assert value == pytest.approx(of_scipy(judge, human).statistic)


def test_kappa_and_pairs_of_a_resample_by_weights():
    drawn = weighted.draw_weights(CLUSTERS, 10, seed=1)
    judge, human = round_half_up(np.asarray(JUDGE)), np.asarray(HUMAN)
    for weights, kappa, accuracy in zip(
        drawn,
        weighted.kappa(drawn, judge, human),
        weighted.pair_accuracy(drawn, np.asarray(JUDGE), human, 0.5),
        strict=True,
    ):
        rows = np.repeat(np.arange(60), weights.astype(int))
        assert kappa == pytest.approx(kappa_by_hand(judge[rows], human[rows]))
        right = total = 0
        for i, j in itertools.combinations(rows, 2):
            if i != j:
                difference = round(JUDGE[i] - JUDGE[j], 6)
                said = 0 if abs(difference) <= 0.5 else np.sign(difference)
                right, total = right + (said == np.sign(human[i] - human[j])), total + 1
        assert accuracy == pytest.approx(right / total)


def test_whole_clusters_are_drawn():
    drawn = weighted.draw_weights(["b", "a", "b", "c"], 100, seed=0)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (drawn[:, [1, 0, 3, 2]] == weighted.draw_weights(["a", "b", "c", "b"], 100, seed=0)).all()


def test_copies_of_a_triplet_are_no_more_evidence():
    alone = agreement(JUDGE, HUMAN, [str(i) for i in range(60)])
    copies = agreement(JUDGE * 3, HUMAN * 3, [str(i) for i in range(60)] * 3)
    for name in ("pearson", "spearman", "qwk", "mae", "bias"):
        assert copies[name].low == pytest.approx(alone[name].low)
        assert copies[name].high == pytest.approx(alone[name].high)


def test_the_interval_of_a_correlation_is_near_fishers():
    random = np.random.default_rng(3)
    human = random.normal(size=400)
    judge = 0.8 * human + 0.6 * random.normal(size=400)
    found = agreement(list(judge), list(human), [str(i) for i in range(400)])["pearson"]
    low, high = stats.pearsonr(judge, human).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_a_failed_judgement_is_missing_and_not_zero():
    judge = [None if i % 4 == 0 else score for i, score in enumerate(JUDGE)]
    found = agreement(judge, HUMAN, CLUSTERS, resamples=50)
    kept = [i for i in range(60) if i % 4]
    rest = agreement([JUDGE[i] for i in kept], [HUMAN[i] for i in kept], [CLUSTERS[i] for i in kept], resamples=50)
    assert {n: m for n, m in found.items() if n != "coverage"} == {n: m for n, m in rest.items() if n != "coverage"}
    interval = stats.binomtest(45, 60).proportion_ci(method="wilson")
    assert (found["coverage"].value, found["coverage"].low, found["coverage"].high) == pytest.approx(
        (0.75, interval.low, interval.high)
    )


@pytest.mark.parametrize(
    ("name", "judge", "human", "notes"),
    [
        ("no rows", [], [], {"pearson": "no triplets", "mae": "no triplets", "coverage": "no triplets"}),
        ("failed", [None, None], [1, 2], {"qwk": "the judge scored no triplet", "bias": "the judge scored no triplet"}),
        ("one", [3.0], [2], {"kendall": "only 1 triplet with both scores", "mae": "no interval: only 1 source image"}),
        ("two", [3.0, 1.0], [2, 0], {"pair_accuracy": "only 2 triplets with both scores"}),
        ("all fives", [3.0, 4.0, 5.0, 5.0], [5] * 4, dict.fromkeys(ORDER, "all human scores are 5")),
        ("constant judge", [5.0] * 4, [1, 3, 5, 5], dict.fromkeys(ORDER[:3], "the judge gave one score to everything")),
        ("one rounded score", [3.0, 4.0, 5.0], [3.6, 4, 4.4], {"qwk": "all human scores round to 4"}),
    ],
)  # fmt: skip
def test_where_there_is_no_figure_it_says_why(name, judge, human, notes):
    found = agreement(judge, human, [str(i) for i in range(len(judge))], resamples=200)
    for measure, note in notes.items():
        assert found[measure].note == note
        assert found[measure].low is None
        if not note.startswith("no interval"):
            assert found[measure].value is None
    assert "nan" not in str([one.to_json() for one in found.values()])


def test_a_constant_judge_has_kappa_zero_and_the_share_of_peoples_ties():
    found = agreement([4.0] * 6, [5, 5, 5, 2, 2, 0], list("abcdef"), resamples=100)
    assert (found["qwk"].value, found["qwk"].note) == (0, "the judge gave one score to everything")
    assert found["pair_accuracy"].value == pytest.approx(4 / 15)
    assert found["bias"].value == pytest.approx(4 - 19 / 6)


def test_one_source_image_gives_no_interval():
    found = agreement(JUDGE, HUMAN, ["same"] * 60)
    assert found["pearson"].value is not None
    assert (found["pearson"].low, found["pearson"].note) == (None, "no interval: only 1 source image")


def test_degenerate_resamples_are_skipped_and_counted():
    """One low score among fives: a third of the resamples lack it."""
    found = agreement([5.0, 5.0, 4.0, 5.0, 3.0, 1.0], [5, 5, 5, 5, 5, 0], list("abcdef"))["spearman"]
    assert found.low <= found.value <= found.high
    skipped = float(found.note.split("%")[0])
    assert skipped == pytest.approx(100 * (5 / 6) ** 6, abs=4)
    assert found.note.endswith("of the resamples had no value")


def test_two_scores_a_rounding_error_apart_are_equal():
    found = agreement([0.1 + 0.2, 0.3, 0.3, 0.3], [1, 2, 3, 4], list("abcd"))
    assert found["pearson"].note == "the judge gave one score to everything"


def test_half_points_round_up():
    assert list(round_half_up(np.asarray([0.5, 1.5, 2.5, 2.49, 4.5, 5.0]))) == [1, 2, 3, 2, 5, 5]


def test_wrong_use_fails_at_once():
    with pytest.raises(ValueError, match="not finite"):
        agreement([float("nan")], [1], ["a"])
    with pytest.raises(ValueError, match="shorter"):
        agreement([1.0, 2.0], [1], ["a"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.none() | SCORES, SCORES, st.sampled_from("abcdef")), max_size=12))
def test_nothing_is_ever_nan_and_intervals_are_intervals(rows):
    found = agreement([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], resamples=30)
    for one in found.values():
        numbers = [v for v in (one.value, one.low, one.high) if v is not None]
        assert all(math.isfinite(v) for v in numbers)
        assert one.note or len(numbers) == 3
        assert len(numbers) != 3 or one.low <= one.high


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=3, max_size=10))
def test_pair_accuracy_of_any_scores(rows):
    judge, human = [r[0] for r in rows], [r[1] for r in rows]
    found = agreement(judge, human, [str(i) for i in range(len(rows))], resamples=5)["pair_accuracy"]
    if len(set(human)) > 1:
        assert found.value == pytest.approx(pair_accuracy_by_hand(judge, human))


@pytest.mark.parametrize("measure", ["pearson", "spearman"])
def test_an_improvement_is_paired(measure):
    better = [h + 0.2 * (i % 3) for i, h in enumerate(HUMAN)]
    found = paired_improvement(JUDGE, better, HUMAN, CLUSTERS, measure)
    correlation = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[measure]
    assert found.before == pytest.approx(correlation(JUDGE, HUMAN).statistic)
    assert found.after == pytest.approx(correlation(better, HUMAN).statistic)
    assert found.difference == pytest.approx(found.after - found.before)
    assert 0 < found.low < found.difference < found.high
    assert (found.better_share, found.n, found.note) == (1.0, 60, "")


def test_the_interval_of_an_improvement_is_that_of_the_resamples_written_out():
    other = list(reversed(JUDGE))
    found = paired_improvement(other, JUDGE, HUMAN, CLUSTERS, "spearman", seed=5, resamples=60)
    gains = []
    for weights in weighted.draw_weights(CLUSTERS, 60, seed=5):
        rows = np.repeat(np.arange(60), weights.astype(int))
        human = np.asarray(HUMAN)[rows]
        after, before = (stats.spearmanr(np.asarray(j)[rows], human).statistic for j in (JUDGE, other))
        gains.append(after - before)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gains, (0.025, 0.975))))
    assert found.better_share == np.mean(np.asarray(gains) > 0)


def test_the_same_judge_is_no_improvement():
    found = paired_improvement(JUDGE, JUDGE, HUMAN, CLUSTERS)
    assert (found.difference, found.low, found.high, found.better_share) == (0, 0, 0, 0)


def test_a_judge_that_begins_to_speak_improves():
    found = paired_improvement([5.0] * 60, JUDGE, HUMAN, CLUSTERS)
    assert found.before == 0
    assert found.low > 0
    assert found.note == "before gave one score to everything, which counts as agreement 0"


def test_only_rows_with_both_scores_count():
    before = [None if i < 10 else score for i, score in enumerate(JUDGE)]
    after = [None if i > 49 else score for i, score in enumerate(HUMAN)]
    assert paired_improvement(before, after, HUMAN, CLUSTERS).n == 40


@pytest.mark.parametrize(
    ("after", "human", "note"),
    [
        ([], [], "no triplet with both scores"),
        ([1.0, None, 2.0], [1, 2, 3], "only 2 triplets with both scores"),
        ([1.0, 2.0, 3.0], [5, 5, 5], "all human scores are 5"),
    ],
)
def test_an_improvement_that_cannot_be_measured_says_why(after, human, note):
    found = paired_improvement([1.0] * len(after), after, human, [str(i) for i in range(len(after))])
    assert (found.before, found.after, found.difference, found.low, found.better_share) == (None,) * 5
    assert found.note == note


def test_an_improvement_without_enough_images_has_no_interval():
    found = paired_improvement(JUDGE, HUMAN, HUMAN, ["a", "b"] * 30)
    assert found.difference is not None
    assert (found.low, found.better_share, found.note) == (None, None, "no interval: only 2 source images")
