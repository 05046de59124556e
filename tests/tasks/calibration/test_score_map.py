"""The map keeps the judge's order, stays on the scale and follows people."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from tasks.calibration.score_map import IDENTITY, ScoreMap, fit_map, fit_maps

RAW = st.integers(0, 500).map(lambda v: v / 100)
HUMAN = st.integers(0, 5).map(float)
PAIRS = st.lists(st.tuples(RAW, HUMAN), max_size=40)


def test_identity():
    assert [IDENTITY(v) for v in (0, 0.1, 2.5, 5)] == [0, 0.1, 2.5, 5]


def test_by_hand():
    """Two steps: raw 1 -> 1, and raw 3 and 5 pooled to (4 x 4 + 6 x 3.5) / 10 = 3.7 at their mean raw 4.2."""
    raw = [1.0] * 10 + [3.0] * 4 + [5.0] * 6
    human = [1.0] * 10 + [4.0] * 4 + [3.5] * 6
    fit = fit_map(raw, human)
    slope = np.polyfit(raw, human, 1)[0]
    assert np.allclose(fit.score_map.points, [(0, 1 - slope), (1, 1), (4.2, 3.7), (5, 3.7 + 0.8 * slope)])
    assert fit.score_map(2.6) == pytest.approx(1 + 2.7 / 2)
    assert (fit.fitted, fit.n, fit.note) == (True, 20, "")


def test_a_top_step_below_the_best_score_goes_on_rising():
    raw = [2.0] * 10 + [4.8] * 10
    human = [2.0] * 10 + [4.4] * 10
    fitted = fit_map(raw, human).score_map
    assert fitted(4.8) == 4.4
    assert 4.4 < fitted(4.9) < fitted(5.0) <= 5


def test_a_steep_judge_does_not_leave_the_scale():
    fitted = fit_map([2.4] * 10 + [2.6] * 10, [0.5] * 10 + [4.5] * 10).score_map
    assert fitted.points == ((0, 0), (2.4, 0.5), (2.6, 4.5), (5, 5))


def test_beyond_a_step_of_fives_it_is_flat():
    fitted = fit_map([1.0] * 10 + [4.0] * 10, [1.0] * 10 + [5.0] * 10).score_map
    assert fitted(4.0) == fitted(5.0) == 5


def test_at_the_centres_it_is_the_isotonic_regression():
    random = np.random.default_rng(0)
    human = random.integers(0, 6, 200).astype(float)
    raw = np.clip(0.6 * human + 1.5 + random.normal(0, 0.7, 200), 0, 5).round(2)
    order = np.argsort(raw, kind="stable")
    raws, index, counts = np.unique(raw[order], return_inverse=True, return_counts=True)
    steps = isotonic_regression(np.bincount(index, human[order]) / counts, weights=counts).x
    fitted = fit_map(list(raw), list(human)).score_map
    for step in np.unique(steps.round(6)):
        inside = np.abs(steps - step) < 1e-5
        assert fitted(np.average(raws[inside], weights=counts[inside])) == pytest.approx(step, abs=1e-4)


def test_it_takes_away_bias_and_compression():
    random = np.random.default_rng(1)
    human = random.integers(0, 6, 400).astype(float)
    raw = np.clip(3.5 + 0.3 * human + random.normal(0, 0.15, 400), 0, 5)
    fitted = fit_map(list(raw[:200]), list(human[:200])).score_map
    new = np.asarray([fitted(v) for v in raw[200:]])
    assert abs((new - human[200:]).mean()) < 0.15
    assert np.abs(new - human[200:]).mean() < 0.6 < np.abs(raw[200:] - human[200:]).mean()


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.lists(RAW, min_size=2, max_size=30))
def test_it_never_changes_an_order_and_merges_scores_only_at_the_ends(pairs, raws):
    fit = fit_map([r for r, _ in pairs], [h for _, h in pairs])
    for low, high in itertools.pairwise(sorted(set(raws))):
        below, above = fit.score_map(low), fit.score_map(high)
        assert 0 <= below <= above <= 5
        assert below < above or below == above == 0 or below == above == 5
    assert ScoreMap.from_json(fit.score_map.to_json()) == fit.score_map
    assert fit.fitted or (fit.score_map == IDENTITY and fit.note)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(RAW, HUMAN), min_size=10, max_size=40), st.randoms())
def test_the_order_of_the_pairs_does_not_matter(pairs, random):
    mixed = random.sample(pairs, len(pairs))
    one, two = (fit_map([r for r, _ in p], [h for _, h in p]).score_map for p in (pairs, mixed))
    assert np.allclose(one.points, two.points, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 4.99), min_size=1, max_size=6, unique=True), st.lists(st.floats(0, 5), min_size=50))
def test_rounding_never_turns_an_order_round(inner, raws):
    inner = sorted(inner)
    fitted = ScoreMap(((0.0, 0.0), *((raw, raw**2 / 5) for raw in inner), (5.0, 5.0)))
    values = [fitted(raw) for raw in sorted(raws)]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("raw", "human", "note"),
    [
        ([], [], "only 0 pairs, of the 10 that a map needs"),
        ([1.0], [2.0], "only 1 pair, of the 10 that a map needs"),
        ([4.0] * 20, [1.0, 5.0] * 10, "the judge gave one score to everything: nothing to fit"),
        ([1.0, 4.0] * 10, [5.0] * 20, "all human scores are 5: nothing to fit"),
        ([1.0, 4.0] * 10, [4.0, 1.0] * 10, "the judge disagrees with people: where it scores higher, they do not"),
    ],
)
def test_where_nothing_can_be_learnt_it_is_the_identity(raw, human, note):
    fit = fit_map(raw, human)
    assert (fit.score_map, fit.fitted, fit.note) == (IDENTITY, False, note)


def test_a_falling_relation_with_a_lucky_end_is_a_disagreement_too():
    raw = [0.0, *np.linspace(1, 5, 19)]
    human = [0.0, *np.linspace(5, 0, 19)]
    assert not fit_map(raw, human).fitted


def test_few_pairs_of_a_type_take_the_map_of_all():
    many = ([1.0, 3.0, 4.5] * 20, [0.0, 2.0, 5.0] * 20)
    few = ([2.0, 4.0] * 5, [1.0, 4.0] * 5)
    maps = fit_maps({"many": many, "few": few, "none": ([], [])})
    pooled = fit_map([*many[0], *few[0]], [*many[1], *few[1]])
    assert maps["many"] == fit_map(*many)
    assert maps["few"].score_map == maps["none"].score_map == pooled.score_map
    assert (maps["few"].n, maps["few"].pooled, maps["few"].fitted) == (10, True, True)
    assert maps["few"].note == "only 10 pairs: the map of all edit types together"


def test_no_pairs_at_all():
    fit = fit_maps({"none": ([], [])})["none"]
    assert (fit.score_map, fit.pooled, fit.fitted) == (IDENTITY, True, False)
    assert fit.note == "only 0 pairs: the map of all edit types together; only 0 pairs, of the 10 that a map needs"


def test_wrong_use_fails_at_once():
    for raw in (-0.1, 5.1, float("nan")):
        with pytest.raises(ValueError, match="outside"):
            IDENTITY(raw)
        with pytest.raises(ValueError, match="outside"):
            fit_map([raw] * 10, [1.0] * 10)
    with pytest.raises(ValueError, match="2 raw scores, 1 human"):
        fit_map([1.0, 2.0], [1.0])
    for points in (((0, 0),), ((0, 0), (4, 5)), ((0, 0), (3, 4), (3, 4), (5, 5)), ((0, 3), (5, 2)), ((0, 0), (5, 6))):
        with pytest.raises(ValueError, match="scores must"):
            ScoreMap(points)


def test_a_sum_of_probabilities_may_be_a_little_too_large():
    assert IDENTITY(5.0000000001) == 5
    assert IDENTITY(-1e-12) == 0


def test_the_fingerprint_is_that_of_the_points():
    assert IDENTITY.fingerprint == ScoreMap(((0.0, 0.0), (5.0, 5.0))).fingerprint
    assert IDENTITY.fingerprint != ScoreMap(((0.0, 0.0), (5.0, 4.9))).fingerprint
    assert len(IDENTITY.fingerprint) == 16


@given(PAIRS)
def test_a_fit_says_what_it_is(pairs):
    assume(len(pairs) >= 10)
    fit = fit_map([r for r, _ in pairs], [h for _, h in pairs])
    assert fit.to_json()["fingerprint"] == fit.score_map.fingerprint
    assert ScoreMap.from_json(fit.to_json()["points"]) == fit.score_map
