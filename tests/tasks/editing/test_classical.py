from dataclasses import replace

import cv2
import numpy as np
import pytest

from storage.records import EditType, Request
from tasks.collection.vocabulary import COLOURS, STYLES
from tasks.editing.classical import ClassicalEditor, Quality, fingerprint_of
from tasks.editing.classical_flaws import KINDS
from tasks.editing.cutouts import Cutouts
from tasks.editing.interface import EditFailure, EditTask
from tasks.hp_scorer.contract import EditTriplet
from tasks.hp_scorer.measured import MeasuredScorer
from tasks.miniature import backgrounds

cv2.setNumThreads(1)

REQUESTS = {
    EditType.ADDITION: Request(new_category="apple", place="left"),
    EditType.REMOVAL: Request(),
    EditType.SWAP: Request(new_category="apple"),
    EditType.BACKGROUND: Request(background="desert"),
    EditType.COLOUR: Request(colour="purple"),
    EditType.BOKEH: Request(),
    EditType.RELIGHT: Request(light="left", tint="warm"),
    EditType.STYLE: Request(style="sepia photograph"),
}


def photograph(height=120, width=160, seed=0):
    """A textured wall over a textured floor, and a yellow thing with a dark stripe standing to the right."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.where((rows > 0.6 * height)[..., None], (0.45, 0.35, 0.28), (0.55, 0.62, 0.66)) * np.ones((1, 1, 3))
    picture = picture * (1 + 0.12 * np.sin(columns / 3 + seed) * np.sin(rows / 4))[..., None]
    y, x = (rows / height - 0.55) / 0.28, (columns / width - 0.72) / 0.16
    mask = y**2 + x**2 < 1
    thing = np.array((0.85, 0.75, 0.15)) * (0.75 + 0.25 * np.cos(2 * x))[..., None]
    thing[np.abs(y) < 0.1] = 0.1
    picture = np.where(mask[..., None], thing, picture) + rng.normal(0, 0.015, (height, width, 3))
    return np.clip(picture * 255, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def cutouts():
    rows, columns = np.mgrid[0:200, 0:200]
    mask = np.hypot(rows - 100, columns - 100) < 60
    source = np.full((200, 200, 3), 230, np.uint8)
    source[mask] = (200, 20, 30)
    source[(np.hypot(rows - 70, columns - 80) < 15)] = (250, 200, 200)
    return Cutouts.from_objects([("apple", source, mask)])


@pytest.fixture(scope="module")
def careful(cutouts):
    return ClassicalEditor(cutouts, careful_share=1, careless_share=0)


def task(edit_type, seed=0, size=(120, 160), **changes):
    source, mask = photograph(*size, seed=seed)
    made = EditTask(
        case_id=f"case-{seed}",
        edit_type=edit_type,
        instruction="",
        request=REQUESTS[edit_type],
        category="vase",
        source=source,
        mask=mask,
        seed=seed,
    )
    return replace(made, **changes)


def edit(editor, one):
    (picture,) = editor.edit([one])
    assert not isinstance(picture, EditFailure), picture.reason
    assert picture.shape == one.source.shape
    assert picture.dtype == np.uint8
    return picture


def change(one, picture):
    return np.abs(picture.astype(float) - one.source).mean(2) / 255


def grown(mask, pixels):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


def test_an_addition_stands_on_its_side_and_leaves_the_rest(careful):
    for place in ("left", "right"):
        one = task(EditType.ADDITION, request=Request(new_category="apple", place=place))
        if place == "right":
            one = replace(one, source=one.source[:, ::-1].copy(), mask=one.mask[:, ::-1].copy())
        changed = change(one, edit(careful, one)) > 0.1
        side = changed[:, :80] if place == "left" else changed[:, 80:]
        assert side.sum() == changed.sum()
        assert 0.03 < changed.mean() < 0.3
        red = edit(careful, one)[changed].mean(0)
        assert red[0] > red[1] + 60


def test_a_removal_leaves_neither_object_nor_patch(careful):
    one = task(EditType.REMOVAL)
    picture = edit(careful, one)
    assert np.array_equal(picture[~grown(one.mask, 3)], one.source[~grown(one.mask, 3)])
    blueness = picture.astype(int)[..., 2] - picture[..., 0]
    for rows in (slice(40, 65), slice(78, 95)):  # wall and floor: nothing yellow, and the horizon goes on
        inside, outside = blueness[rows][one.mask[rows]], blueness[rows][~grown(one.mask, 3)[rows]]
        assert inside.mean() == pytest.approx(outside.mean(), abs=12)
    detail = np.abs(np.diff(picture.mean(2), axis=1))
    assert detail[:, 1:][one.mask[:, 2:]].mean() > 0.6 * detail[:, 1:][~grown(one.mask, 3)[:, 2:]].mean()


def test_a_swap_puts_the_new_in_the_olds_place(careful):
    one = task(EditType.SWAP)
    picture = edit(careful, one).astype(int)
    assert (picture[one.mask][:, 0] - picture[one.mask][:, 1] > 80).mean() > 0.4
    yellow = (picture[..., 1] > 130) & (picture[..., 2] < 70)
    assert yellow.mean() < 0.01
    assert np.array_equal(picture[:, :70], one.source[:, :70])


def test_a_background_is_replaced_and_the_subject_kept(careful):
    one = task(EditType.BACKGROUND)
    picture = edit(careful, one)
    backdrop = backgrounds.paint("desert", 120, 160) * 255
    assert np.abs(picture - backdrop)[~grown(one.mask, 3)].max() < 1
    inside = ~grown(~one.mask, 3)
    assert change(one, picture)[inside].max() < 0.01


def test_a_recolouring_keeps_the_stripe_the_shading_and_the_rest(careful):
    one = task(EditType.COLOUR)
    picture = edit(careful, one)
    assert change(one, picture)[~grown(one.mask, 3)].max() == 0
    rows = np.mgrid[0:120, 0:160][0]
    stripe = one.mask & (np.abs(rows / 120 - 0.55) < 0.02)
    body = ~grown(~one.mask, 3) & (np.abs(rows / 120 - 0.55) > 0.06)
    assert change(one, picture)[stripe].mean() < 0.06
    assert np.abs(picture[body].mean(0) / 255 - COLOURS["purple"]).max() < 0.2
    assert np.corrcoef(picture[body].mean(1), one.source[body].mean(1))[0, 1] > 0.6


def test_bokeh_blurs_the_background_alone_and_does_not_bleed(careful):
    one = task(EditType.BOKEH)
    picture = edit(careful, one)
    far = ~grown(one.mask, 3)
    detail = [np.abs(np.diff(p.astype(float).mean(2), axis=1))[far[:, 1:]].mean() for p in (one.source, picture)]
    assert detail[1] < 0.3 * detail[0]
    assert change(one, picture)[~grown(~one.mask, 3)].max() < 0.01
    ring = grown(one.mask, 7) & far
    assert (picture[ring].astype(int)[:, 0] - picture[ring][:, 2]).max() < 70  # the thing's own is 180


def test_light_comes_from_its_side_in_its_colour(careful):
    one = task(EditType.RELIGHT)
    gain = edit(careful, one).astype(float).mean((0,)) / one.source.mean((0,))
    assert gain[:20].mean() > 1.4 * gain[-20:].mean()
    assert gain[:, 0].mean() > gain[:, 2].mean() * 1.3
    above = edit(careful, replace(one, request=Request(light="above", tint="cold"))).astype(float)
    assert above[:20].mean() / one.source[:20].mean() > 1.4 * above[-20:].mean() / one.source[-20:].mean()


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_everything_and_keeps_the_drawing(careful, style):
    one = task(EditType.STYLE, request=Request(style=style))
    picture = edit(careful, one)
    assert (change(one, picture) > 0.01).mean() > 0.6
    assert (change(one, picture)[one.mask] > 0.01).mean() > 0.6
    if style == "pencil sketch":
        assert np.ptp(picture.astype(int), axis=2).max() < 20
    if style == "blueprint":
        assert (picture[..., 2] > picture[..., 0]).all()
    if style == "mosaic":
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) <= 16 * 22


@pytest.mark.parametrize("size", [(77, 131), (131, 77), (64, 64), (33, 47)])
def test_sizes_are_kept_and_lengths_follow_them(cutouts, size):
    for share in (1.0, 0.0):
        editor = ClassicalEditor(cutouts, careful_share=share, careless_share=1)
        for edit_type in EditType:
            one = task(edit_type, size=size)
            assert change(one, edit(editor, one)).max() > 0.03


def test_a_mosaic_has_the_same_grid_at_every_resolution(careful):
    """Blocks of a rounded width slipped out of step with the judge's, who looks at a reduced picture."""
    source, mask = photograph(171, 256)
    large = cv2.resize(source, (640, 427), interpolation=cv2.INTER_NEAREST)
    many = cv2.resize(mask.astype(np.uint8), (640, 427), interpolation=cv2.INTER_NEAREST) > 0
    request = Request(style="mosaic")
    small_picture = edit(careful, task(EditType.STYLE, request=request, source=source, mask=mask))
    large_picture = edit(careful, task(EditType.STYLE, request=request, source=large, mask=many))
    reduced = cv2.resize(large_picture, (256, 171), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - small_picture).mean() < 4


