"""Which cases an iteration takes."""

from collections import Counter
from dataclasses import replace

import pytest

from training import config as configs
from training.cases import CaseSampler, TrainingCase


def sampler_of(difficulties, **changes):
    cases = [TrainingCase(case_id=str(i), edit_type="bokeh", difficulty=d) for i, d in enumerate(difficulties)]
    return CaseSampler(cases, replace(configs.tiny(), **changes))


def test_harder_cases_come_more_often():
    sampler = sampler_of([0.1] * 20 + [0.8] * 20, groups=4, difficulty_power=1.0)
    counts = Counter(i for iteration in range(400) for i in sampler.pick(iteration))
    easy, hard = sum(counts[i] for i in range(20)), sum(counts[i] for i in range(20, 40))
    assert 5 < hard / easy < 9, "8 would be the share with replacement"


def test_an_iteration_takes_a_case_once():
    sampler = sampler_of([0.1, 0.5, 0.9, 0.9], groups=4, difficulty_power=2.0)
    assert all(sorted(sampler.pick(iteration)) == [0, 1, 2, 3] for iteration in range(20))


def test_a_curriculum_opens_from_easy_to_all():
    sampler = sampler_of([i / 30 for i in range(30)], groups=2, iterations=100, curriculum_share=0.5)
    assert {i for iteration in range(3) for i in sampler.pick(iteration)} <= set(range(11))
    assert max(i for iteration in range(20, 26) for i in sampler.pick(iteration)) <= 20
    assert {i for iteration in range(50, 100) for i in sampler.pick(iteration)} > set(range(25, 30))


def test_a_solved_case_rests_and_comes_back():
    sampler = sampler_of([0.5] * 6, groups=2, rest_solved=10)
    sampler.learn(3, [0, 1], [True, False])
    between = {i for iteration in range(4, 14) for i in sampler.pick(iteration)}
    assert 0 not in between
    assert 1 in between
    assert 0 in {i for iteration in range(14, 30) for i in sampler.pick(iteration)}


def test_where_all_rest_the_first_to_wake_come_first():
    sampler = sampler_of([0.5] * 4, groups=2, rest_solved=10)
    sampler.learn(1, [0, 1], [True, True])
    sampler.learn(5, [2, 3], [True, True])
    assert sorted(sampler.pick(6)) == [0, 1]


def test_fewer_cases_than_groups_are_taken_again():
    assert Counter(sampler_of([0.5, 0.5], groups=4, difficulty_power=1.0).pick(0)) == {0: 2, 1: 2}


def test_a_pick_depends_on_seed_and_iteration_alone():
    one, two = (sampler_of([0.2, 0.4, 0.6, 0.8] * 5, groups=4, difficulty_power=1.0) for _ in range(2))
    for iteration in (7, 3, 7):
        assert one.pick(iteration) == two.pick(iteration)
    assert one.pick(3) != one.pick(7)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_curriculum_is_a_share(share):
    with pytest.raises(ValueError, match=r"curriculum_share .*: a share, 0 to 1"):
        sampler_of([1.0], curriculum_share=share)
