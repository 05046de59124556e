import cv2
import numpy as np
import pytest

from tasks.editing.cutouts import LARGEST_SIDE, PER_CATEGORY, SMALLEST_AREA, Cutouts

cv2.setNumThreads(1)


def scene(y, x, height, width, size=(240, 320), seed=0):
    """A noisy picture with one red ellipse in a box, and its mask."""
    rng = np.random.default_rng(seed)
    source = rng.integers(60, 120, (*size, 3)).astype(np.uint8)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    mask = ((rows - y - height / 2) / (height / 2)) ** 2 + ((columns - x - width / 2) / (width / 2)) ** 2 < 1
    source[mask] = (200, 30 + seed, 30)
    return source, mask


def test_an_object_is_cut_out_with_its_own_colour_to_the_rim():
    source, mask = scene(60, 80, 90, 120)
    rgb, alpha = Cutouts.from_objects([("apple", source, mask)]).find("apple", seed=3)
    assert alpha.shape == rgb.shape[:2]
    assert abs((alpha > 127).sum() / mask.sum() - 1) < 0.08
    assert np.abs(rgb[alpha > 40].astype(int) - (200, 30, 30)).mean() < 6
    assert alpha[0, 0] < 20


def test_large_objects_are_reduced():
    source, mask = scene(40, 60, 400, 500, size=(480, 640))
    rgb, alpha = Cutouts.from_objects([("bus", source, mask)]).find("bus", seed=0)
    assert max(alpha.shape) == LARGEST_SIDE
    assert rgb.shape[:2] == alpha.shape


def unusable():
    source, small = scene(10, 10, 20, 40)
    assert small.sum() < SMALLEST_AREA
    yield pytest.param(source, small, id="too small")
    yield pytest.param(*scene(-30, -30, 150, 180), id="cut off at two sides")
    one, first = scene(20, 20, 80, 90)
    _, second = scene(120, 200, 80, 90)
    yield pytest.param(one, first | second, id="in two pieces")
    thin = np.zeros((240, 320), bool)
    rows, columns = np.mgrid[0:240, 0:320]
    thin[np.abs(rows - 0.7 * columns) < 5] = True
    thin[:12], thin[-12:], thin[:, :12], thin[:, -12:] = False, False, False, False
    yield pytest.param(one, thin, id="a thin diagonal")
    yield pytest.param(one, np.zeros((240, 320), bool), id="empty")


@pytest.mark.parametrize(("source", "mask"), list(unusable()))
def test_unusable_objects_are_left_out(source, mask):
    library = Cutouts.from_objects([("kite", source, mask)])
    assert library.find("kite", seed=0) is None
    assert library.categories == ()


def test_an_object_cut_off_at_one_side_is_used_only_for_want_of_better():
    cut_off = ("cat", *scene(150, 100, 150, 120, seed=1))
    whole = ("cat", *scene(60, 80, 90, 120, seed=2))
    assert len(Cutouts.from_objects([cut_off]).by_category["cat"]) == 1
    (kept,) = Cutouts.from_objects([cut_off, whole]).by_category["cat"]
    assert kept.rgb[kept.alpha > 250][:, 1].mean() == pytest.approx(32, abs=1)


def test_the_library_does_not_depend_on_the_order_and_keeps_the_best():
    objects = [("cup", *scene(40, 40, 60 + 8 * k, 90, seed=k)) for k in range(PER_CATEGORY + 4)]
    forwards, backwards = Cutouts.from_objects(objects), Cutouts.from_objects(reversed(objects))
    assert len(forwards.by_category["cup"]) == PER_CATEGORY
    assert [c.name for c in forwards.by_category["cup"]] == [c.name for c in backwards.by_category["cup"]]
    assert min(c.alpha.shape[0] for c in forwards.by_category["cup"]) > 60 + 8 * 3
    for seed in range(20):
        assert np.array_equal(forwards.find("cup", seed)[0], backwards.find("cup", seed)[0])


def test_the_same_object_twice_is_one():
    once = ("dog", *scene(60, 80, 90, 120))
    assert len(Cutouts.from_objects([once, once]).by_category["dog"]) == 1


def test_seeds_reach_several_objects():
    library = Cutouts.from_objects([("cup", *scene(40, 40, 100, 90, seed=k)) for k in range(4)])
    assert len({library.find("cup", seed)[0].tobytes() for seed in range(40)}) == 4
