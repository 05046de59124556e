"""Pictures that were made elsewhere: found by name or by metadata, and every kind of trouble is a row's reason."""

import csv
import json
import uuid

import fsspec
import numpy as np
import pytest
from PIL import Image

from perf.s3_server import BUCKET
from storage.files import Files
from tasks.editing.folder import FolderEditor, FolderError, read_listing
from tasks.editing.interface import EditFailure, EditTask
from tasks.editing.settings import FolderEditorConfig
from tasks.images import png

NO_MATTER = np.zeros((4, 4, 3), np.uint8)


def picture(value, shape=(6, 8)):
    return np.full((*shape, 3), value, np.uint8)


def task(case_id):
    return EditTask(case_id=case_id, instruction="any", source=NO_MATTER, seed=0)


def edited(folder, *case_ids, **settings):
    return FolderEditor(read_listing(FolderEditorConfig(folder=str(folder), **settings))).edit(
        [task(case_id) for case_id in case_ids]
    )


def fingerprint(folder, **settings):
    return read_listing(FolderEditorConfig(folder=str(folder), **settings)).fingerprint


def test_pictures_are_found_by_their_cases(tmp_path):
    (tmp_path / "aa.png").write_bytes(png(picture(1)))
    Image.fromarray(picture(200)).save(tmp_path / "bb.jpg")
    Image.fromarray(picture(30)).save(tmp_path / "cc.WEBP")
    (tmp_path / "notes.txt").write_text("other files do not matter")
    (tmp_path / ".dd.png").write_bytes(b"nor hidden ones")
    found = edited(tmp_path, "cc", "aa", "bb", "dd")
    assert [round(float(p.mean())) for p in found[:3]] == [30, 1, 200]
    assert found[3] == EditFailure("missing: no dd.png")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_says_which_is_whose(tmp_path, name):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "ünï code.png").write_bytes(png(picture(7)))
    (tmp_path / "bb.png").write_bytes(png(picture(8)))
    rows = [
        {"file_name": "deep/er/ünï code.png", "case_id": "aa", "more": 1},
        {"file_name": "gone.png", "case_id": "cc", "more": 2},
    ]
    with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
        if name.endswith("csv"):
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n\n" for row in rows)
    aa, bb, cc = edited(tmp_path, "aa", "bb", "cc")
    assert aa.mean() == 7
    assert bb == EditFailure("missing: no row of the metadata"), "it counts alone"
    assert cc.reason.startswith("missing: no file gone.png")


@pytest.mark.parametrize(
    "escaping",
    [
        "../secret.png",
        "a/../../secret.png",
        "/etc/passwd",
        "..\\secret.png",
        "C:\\x.png",
        "s3://other/x.png",
        "\\\\h\\x",
    ],
)
def test_nothing_outside_of_the_folder_is_read(tmp_path, escaping):
    (tmp_path / "secret.png").write_bytes(png(picture(9)))
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "ok.png").write_bytes(png(picture(1)))
    (inside / "metadata.jsonl").write_text(json.dumps({"case_id": "aa", "file_name": escaping}))
    (found,) = edited(inside, "aa")
    assert found == EditFailure(f"refused: {escaping} is not below the folder")
    assert edited(inside, "../secret")[0] == EditFailure("missing: no row of the metadata")
    (inside / "metadata.jsonl").unlink()
    assert edited(inside, "../secret")[0] == EditFailure("missing: no ../secret.png")


