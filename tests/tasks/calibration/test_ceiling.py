"""The human ceiling against a loop and against krippendorff itself."""

import math

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.calibration.ceiling import rater_agreement

RANDOM = np.random.default_rng(0)
TRUE = RANDOM.integers(0, 6, 40)
TABLE = np.clip(TRUE + RANDOM.integers(-1, 2, (3, 40)), 0, 5)
RATINGS = {f"t{i}": {f"r{r}": float(TABLE[r, i]) for r in range(3)} for i in range(40)}
CLUSTERS = {f"t{i}": f"image {i // 2}" for i in range(40)}


def test_each_rater_against_the_others():
    found = rater_agreement(RATINGS, CLUSTERS)
    others = [(TABLE[(r + 1) % 3] + TABLE[(r + 2) % 3]) / 2 for r in range(3)]
    assert found["pearson"].value == pytest.approx(
        np.mean([stats.pearsonr(TABLE[r], others[r]).statistic for r in range(3)])
    )
    assert found["spearman"].value == pytest.approx(
        np.mean([stats.spearmanr(TABLE[r], others[r]).statistic for r in range(3)])
    )
    assert found["mae"].value == pytest.approx(np.mean([np.abs(TABLE[r] - others[r]).mean() for r in range(3)]))
    assert found["krippendorff_alpha"].value == pytest.approx(
        krippendorff.alpha(reliability_data=TABLE.astype(float), level_of_measurement="ordinal")
    )
    assert (found["raters"].value, found["raters"].n) == (3, 40)
    for name in ("pearson", "spearman", "mae", "krippendorff_alpha"):
        assert found[name].low < found[name].value < found[name].high
        assert (found[name].n, found[name].note) == (40, "")


def test_two_raters_have_one_correlation():
    found = rater_agreement({t: {r: given[r] for r in ("r0", "r1")} for t, given in RATINGS.items()}, CLUSTERS)
    assert found["pearson"].value == pytest.approx(stats.pearsonr(TABLE[0], TABLE[1]).statistic)


def test_the_interval_of_alpha_is_that_of_resampled_tables():
    found = rater_agreement(RATINGS, CLUSTERS)["krippendorff_alpha"]
    random = np.random.default_rng(7)
    values = []
    for _ in range(400):
        images = random.integers(0, 20, 20)
        rows = np.concatenate([[2 * i, 2 * i + 1] for i in images])
        values.append(krippendorff.alpha(reliability_data=TABLE[:, rows].astype(float), level_of_measurement="ordinal"))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, (0.025, 0.975))), abs=0.04)


def test_missing_ratings_are_missing():
    ratings = {f"t{i}": {f"r{r}": float(TABLE[r, i]) for r in range(3) if (i + r) % 4} for i in range(40)}
    found = rater_agreement(ratings, CLUSTERS)
    table = np.asarray([[TABLE[r, i] if (i + r) % 4 else np.nan for i in range(40)] for r in range(3)], dtype=float)
    assert found["krippendorff_alpha"].value == pytest.approx(
        krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")
    )
    expected = []
    for r in range(3):
        others = np.nanmean(np.delete(table, r, axis=0), axis=0)
        both = ~np.isnan(table[r]) & ~np.isnan(others)
        expected.append(stats.pearsonr(table[r][both], others[both]).statistic)
    assert found["pearson"].value == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("ratings", "raters", "note"),
    [
        ({}, 0, "no ratings"),
        ({"t0": {}}, 0, "no ratings"),
        ({"t0": {"a": 1.0}, "t1": {"a": 3.0}}, 1, "only one rater"),
        ({"t0": {"a": 1.0}, "t1": {"b": 3.0}}, 2, "no two raters rated the same triplet"),
    ],
)
def test_where_nothing_is_shared_it_says_so(ratings, raters, note):
    found = rater_agreement(ratings, CLUSTERS)
    assert found["raters"].value == raters
    for name in ("pearson", "spearman", "mae", "krippendorff_alpha"):
        assert (found[name].value, found[name].low, found[name].note) == (None, None, note)


def test_one_value_only():
    found = rater_agreement({f"t{i}": {"a": 5.0, "b": 5.0} for i in range(9)}, CLUSTERS)
    assert found["krippendorff_alpha"].note == found["pearson"].note == "all scores are 5"
    assert (found["mae"].value, found["mae"].low) == (0, 0)


def test_a_rater_without_judgement_is_left_out_and_told():
    ratings = {t: {**given, "always five": 5.0} for t, given in RATINGS.items()}
    found = rater_agreement(ratings, CLUSTERS)
    assert found["pearson"].note.startswith("1 of 4 raters left out")
    assert found["mae"].note == ""


def test_few_images_give_no_interval():
    found = rater_agreement(RATINGS, dict.fromkeys(RATINGS, "same"))
    for name in ("pearson", "spearman", "mae", "krippendorff_alpha"):
        assert found[name].value is not None
        assert (found[name].low, found[name].note) == (None, "no interval: fewer than 3 source images")


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f"t{i}" for i in range(10)]),
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 5).map(float), max_size=3),
    )
)
def test_nothing_is_ever_nan(ratings):
    for one in rater_agreement(ratings, CLUSTERS).values():
        assert all(math.isfinite(v) for v in (one.value, one.low, one.high) if v is not None)
        assert one.value is not None or one.note
