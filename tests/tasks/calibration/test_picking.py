"""Picking edits for people: even over scores, different images, and the same whatever the order."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.calibration.picking import Pickable, pick_stratified, split_held_out

TYPES = [f"type {i}" for i in range(8)]


def many(per_type=300, images=500, seed=0):
    """Scores as a strong editor gets them."""
    chance = random.Random(seed)
    scores = [0.0, 1.0, 2.2, 3.4, 4.0, 5.0, None]
    return [
        Pickable(f"{t}-{i}", t, f"image {chance.randrange(images)}", chance.choices(scores, [2, 2, 5, 8, 28, 52, 3])[0])
        for t in TYPES
        for i in range(per_type)
    ]


def strata(candidates, picked, edit_type):
    by_id = {c.edit_id: c for c in candidates}
    return Counter(by_id[e].stratum for e in picked if by_id[e].edit_type == edit_type)


def test_scores_are_as_even_as_they_can_be():
    candidates = many(images=10**9)
    picked = pick_stratified(candidates, 60, seed=0)
    assert len(picked) == len(set(picked)) == 8 * 60
    for edit_type in TYPES:
        there = Counter(c.stratum for c in candidates if c.edit_type == edit_type)
        found = strata(candidates, picked, edit_type)
        assert found[-1] == 0
        full = [s for s in range(6) if found[s] < there[s]]
        assert max(found[s] for s in full) - min(found[s] for s in full) <= 1
        assert all(found[s] <= max(found[f] for f in full) for s in range(6))


def test_what_one_score_lacks_goes_to_the_others():
    candidates = [Pickable(f"zero {i}", "t", f"z{i}", 0.0) for i in range(2)]
    candidates += [Pickable(f"five {i}", "t", f"f{i}", 5.0) for i in range(50)]
    assert strata(candidates, pick_stratified(candidates, 20, seed=0), "t") == {0: 2, 5: 18}


def test_an_image_comes_twice_only_when_all_came_once():
    candidates = [Pickable(f"{image}{i}", "t", image, 5.0) for image in "abc" for i in range(4)]
    for number, uses in ((2, [1, 1]), (3, [1, 1, 1]), (5, [1, 2, 2]), (12, [4, 4, 4])):
        picked = pick_stratified(candidates, number, seed=1)
        assert sorted(Counter(name[0] for name in picked).values()) == uses


def test_an_image_that_can_serve_two_scores_serves_the_rare_one():
    candidates = [Pickable("rare", "t", "shared", 0.0), Pickable("common", "t", "shared", 5.0)]
    candidates += [Pickable(f"five {i}", "t", f"f{i}", 5.0) for i in range(9)]
    for seed in range(20):
        assert "rare" in pick_stratified(candidates, 2, seed)


def test_edits_without_a_score_come_last():
    candidates = [Pickable(f"none {i}", "t", f"n{i}", None) for i in range(5)]
    candidates += [Pickable(f"five {i}", "t", "one image", 5.0) for i in range(5)]
    assert all(name.startswith("five") for name in pick_stratified(candidates, 5, seed=0))
    assert sum(name.startswith("none") for name in pick_stratified(candidates, 7, seed=0)) == 2
    assert len(pick_stratified(candidates, 99, seed=0)) == 10


def test_the_order_tells_nothing_about_the_scores():
    """Half of the first half are from the lower scores, not all or none."""
    candidates = many()
    by_id = {c.edit_id: c for c in candidates}
    picked = pick_stratified(candidates, 60, seed=0)
    first_halves = [e for k in range(8) for e in picked[60 * k : 60 * k + 30]]
    low = sum(by_id[e].stratum <= 2 for e in first_halves), sum(by_id[e].stratum <= 2 for e in picked)
    assert low[0] / low[1] == pytest.approx(0.5, abs=0.1)


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 30), st.integers(0, 3))
def test_the_order_of_the_candidates_does_not_matter(chance, number, seed):
    candidates = many(per_type=12, images=30)
    mixed = chance.sample(candidates, len(candidates))
    assert pick_stratified(candidates, number, seed) == pick_stratified(mixed, number, seed)
    assert split_held_out(candidates, seed=seed) == split_held_out(mixed, seed=seed)


def test_another_seed_picks_others():
    candidates = many()
    assert set(pick_stratified(candidates, 20, seed=0)) != set(pick_stratified(candidates, 20, seed=1))


def test_many_candidates_are_cut_without_loss():
    """More candidates than are ever looked at: still as many as asked for, each of its own image."""
    candidates = many(per_type=1000, images=900)
    picked = pick_stratified(candidates, 30, seed=0)
    by_id = {c.edit_id: c for c in candidates}
    for edit_type in TYPES:
        images = [by_id[e].cluster for e in picked if by_id[e].edit_type == edit_type]
        assert len(images) == len(set(images)) == 30
        assert sorted(strata(candidates, picked, edit_type).values()) == [5] * 6


@pytest.mark.parametrize("share", [0.2, 0.4, 0.5])
@pytest.mark.parametrize("images", [100, 500])
def test_each_edit_type_is_split_in_the_share(share, images):
    candidates = many(images=images)
    picked = set(pick_stratified(candidates, 75, seed=0))
    items = [c for c in candidates if c.edit_id in picked]
    held_out = split_held_out(items, share)
    assert set(held_out) == picked
    for edit_type in TYPES:
        of_type = [c for c in items if c.edit_type == edit_type]
        assert sum(held_out[c.edit_id] for c in of_type) / 75 == pytest.approx(share, abs=0.03)
        for stratum in range(6):
            of_score = [c for c in of_type if c.stratum == stratum]
            assert sum(held_out[c.edit_id] for c in of_score) == pytest.approx(share * len(of_score), abs=4)
    sides = {(c.cluster, held_out[c.edit_id]) for c in items}
    assert len(sides) == len({c.cluster for c in items}), "an image is on one side"


def test_the_ends_of_splitting():
    items = many(per_type=10)
    assert not any(split_held_out(items, 0).values())
    assert all(split_held_out(items, 1).values())
    assert split_held_out([]) == {}
    assert split_held_out([Pickable("only", "t", "image", 5.0)]) == {"only": False}


def test_wrong_use_fails_at_once():
    twice = [Pickable("same", "t", "a", 5.0), Pickable("same", "t", "b", 5.0)]
    for wrong in (lambda: pick_stratified(twice, 1, 0), lambda: split_held_out(twice)):
        with pytest.raises(ValueError, match="same is there twice"):
            wrong()
    with pytest.raises(ValueError, match="negative"):
        pick_stratified([], -1, 0)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        split_held_out([], 1.5)
    assert pick_stratified(many(per_type=3), 0, 0) == []


def test_scores_round_half_up():
    found = [Pickable("e", "t", "c", s).stratum for s in (0.49, 0.5, 2.5, 4.5, 5.0, None)]
    assert found == [0, 1, 3, 5, 5, -1]
