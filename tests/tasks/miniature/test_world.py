"""The miniature world: the same everywhere, balanced, and readable as COCO."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from storage.records import EditType
from tasks.collection.coco import decode_mask, read_coco
from tasks.collection.instructions import words
from tasks.miniature import backgrounds
from tasks.miniature.coco import scene_of, write_coco
from tasks.miniature.examples import make_example
from tasks.miniature.scenes import coverage, make_scene, render, to_bytes
from tasks.miniature.sprites import CATEGORIES, sprite_layers
from tasks.miniature.targets import changed_region, render_target


def test_there_are_enough_categories_all_of_coco():
    assert len(CATEGORIES) >= 24
    assert len(set(CATEGORIES)) == len(CATEGORIES)


def test_a_scene_is_a_function_of_seed_and_index():
    assert make_scene(3, 17) == make_scene(3, 17)
    assert make_scene(3, 17) != make_scene(4, 17)
    assert np.array_equal(render(make_scene(3, 17)), render(make_scene(3, 17)))


def test_any_run_of_scenes_is_balanced():
    subjects = [make_scene(1, i).subject.category for i in range(4 * len(CATEGORIES))]
    assert {subjects.count(name) for name in CATEGORIES} == {4}


def test_a_sprite_is_linear_in_its_colour():
    layers = sprite_layers("car", 28)
    assert layers.alpha.max() == pytest.approx(1, abs=1e-3)
    assert (layers.fixed.sum(2) / 3 + layers.body <= layers.alpha + 1e-3).all()
    assert layers.body.sum() > 0.4 * layers.alpha.sum()


def test_unknown_names_are_refused_by_name():
    with pytest.raises(ValueError, match="unicorn"):
        sprite_layers("unicorn", 24)
    with pytest.raises(ValueError, match="moon"):
        backgrounds.paint("moon", 8, 8)


@pytest.mark.parametrize("kind", backgrounds.KINDS)
def test_backgrounds_vary_and_scale(kind):
    small, large = backgrounds.paint(kind, 16, 24), backgrounds.paint(kind, 64, 96)
    assert small.shape == (16, 24, 3)
    assert 0 <= small.min() <= small.max() <= 1
    # The same picture at another size: coarse colours agree.
    reduced = large.reshape(4, 16, 6, 16, 3).mean((1, 3))
    assert np.abs(reduced - small.reshape(4, 4, 6, 4, 3).mean((1, 3))).mean() < 0.08
    varied = backgrounds.paint(kind, 16, 24, np.random.default_rng(1))
    assert not np.array_equal(small, varied)


@pytest.mark.parametrize("edit_type", EditType)
def test_a_target_differs_from_its_source_inside_the_region_alone(edit_type):
    for index in range(4):
        example = make_example(2, tuple(EditType).index(edit_type) + 8 * index, sloppy_share=0)
        region = changed_region(example.scene, edit_type, example.request)
        source = render(example.scene)
        change = np.abs(render_target(example.scene, edit_type, example.request) - source).max(2)
        assert change[region > 0.5].max() > 0.1
        assert change[region == 0].max(initial=0) < 1e-6


def test_instructions_use_known_words():
    known = set(words(CATEGORIES))
    for index in range(64):
        assert set(make_example(2, index).instruction.split()) <= known


def test_it_is_an_ordinary_coco_dataset(tmp_path, capsys):
    folder = write_coco(tmp_path / "world", seed=7, count=6)
    coco = COCO(folder / "annotations" / "instances.json")
    for image in coco.loadImgs(coco.getImgIds()):
        (annotation,) = coco.loadAnns(coco.getAnnIds(image["id"]))
        scene = scene_of(image["file_name"])
        assert coco.loadCats(annotation["category_id"])[0]["name"] == scene.subject.category
        assert np.array_equal(coco.annToMask(annotation).astype(bool), coverage(scene.subject) > 0.5)
        assert np.array_equal(decode_mask(annotation["segmentation"]), coverage(scene.subject) > 0.5)
    assert len(read_coco(folder).images) == 6
    written = json.loads((folder / "annotations" / "instances.json").read_text())
    assert write_coco(tmp_path / "world", seed=7, count=6) == folder
    assert [path.name for path in (tmp_path / "world").iterdir()] == [folder.name]
    assert json.loads((folder / "annotations" / "instances.json").read_text()) == written


def test_about_a_quarter_of_the_training_targets_are_sloppy():
    sloppy = [make_example(1, i).sloppiness is not None for i in range(400)]
    assert 0.18 < np.mean(sloppy) < 0.32
    clean = make_example(1, 0, sloppy_share=0)
    assert clean.sloppiness is None
    assert np.array_equal(clean.target, to_bytes(render_target(clean.scene, clean.edit_type, clean.request)))
