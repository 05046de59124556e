"""The page of a training in progress."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tasks.images import png
from tasks.post_training.curves import saturation_shares, summarise
from tasks.post_training.job import Job, PostTrainConfig
from tasks.post_training.live import live_page, sparkline
from training import config as training


def row(iteration, **changes):
    saturation = {"groups": 4, "full_groups": 1, "flat_groups": 2, "missing": 0, "score": 3.5}
    numbers = {
        "score": 3.0 + iteration / 10,
        "full_share": 0.1,
        "no_signal_share": 0.2,
        "clipped_share": 0.1,
        "kl": 0.0,
    }
    times = {f"seconds_{part}": 1.5 for part in ("encode", "rollout", "reward", "update")}
    others = {"reward": 0.5, "missing": 0, "ratio_deviation": 0.0, "second_score": None, "score_there": None}
    return {"iteration": iteration, **numbers, **times, **others, "by_edit_type": {"bokeh": saturation}} | changes


@pytest.fixture
def job(tmp_path):
    grpo = replace(training.tiny(), iterations=100)
    config = PostTrainConfig(grpo=grpo)
    return Job(store="s", realpref="realpref@v1", encodings="encodings@v1", config=config, folder=tmp_path)


def write(job, rows):
    job.metrics.write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_it_says_how_far_and_how_long(job):
    write(job, [row(i) for i in range(20)])
    job.pictures.write_bytes(png(np.zeros((4, 4, 3), dtype=np.uint8)))
    page, percent, alarm = live_page(job)
    assert percent == 20
    assert "**20 of 100 iterations**, 6.0 s each, 8 min left." in page
    assert "| bokeh | 4 | 1 | 2 | 3.50 |" in page
    assert "![samples](data:image/png;base64," in page
    assert "second judge" not in page
    assert alarm == ""


def test_failed_scores_are_told_by_their_kind(job):
    write(job, [row(0, missing=3, outcomes={"scored": 5, "timeout": 2, "refused": 1})])
    assert "3 scores missing (refused 1, timeout 2)." in live_page(job)[0]


def test_before_the_first_iteration_it_says_so(job):
    write(job, [])
    assert "the first iteration is under way" in live_page(job)[0]


def test_a_reward_that_runs_away_from_the_second_judge_is_an_alarm(job):
    write(job, [row(i, second_score=3.0 - i / 50, score_there=3.0 + i / 20) for i in range(30)])
    page, _, alarm = live_page(job)
    assert alarm.startswith("The reward gained 1.40 points more than the second judge")
    assert f"**{alarm}**" in page
    write(job, [row(i, second_score=3.0 + i / 20, score_there=3.0 + i / 20) for i in range(30)])
    assert "gained" not in live_page(job)[0]


def test_sparklines():
    assert sparkline([0, 1, 2, 3]) == "▁▃▆█"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert len(sparkline(list(range(1000)))) == 40


def test_saturation_is_told_at_first_and_at_last():
    rows = [
        {
            "iteration": i,
            "edit_type": "bokeh",
            "groups": 4,
            "full_groups": i,
            "flat_groups": 4,
            "missing": 0,
            "score": 3,
        }
        for i in range(4)
    ]
    assert saturation_shares(rows, tenth=2) == {
        "bokeh": {"full at first": 0.125, "full at last": 0.625, "flat at first": 1.0, "flat at last": 1.0}
    }
    curves = [row(i, second_score=3.0, score_there=3.0 + i / 10) for i in range(30)]
    told = summarise(curves, rows)
    assert told["reward_gained_more_than_second_judge"] == 2.0
    assert told["saturation"]["bokeh"]["flat at first"] == 1.0