def test_grey_pictures_and_subjects_at_the_border_can_be_edited(cutouts):
    mixed = ClassicalEditor(cutouts)
    for edit_type in EditType:
        one = task(edit_type, size=(60, 80))
        grey = np.repeat(one.source.mean(2, keepdims=True).astype(np.uint8), 3, 2)
        edit(mixed, replace(one, source=grey))
        for box in (np.s_[:20, :15], np.s_[30:, :], np.s_[:, 50:], np.s_[59:, 79:]):
            mask = np.zeros((60, 80), bool)
            mask[box] = True
            edit(mixed, replace(one, mask=mask))


def test_what_cannot_be_made_is_a_failure_that_says_why(careful):
    def reason(one):
        (result,) = careful.edit([one])
        assert isinstance(result, EditFailure)
        return result.reason

    for edit_type in EditType:
        assert reason(task(edit_type, mask=np.zeros((120, 160), bool))) == "the mask is empty"
    for edit_type in (EditType.REMOVAL, EditType.BACKGROUND, EditType.BOKEH, EditType.SWAP):
        assert "whole picture" in reason(task(edit_type, mask=np.ones((120, 160), bool)))
    assert "no cut-out: zebra" in reason(task(EditType.SWAP, request=Request(new_category="zebra")))
    assert "names no place" in reason(task(EditType.ADDITION, request=Request(new_category="apple")))
    assert "unknown colour 'mauve'" in reason(task(EditType.COLOUR, request=Request(colour="mauve")))
    assert "(60, 80)" in reason(task(EditType.BOKEH, mask=np.ones((60, 80), bool)))
    assert "uint8" in reason(task(EditType.BOKEH, source=np.zeros((120, 160), np.uint8)))


