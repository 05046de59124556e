"""`python -m tasks.editing`: a photograph of one's own, with any editor."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perf.editor_server import darken, editor_server
from perf.loopback import error
from tasks.editing import catalogue
from tasks.editing.__main__ import main
from tasks.editing.catalogue import fingerprint_of_editor
from tasks.editing.models import fingerprint_of_model
from tasks.editing.settings import ModelEditorConfig
from tests.tasks.editing.test_model_editor import commit_adapter, trained_adapter
from tests.training.editors.tiny_qwen import make_tiny_qwen_image_edit

ROOT = Path(__file__).parents[3]
WORDS = "make the car red"


def photograph_like(height=300, width=400, seed=0):
    """Smooth colours, edges and grain, as photographs have them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x / width * 255, y / height * 255, (x + y) / (height + width) * 255], axis=-1)
    image[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = (200, 40, 40)
    return Image.fromarray((image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture
def photo(tmp_path):
    """As a telephone writes it: on its side, and turned by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.jpg"
    photograph_like().save(path, exif=exif, quality=90)
    return path


@pytest.fixture
def tiny(tiny_editor_factory, monkeypatch):
    """The miniature, even smaller."""
    monkeypatch.setattr(catalogue, "load_model", lambda config, encoders=True: tiny_editor_factory())


def run(capsys, *words):
    """Exit status, lines, and what went wrong."""
    status = main([str(word) for word in words])
    told = capsys.readouterr()
    return status, told.out.splitlines(), told.err


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_the_miniature_as_a_user_runs_it(photo, tmp_path):
    """In a process of its own, with the committed weights and nothing but a photograph."""
    command = [sys.executable, "-m", "tasks.editing", str(photo), WORDS, "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    source, editor, edited = done.stdout.splitlines()
    assert source == (
        f"photograph  {photo}, 300 x 400; turned upright, as its EXIF orientation says; "
        "resized to 64 x 64, the one size of the miniature model"
    )
    assert editor.startswith("editor      miniature, 8 steps, ready in ")
    path = tmp_path / "photo-edited.png"
    assert edited.startswith(f"edited      {path}, 64 x 64, drawn in ")
    assert edited.endswith(f" s, fingerprint {fingerprint_of_editor(ModelEditorConfig(), None)}")
    assert size_of(path) == (64, 64)


def test_the_same_seed_is_the_same_picture_and_nothing_is_written_over(photo, tmp_path, tiny, capsys):
    for seed in (0, 0, 1):
        assert run(capsys, photo, WORDS, "--seed", seed)[0] == 0
    first, second, third = (tmp_path / f"photo-edited{end}.png" for end in ("", "-2", "-3"))
    assert first.read_bytes() == second.read_bytes() != third.read_bytes()
    assert run(capsys, photo, WORDS, "--seed", 1, "--force")[0] == 0
    assert first.read_bytes() == third.read_bytes()


def test_a_name_of_ones_own(photo, tmp_path, tiny, capsys):
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.webp", "WEBP")):
        assert run(capsys, photo, WORDS, "--out", tmp_path / name)[0] == 0
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
    status, _, told = run(capsys, photo, WORDS, "--out", tmp_path / "a.png")
    assert (status, told) == (2, f"error: {tmp_path / 'a.png'}: there already; --force writes over it\n")
    assert run(capsys, photo, WORDS, "--out", tmp_path / "a.png", "--force")[0] == 0


def test_with_and_without_the_adapter_side_by_side(store, photo, tmp_path, tiny, tiny_editor_factory, capsys):
    data = trained_adapter(tiny_editor_factory().transformer)
    commit_adapter(store, data, fingerprint_of_model(ModelEditorConfig().model))
    words = (photo, WORDS, "--store", store.url)
    status, lines, told = run(capsys, *words, "--adapter", "adapter@latest", "--baseline")
    assert (status, told) == (0, "")
    assert "miniature, 8 steps, adapter@v1" in lines[1]
    assert [line.split()[0] for line in lines] == ["photograph", "editor", "baseline", "edited", "together"]
    edited, baseline, together = (tmp_path / f"photo-{n}.png" for n in ("edited", "baseline", "side-by-side"))
    assert edited.read_bytes() != baseline.read_bytes()
    width, height = size_of(together)
    assert width >= 3 * 256
    assert height >= 256
    plain, trained = (line.rsplit(" ", 1)[1] for line in lines[2:4])
    assert plain != trained
    assert run(capsys, *words)[0] == 0
    assert (tmp_path / "photo-edited-2.png").read_bytes() == baseline.read_bytes(), "the same noise"
    assert run(capsys, *words, "--adapter", "adapter@v1", "--out", tmp_path / "out.png", "--baseline")[0] == 0
    assert {"out.png", "out-baseline.png", "out-side-by-side.png"} <= {path.name for path in tmp_path.iterdir()}


def test_adapters_that_do_not_fit(store, photo, capsys):
    words = (photo, WORDS, "--store", store.url)
    status, _, told = run(capsys, *words, "--adapter", "adapter@v9")
    assert status == 2
    assert "adapter@v9: there is no such version; adapters in" in told
    assert "none, python -m flows.post_train makes one" in told
    commit_adapter(store, b"x", "another")
    status, _, told = run(capsys, *words, "--adapter", "adapter@v9")
    assert "adapter@v1 (latest)" in told
    status, _, told = run(capsys, *words, "--adapter", "adapter@v1")
    assert (status, "adapter@v1 was trained on another model than the miniature" in told) == (2, True)


def test_a_server(photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    asked = []

    def script(request):
        asked.append(request.fields)
        return darken(request)

    with editor_server(script) as (url, _):
        words = (photo, WORDS, "--server", url, "--model", "qwen")
        assert run(capsys, *words, "--steps", 12, "--guidance", 4, "--seed", 5)[0] == 0
        assert run(capsys, *words, "--size", "128x96")[0] == 0
        assert run(capsys, *words, "--size", 64 * 64)[0] == 0
    sizes = [size_of(tmp_path / f"photo-edited{end}.png") for end in ("", "-2", "-3")]
    assert sizes == [(300, 400), (128, 96), (64, 64)]
    assert asked[0] | {"num_inference_steps": "12", "guidance_scale": "4.0", "seed": "5"} == asked[0]
    with Image.open(io.BytesIO((tmp_path / "photo-edited.png").read_bytes())) as image:
        assert abs(np.asarray(image)[200, 150].astype(int) - (100, 20, 20)).max() < 20, "upright, and darker"
    with editor_server(lambda request: error(400, "moderation_blocked")) as (url, _):
        status, _, told = run(capsys, photo, WORDS, "--server", url, "--model", "qwen")
    assert (status, told.startswith("not edited: filtered: ")) == (1, True)
    assert not (tmp_path / "photo-edited-4.png").exists()
    with editor_server(lambda request: error(401, "invalid_api_key")) as (url, _):
        status, _, told = run(capsys, photo, WORDS, "--server", url, "--model", "qwen")
    assert (status, "is OPENAI_API_KEY right?" in told) == (2, True)


def test_a_pipeline_of_diffusers(photo, tmp_path, capsys):
    folder = make_tiny_qwen_image_edit(tmp_path / "qwen")
    words = (photo, WORDS, "--model", folder, "--steps", 2, "--size", 128 * 96)
    status, lines, told = run(capsys, *words)
    assert status == 0, told
    assert size_of(tmp_path / "photo-edited.png") == (96, 128), "upright, in its own aspect ratio"
    assert lines[1].startswith(f"editor      {folder}, 2 steps, ready in")
    assert run(capsys, *words, "--guidance", 3.0)[0] == 0
    assert (tmp_path / "photo-edited.png").read_bytes() != (tmp_path / "photo-edited-2.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.jpg", WORDS], "nowhere.jpg: no such file"),
        ([".", WORDS], ".: no such file"),
        ([__file__, WORDS], "test_command.py: not an image of a kind that is read"),
        (["PHOTO", "  "], "the instruction is empty"),
        (["PHOTO", WORDS, "--baseline"], "--baseline: also name the --adapter"),
        (["PHOTO", WORDS, "--size", "128x128"], "--size: not with the miniature"),
        (["PHOTO", WORDS, "--guidance", "4", "--miniature"], "--guidance: not with the miniature"),
        (["PHOTO", WORDS, "--steps", "1"], "num_steps: Input should be greater than or equal to 2"),
        (["PHOTO", WORDS, "--miniature", "--model", "x"], "--miniature and --model: name one editor"),
        (["PHOTO", WORDS, "--server", "http://x/v1"], "say --model NAME"),
        (["PHOTO", WORDS, "--server", "http://x/v1", "--model", "m", "--adapter", "adapter@v1"], "--adapter: not with"),
        (["PHOTO", WORDS, "--server", "http://me:pw@x/v1", "--model", "m"], "base_url: Value error, an address with"),
        (["PHOTO", WORDS, "--server", "http://x/v1", "--model", "m", "--size", "12y"], "--size 12y: an area in pixels"),
        (["PHOTO", WORDS, "--model", "/nowhere"], "/nowhere: no such folder, and no name on the hub"),
        (["PHOTO", WORDS, "--model", "/nowhere", "--size", "9"], "target_area 9: in pixels, at least 1024"),
        (["PHOTO", WORDS, "--model", "/nowhere", "--guidance", "0.5"], "guidance 0.5: at least 1"),
        (["PHOTO", WORDS, "--out", "picture.gif"], "--out picture.gif: a name that ends in .png"),
        (["PHOTO", WORDS, "--out", "nowhere/picture.png"], "nowhere: no such folder to write to"),
        (["PHOTO", WORDS, "--editor", '{"kind": "classical"}', "--adapter", "adapter@v1"], "classical has no weights"),
        (["PHOTO", WORDS, "--editor", '{"kind": "classical"}', "--steps", "8"], "--steps: not with --editor"),
    ],
)
def test_a_slip_is_told_before_anything_is_loaded(photo, tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.setattr(catalogue, "load_model", None)
    status, _, said = run(capsys, *(photo if word == "PHOTO" else word for word in words))
    assert status == 2
    assert said.startswith("error: ")
    assert told in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.jpg"]


def test_an_editor_that_needs_a_case_says_so(photo, capsys):
    status, _, told = run(capsys, photo, WORDS, "--editor", '{"kind": "classical"}')
    assert (status, told.startswith("not edited: this editor reads no instruction")) == (1, True)


def test_help_needs_no_torch():
    code = "import sys, tasks.editing.__main__; print({'torch', 'openai', 'prefect'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
