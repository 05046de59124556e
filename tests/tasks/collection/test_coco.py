"""Damaged datasets: a clear error where nothing can be done, a counted rejection elsewhere."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tasks import images
from tasks.collection.candidates import candidates_of
from tasks.collection.coco import CocoError, Rejection, decode_mask, encode_mask, read_coco, read_image, read_mask

SQUARE = [[10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]]


@pytest.fixture
def folder(tmp_path):
    """A dataset of one image with one object."""
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "images" / "a.png").write_bytes(images.png(pixels))
    write(tmp_path)
    return tmp_path


def content(**changes):
    return {
        "licenses": [{"id": 1, "name": "Attribution", "url": "by"}, {"id": 2, "name": "Attribution-NoDerivs License"}],
        "categories": [{"id": 17, "name": "cat"}],
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64, "license": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 17, "segmentation": SQUARE, "area": 1600}],
    } | changes


def write(folder, text=None, **changes):
    (folder / "annotations" / "instances.json").write_text(text if text is not None else json.dumps(content(**changes)))


def rejections(folder):
    dataset = read_coco(folder)
    found, rejected = candidates_of(dataset, dataset.images[0], ["dog"], seed=0)
    return found, {r.reason for r in rejected}


def test_a_sound_dataset_gives_candidates(folder):
    found, reasons = rejections(folder)
    assert {candidate.category for candidate in found} == {"cat"}
    assert len(found) >= 7
    assert reasons <= {"does not suit the edit type"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("{}", "no list 'images'"),
        (json.dumps(content(categories=[{"id": "x"}])), "lacks or garbles"),
        (json.dumps(content(images=[{"id": 1, "file_name": "a.png"}] * 2)), "image id 1 stands more than once"),
    ],
)
def test_a_malformed_annotation_file_is_named(folder, text, said):
    write(folder, text)
    with pytest.raises(CocoError, match=said) as caught:
        read_coco(folder)
    assert "instances.json" in str(caught.value)


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(CocoError, match=r"instances.json does not exist; a dataset is a folder with images/"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"file_name": "gone.png"}, "image missing"),
        ({"file_name": "../annotations/instances.json"}, "file name leaves the folder"),
        ({"license": 2}, "licence forbids derivatives"),
        ({"license": 9}, "licence unknown"),
        ({"width": 65}, "size differs from the annotations"),
    ],
)
def test_an_image_that_cannot_be_used_is_a_counted_rejection(folder, image, reason):
    write(folder, images=[content()["images"][0] | image])
    assert rejections(folder) == ([], {reason})


def test_a_truncated_image_is_a_counted_rejection(folder):
    path = folder / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:2000])
    assert rejections(folder) == ([], {"image unreadable"})
    path.write_bytes(b"no image at all")
    assert rejections(folder) == ([], {"image unreadable"})


def test_a_decompression_bomb_is_refused_before_it_unpacks(folder):
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    (folder / "images" / "a.png").write_bytes(buffer.getvalue())
    assert rejections(folder) == ([], {"image too large"})


def test_a_tiny_image_is_refused(folder):
    (folder / "images" / "a.png").write_bytes(images.png(np.zeros((8, 8, 3), np.uint8)))
    write(folder, images=[{"id": 1, "file_name": "a.png", "license": 1}])
    assert rejections(folder) == ([], {"image too small"})


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "mask missing"),
        (None, "mask missing"),
        ([[10.0, 10.0, 10.0, 10.0, 10.0, 10.0]], "mask empty"),
        ([[10.0, 10.0, 900.0, 10.0, 900.0, 50.0]], "mask out of range"),
        ([[10.0, float("nan"), 50.0, 10.0, 50.0, 50.0]], "mask out of range"),
        ([["a", "b"]], "mask malformed"),
        ({"size": [32, 32], "counts": [1024]}, "mask out of range"),
        ({"size": [64, 64], "counts": [1, 2, 3]}, "mask out of range"),
        ({"size": [64, 64], "counts": [4096]}, "mask empty"),
        ({"size": [64, 64]}, "mask malformed"),
    ],
)
def test_a_mask_that_cannot_be_used_is_a_counted_rejection(folder, segmentation, reason):
    annotation = content()["annotations"][0] | {"segmentation": segmentation}
    with pytest.raises(Rejection) as caught:
        read_mask(annotation, 64, 64)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"iscrowd": 1}, "a crowd, not an object"),
        ({"category_id": 99}, "category unknown"),
        ({"category_id": [17]}, "category unknown"),
        ({"category_id": None}, "category unknown"),
        ({"segmentation": [[1.0, 1.0, 4.0, 1.0, 4.0, 4.0]]}, "object too small or too large"),
        ({"segmentation": [[0.0, 0.0, 64.0, 0.0, 64.0, 64.0, 0.0, 64.0]]}, "object too small or too large"),
    ],
)
def test_an_object_that_cannot_be_a_subject_is_a_counted_rejection(folder, annotation, reason):
    write(folder, annotations=[content()["annotations"][0] | annotation])
    assert rejections(folder) == ([], {reason})


def test_an_ambiguous_subject_is_a_counted_rejection(folder):
    write(folder, annotations=[content()["annotations"][0] | {"id": i} for i in (1, 2)])
    assert rejections(folder) == ([], {"several of the category"})


def test_an_image_without_objects_is_a_counted_rejection(folder):
    write(folder, annotations=[])
    assert rejections(folder) == ([], {"no object annotated"})


def test_all_mask_encodings_agree(folder):
    mask = np.zeros((64, 64), bool)
    mask[10:50, 10:50] = True
    assert np.array_equal(read_mask({"segmentation": SQUARE}, 64, 64), mask)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel().astype(int), [0]])))
    counts = np.diff(np.concatenate([[0], runs, [64 * 64]])).tolist()
    assert np.array_equal(read_mask({"segmentation": {"size": [64, 64], "counts": counts}}, 64, 64), mask)
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)
    assert np.array_equal(read_mask({"segmentation": encode_mask(mask)}, 64, 64), mask)


def test_the_licence_travels_with_the_image(folder):
    dataset = read_coco(folder)
    source = read_image(dataset, dataset.images[0])
    assert (source.licence, source.licence_url) == ("Attribution", "by")
