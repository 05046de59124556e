"""Judge and referee on the degradation ladder, where the truth is known by construction."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from storage.records import EditType, Request
from tasks.collection.vocabulary import STYLES
from tasks.hp_scorer.measured import MeasuredScorer
from tasks.miniature.examples import make_example
from tasks.miniature.ladder import STRENGTHS, ladder
from tasks.miniature.recogniser import SpriteRecogniser
from tasks.miniature.referee import referee_score
from tasks.miniature.scenes import draw, render, to_bytes
from tasks.miniature.sloppiness import KINDS, render_sloppy
from tasks.miniature.targets import added_placement, bokeh

JUDGE = MeasuredScorer(recogniser=SpriteRecogniser(), integer=False, noise=0)
SCENES = 12


@pytest.fixture(scope="module", params=EditType)
def rungs(request):
    """Scores by rung: {(sloppiness, strength): [(referee, judge), ...]}."""
    found = {}
    for rung in ladder(request.param, SCENES):
        pair = (rung.referee, JUDGE.score([rung.triplet])[0].score)
        found.setdefault((rung.sloppiness, rung.strength), []).append(pair)
    return request.param, {key: np.array(pairs) for key, pairs in found.items()}


def test_clean_is_five_and_unchanged_is_zero(rungs):
    _, by_rung = rungs
    assert by_rung["clean", 0.0][:, 0].min() == 5
    assert by_rung["unchanged source", 1.0][:, 0].max() < 0.1
    assert by_rung["clean", 0.0][:, 1].mean() > 4.6
    assert (by_rung["clean", 0.0][:, 1] >= 4.5).mean() >= 0.75
    assert by_rung["unchanged source", 1.0][:, 1].mean() < 0.8


def test_more_sloppiness_is_never_better(rungs):
    edit_type, by_rung = rungs
    for kind in KINDS[edit_type]:
        means = [by_rung["clean", 0.0].mean(0)] + [by_rung[kind, strength].mean(0) for strength in STRENGTHS]
        assert (np.diff(means, axis=0) <= 0.05).all(), (kind, means)
        # Plain sloppiness costs the full score with both.
        assert means[-1][0] < 4.5, kind
        assert means[-1][1] < 4.2, kind


def test_the_judge_agrees_with_the_referee(rungs):
    _, by_rung = rungs
    pairs = np.concatenate(list(by_rung.values()))
    assert np.corrcoef(pairs.T)[0, 1] > 0.65


def test_a_mere_blur_improves_nothing_for_the_referee():
    """A picture that is smoother than its target must not pass for a cleaner one, or blurring would be learnt.

    Bokeh is the exception, being a blur: there blurring finishes what was left undone. And an object that still stands
    is a little less there when blurred: that is worth next to nothing, and must stay so.
    """
    scores = {}
    for edit_type in EditType:
        for rung in ladder(edit_type, 4):
            example = rung.example
            blurred = to_bytes(ndimage.gaussian_filter(rung.picture / 255, (0.7, 0.7, 0)))
            after = referee_score(example.scene, edit_type, example.request, blurred)
            scores.setdefault((edit_type, rung.sloppiness, rung.strength), []).append((rung.referee, after))
    means = {rung: np.mean(pairs, axis=0) for rung, pairs in scores.items()}
    for (edit_type, kind, strength), (before, after) in means.items():
        if edit_type != EditType.BOKEH:
            assert after <= before + 0.05 if before > 1 else after < 1.2, (edit_type, kind, strength, before, after)
        if kind == "clean":
            assert after <= before
    assert np.mean([after - before for before, after in means.values()]) < -0.2


def test_a_style_that_is_drawn_softly_is_not_crisp_for_the_judge():
    """Every style, for an editor that cannot draw fine lines loses there, and a reward that is blind to it is noise."""
    seen = set()
    for rung in ladder(EditType.STYLE, 24):
        if rung.sloppiness == "clean":
            soft = to_bytes(ndimage.gaussian_filter(rung.picture / 255, (1.0, 1.0, 0)))
            crisp, blurred = JUDGE.score([rung.triplet, replace(rung.triplet, edited=soft)])
            assert crisp.answers["is it crisp?"] > 0.95
            assert blurred.answers["is it crisp?"] < crisp.answers["is it crisp?"] - 0.05, rung.example.request
            seen.add(rung.example.request.style)
    assert seen == set(STYLES)


def test_what_the_instruction_leaves_open_is_left_open():
    """Another place within the side, another colour and the other way round are as good as the usual choice."""
    example = make_example(3, 0, sloppy_share=0)
    usual = added_placement(example.request)
    for other in (
        replace(usual, left=usual.left + 2),
        replace(usual, top=usual.top - 4),
        replace(usual, flipped=True),
        replace(usual, colour="purple"),
    ):
        picture = to_bytes(draw(render(example.scene), other))
        assert referee_score(example.scene, example.edit_type, example.request, picture) > 4.5


def test_a_stronger_blur_is_a_blur_too():
    example = make_example(3, tuple(EditType).index(EditType.BOKEH), sloppy_share=0)
    for sigma in (2.0, 3.0, 3.5):
        picture = to_bytes(bokeh(example.scene, sigma))
        assert referee_score(example.scene, EditType.BOKEH, Request(), picture) > 4.8


def test_the_other_side_is_not_left_open():
    example = make_example(3, 0, sloppy_share=0)
    opposite = {"left": "right", "right": "left"}[example.request.place]
    picture = to_bytes(draw(render(example.scene), added_placement(replace(example.request, place=opposite))))
    assert referee_score(example.scene, example.edit_type, example.request, picture) < 1


def test_an_unknown_sloppiness_is_refused():
    example = make_example(3, 0)
    with pytest.raises(ValueError, match="known: pale"):
        render_sloppy(example.scene, example.edit_type, example.request, "ugly", 1.0)


def test_a_picture_of_another_size_is_refused():
    example = make_example(3, 0)
    with pytest.raises(ValueError, match="shape"):
        referee_score(example.scene, example.edit_type, example.request, np.zeros((32, 32, 3), np.uint8))