def test_every_trouble_with_a_picture_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "good.png").write_bytes(png(picture(1)))
    (tmp_path / "cut.png").write_bytes(png(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))[:-99])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "twice.png").write_bytes(png(picture(1)))
    (tmp_path / "twice.jpg").write_bytes(png(picture(1)))
    (tmp_path / "gone.png").write_bytes(png(picture(1)))
    (tmp_path / "grew.png").write_bytes(png(picture(1)))
    Image.new("1", (10_000, 5_001)).save(tmp_path / "large.png")
    monkeypatch.setattr("tasks.editing.folder.LARGEST_FILE", 100_000)
    (tmp_path / "heavy.png").write_bytes(bytes(100_001))
    editor = FolderEditor(read_listing(FolderEditorConfig(folder=str(tmp_path))))
    (tmp_path / "gone.png").unlink()
    (tmp_path / "grew.png").write_bytes(png(picture(1)) + b"x")
    names = ["good", "cut", "text", "empty", "twice", "gone", "grew", "large", "heavy"]
    good, *rest = editor.edit([task(name) for name in names])
    assert good.mean() == 1
    reasons = dict(zip(names[1:], [failure.reason for failure in rest], strict=True))
    assert reasons.pop("cut").startswith("image_error: cut.png: not a readable image")
    assert reasons == {
        "text": "image_error: text.png: not an image of a kind that is read (PNG, JPEG, WEBP)",
        "empty": "image_error: empty.png: not an image of a kind that is read (PNG, JPEG, WEBP)",
        "twice": "ambiguous: twice.jpg, twice.png",
        "gone": "changed: gone.png is gone",
        "grew": "changed: grew.png is not as it was listed",
        "large": "image_error: large.png: 10000 x 5001 pixels, at most 50000000 are read",
        "heavy": "image_error: heavy.png has 100,001 bytes, at most 100,000 are read",
    }


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metadata.jsonl", b'{"case_id": "a", "file_name": "a.png"}\n{"case_id": ', "jsonl, line 2"),
        ("metadata.jsonl", b'{"case_id": "a", "file_name": "a.png"}\n[1]', "line 2: no case_id and file_name"),
        ("metadata.jsonl", b'{"file_name": "a.png"}', "line 1: no case_id and file_name"),
        ("metadata.jsonl", b'{"case_id": 3, "file_name": "a.png"}', "line 1: no case_id and file_name"),
        ("metadata.csv", b"case_id,file\na,a.png", "line 2: no case_id and file_name"),
        ("metadata.csv", b"case_id,file_name\na", "line 2: no case_id and file_name"),
        ("metadata.jsonl", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_metadata_that_cannot_be_read_is_no_silent_loss(tmp_path, name, content, told):
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FolderError, match=told):
        fingerprint(tmp_path)


def test_a_folder_without_pictures_is_a_wrong_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FolderError, match=r"no picture here; expected <case_id>\.png"):
            fingerprint(folder)
    (tmp_path / "a.png").touch()
    (tmp_path / "metadata.csv").touch()
    (tmp_path / "metadata.jsonl").touch()
    with pytest.raises(FolderError, match="both"):
        fingerprint(tmp_path)
    with pytest.raises(ValueError, match="user or password"):
        fingerprint("s3://key:secret@bucket/edited")


def test_the_fingerprint_is_of_names_sizes_and_metadata(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "a.png").write_bytes(png(picture(1)))
    mark = fingerprint(one)
    assert fingerprint(two) == mark, "where they lie and when they were copied does not count"
    assert fingerprint(one, made_by="bagel, 50 steps") != mark
    (one / "readme.md").write_text("nor do other files")
    assert fingerprint(one) == mark
    (one / "b.png").write_bytes(png(picture(1)))
    with_b = fingerprint(one)
    assert with_b != mark
    (one / "b.png").write_bytes(png(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)))
    assert fingerprint(one) != with_b
    (two / "metadata.jsonl").write_text(json.dumps({"case_id": "x", "file_name": "a.png"}))
    assert fingerprint(two) != mark


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    """As an archive of a stranger might hold."""
    (tmp_path / "secret.png").write_bytes(png(picture(5)))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "aa.png").symlink_to(tmp_path / "secret.png")
    (folder / "bb.png").write_bytes(png(picture(6)))
    aa, bb = edited(folder, "aa", "bb")
    assert aa == EditFailure("missing: no aa.png")
    assert bb.mean() == 6


def test_other_filesystems_do_as_well(s3):
    for url, options in (
        (f"memory://{uuid.uuid4().hex}/edited", {}),
        (f"s3://{BUCKET}/{uuid.uuid4().hex}", s3.options),
    ):
        files = Files(url, **options)
        files.put("aa.png", png(picture(3)))
        files.put("sub/bb.png", png(picture(4)))
        files.put("metadata.csv", b"case_id,file_name\naa,aa.png\nbb,sub/bb.png\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fsspec.config, "conf", {"s3": options})
            found = edited(url, "aa", "bb", "cc")
            before = fingerprint(url)
            files.put("sub/bb.png", png(picture(4)))
            if url.startswith("memory"):
                assert fingerprint(url) == before
        assert [float(p.mean()) for p in found[:2]] == [3, 4]
        assert isinstance(found[2], EditFailure)