def test_a_failure_takes_no_other_edit_with_it(careful):
    tasks = [task(EditType.BOKEH), task(EditType.SWAP, request=Request(new_category="zebra")), task(EditType.STYLE)]
    kinds = [isinstance(result, EditFailure) for result in careful.edit(tasks)]
    assert kinds == [False, True, False]


def test_the_same_task_gives_the_same_picture_in_any_company(cutouts):
    editor, again = ClassicalEditor(cutouts), ClassicalEditor(cutouts)
    tasks = [task(edit_type, seed, size=(72, 96)) for edit_type in EditType for seed in (1, 2)]
    together = editor.edit(tasks)
    apart = [edit(again, one) for one in reversed(tasks)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(together, apart, strict=True))


def test_a_task_is_not_changed_by_its_edit(cutouts):
    editor = ClassicalEditor(cutouts, careful_share=0, careless_share=1)
    for edit_type in EditType:
        one = task(edit_type)
        before = one.source.copy(), one.mask.copy()
        edit(editor, one)
        assert np.array_equal(one.source, before[0])
        assert np.array_equal(one.mask, before[1])


def test_the_qualities_come_in_their_shares(cutouts):
    editor = ClassicalEditor(cutouts, careful_share=0.6, careless_share=0.25)
    one = task(EditType.BOKEH)
    drawn = [editor.quality_of(replace(one, case_id=str(k))) for k in range(2000)]
    assert drawn.count(Quality.CAREFUL) / 2000 == pytest.approx(0.6, abs=0.04)
    assert drawn.count(Quality.CARELESS) / 2000 == pytest.approx(0.1, abs=0.03)
    with pytest.raises(ValueError, match="shares"):
        ClassicalEditor(cutouts, careful_share=0.9, careless_share=1.2)


def test_the_fingerprint_follows_the_settings_and_not_the_objects(cutouts):
    """Every new photograph brings objects to paste; they must not make all earlier edits anew."""
    editors = [
        ClassicalEditor(cutouts),
        ClassicalEditor(cutouts, careful_share=0.4),
        ClassicalEditor(cutouts, careless_share=0.2),
    ]
    assert len({editor.fingerprint for editor in editors}) == 3
    assert ClassicalEditor(Cutouts({})).fingerprint == editors[0].fingerprint == fingerprint_of(0.5)


def test_careless_edits_are_visibly_not_the_careful_ones(cutouts, careful):
    careless = ClassicalEditor(cutouts, careful_share=0, careless_share=1)
    for edit_type in EditType:
        assert len(KINDS[edit_type]) >= 3
        for seed in range(2):
            one = task(edit_type, seed, size=(72, 96))
            apart = np.abs(edit(careless, one).astype(int) - edit(careful, one))
            assert apart.mean() > 0.4, (edit_type, seed)


def test_care_pays_with_the_stand_in_judge(cutouts):
    judge = MeasuredScorer(recogniser=None, integer=False, noise=0)
    means = {}
    for quality, shares in {"careful": (1, 0), "ordinary": (0, 0), "careless": (0, 1)}.items():
        editor = ClassicalEditor(cutouts, *shares)
        for edit_type in EditType:
            triplets = [
                EditTriplet(
                    case_id=one.case_id,
                    edit_type=edit_type,
                    instruction="",
                    request=one.request,
                    category=one.category,
                    source=one.source,
                    mask=one.mask,
                    edited=edit(editor, one),
                )
                for one in (task(edit_type, seed, size=(72, 96)) for seed in range(4))
            ]
            means[quality, edit_type] = np.mean([j.score for j in judge.score(triplets)])
    # Without a recogniser the judge sees of a swap little more than that something changed.
    for edit_type in set(EditType) - {EditType.SWAP}:
        assert means["careful", edit_type] > means["careless", edit_type] + 0.3, edit_type
    overall = {q: np.mean([v for (quality, _), v in means.items() if quality == q]) for q, _ in means}
    assert overall["careful"] > 4.3
    assert overall["careful"] > overall["ordinary"] + 0.2
    assert overall["ordinary"] > overall["careless"] + 0.8
