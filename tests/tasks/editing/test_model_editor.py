"""A model as an editor: batches by shape, noise by seed, and an adapter that is switched."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from storage.manifest import Manifest
from storage.store import VersionNotFoundError
from tasks.editing import catalogue, models
from tasks.editing.adapters import find_adapter, pinned
from tasks.editing.catalogue import fingerprint_of_editor, make_editor, make_pair
from tasks.editing.interface import EditFailure, EditTask, pictures_of
from tasks.editing.model_editor import ModelEditor
from tasks.editing.models import fingerprint_of_model
from tasks.editing.settings import ClassicalEditorConfig, DiffusersModel, ModelEditorConfig
from tests.training.editors.tiny_qwen import make_tiny_qwen_image_edit
from training.config import tiny
from training.editors.settings import DiffusersSettings
from training.editors.sizes import fitted
from training.lora import adapter_bytes, adapter_parameters, adapter_state, add_adapter

RNG = np.random.default_rng(0)


def source(height=64, width=64):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def task(number=0, image=None, instruction="make the car red"):
    image = source() if image is None else image
    return EditTask(case_id=f"case-{number}", instruction=instruction, source=image, seed=number)


class Watched:
    """A model that draws at multiples of 32 pixels, as large ones do, and remembers the sizes that it was given."""

    def __init__(self, editor):
        self.editor, self.batches = editor, []

    def __getattr__(self, name):
        return getattr(self.editor, name)

    def shape_of(self, height, width):
        if max(height, width) > 500:
            raise ValueError(f"{height} x {width} is too much")
        return self.editor.shape_of(*fitted(height, width, 64 * 64))

    def encode(self, sources, instructions):
        if "" in instructions:
            raise ValueError("an empty instruction")
        self.batches.append([source.shape[:2] for source in sources])
        (size,) = {fitted(*source.shape[:2], 64 * 64) for source in sources}
        return self.editor.encode([np.resize(source, (*size, 3)) for source in sources], instructions)


@pytest.fixture
def watched(tiny_editor_factory):
    return Watched(tiny_editor_factory())


def test_sizes_of_one_shape_are_drawn_together(watched):
    editor = ModelEditor(watched, "print", num_steps=2, batch_size=3)
    sizes = [(64, 64), (60, 61), (32, 128), (66, 64), (30, 121), (63, 63)]
    pictures = editor.edit([task(n, source(*size)) for n, size in enumerate(sizes)])
    assert watched.batches == [[(64, 64), (60, 61), (66, 64)], [(32, 128), (30, 121)], [(63, 63)]]
    assert [picture.shape[:2] for picture in pictures] == [(64, 64), (64, 64), (32, 128), (64, 64), (32, 128), (64, 64)]


def test_a_picture_is_its_tasks_alone(watched):
    """Whatever else is in its batch, and in whatever order: to the rounding of one more or less."""
    tasks = [task(n, source(*size)) for n, size in enumerate([(64, 64), (60, 61), (32, 128), (66, 64)])]
    one, two = (ModelEditor(watched, "print", num_steps=2, batch_size=size) for size in (1, 3))
    for alone, together in zip(one.edit(tasks), two.edit(tasks[::-1])[::-1], strict=True):
        assert np.abs(alone.astype(int) - together).max() <= 1
    again, other = two.edit([task(3, tasks[3].source), task(4, tasks[3].source)])
    assert np.abs(again.astype(int) - two.edit(tasks)[3]).max() <= 1
    assert np.abs(again.astype(int) - other).max() > 1, "another seed, another picture"


def test_what_the_model_refuses_is_a_failure_and_takes_no_other_with_it(watched):
    editor = ModelEditor(watched, "print", num_steps=2, batch_size=3)
    tasks = [task(0), task(1, source(600, 64)), task(2, instruction=""), task(3)]
    first, size, empty, last = editor.edit(tasks)
    assert first.shape == last.shape == (64, 64, 3)
    assert size == EditFailure("size: 600 x 64 is too much")
    assert empty == EditFailure("refused: an empty instruction")


def test_tasks_are_taken_as_they_are_needed(watched):
    taken = []

    def tasks():
        for number in range(9):
            taken.append(number)
            yield task(number)

    found = pictures_of(ModelEditor(watched, "print", num_steps=2, batch_size=3), tasks())
    assert [next(found)[0] for _ in range(3)] == [0, 1, 2]
    assert taken == [0, 1, 2]
    assert sorted(position for position, _ in found) == list(range(3, 9))


def test_an_editor_that_wants_all_at_once_gets_some_at_once():
    class Simple:
        fingerprint = "print"

        def __init__(self):
            self.given = []

        def edit(self, tasks):
            self.given.append(len(tasks))
            return [task.source for task in tasks]

    simple = Simple()
    found = list(pictures_of(simple, (task(n, source(4, 4)) for n in range(70))))
    assert [position for position, _ in found] == list(range(70))
    assert simple.given == [64, 6]


def test_memory_that_does_not_suffice_says_what_to_lower(watched):
    def encode(sources, instructions):
        raise torch.OutOfMemoryError("CUDA out of memory")

    watched.encode = encode
    with pytest.raises(torch.OutOfMemoryError) as error:
        ModelEditor(watched, "print").edit([task(0), task(1)])
    assert error.value.__notes__ == ["2 pictures at once did not fit: a smaller editor.batch takes less"]


def test_a_photograph_is_no_case_and_the_classical_editor_says_so():
    (picture,) = make_editor(ClassicalEditorConfig(), None).edit([task()])
    assert isinstance(picture, EditFailure)
    assert picture.reason.startswith("this editor reads no instruction")


# --- adapters --------------------------------------------------------------------------------------------------------


def trained_adapter(transformer, seed=0):
    """The bytes of an adapter that does something, taken off again."""
    add_adapter(transformer, tiny(), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(transformer):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    data = adapter_bytes(transformer, adapter_state(transformer))
    transformer.delete_adapters("default")
    return data


def commit_adapter(store, data, fingerprint, config=None, key="by-hand"):
    files = {"weights": (store.add_file(data, ".safetensors"),)}
    return store.commit(
        Manifest(
            artifact="adapter",
            stage="post-train",
            stage_version=1,
            key=key,
            config=config or {},
            fingerprints={"editor": fingerprint},
            tables=files,
        )
    )


@pytest.fixture
def miniature(tiny_editor_factory, monkeypatch):
    """The miniature model, tiny; loaded anew each time, and how often it was."""
    loaded = []

    def load(config, encoders=True):
        loaded.append(config)
        return tiny_editor_factory()

    monkeypatch.setattr(catalogue, "load_model", load)
    return SimpleNamespace(loaded=loaded, make=tiny_editor_factory)


def test_a_pair_is_one_model_with_and_without_its_adapter(store, miniature):
    fingerprint = fingerprint_of_model(ModelEditorConfig().model)
    commit_adapter(store, trained_adapter(miniature.make().transformer), fingerprint)
    config = ModelEditorConfig(adapter="adapter@v1", num_steps=2)
    one = task()
    (plain,) = make_editor(ModelEditorConfig(num_steps=2), store).edit([one])
    (changed,) = make_editor(config, store).edit([one])
    assert not np.array_equal(plain, changed)
    del miniature.loaded[:]
    baseline, trained = make_pair(config, store)
    assert len(miniature.loaded) == 1
    for _ in range(2):
        assert np.array_equal(baseline.edit([one])[0], plain)
        assert np.array_equal(trained.edit([one])[0], changed)
    assert baseline.fingerprint == fingerprint_of_editor(ModelEditorConfig(num_steps=2), store)
    assert trained.fingerprint == fingerprint_of_editor(config, store) != baseline.fingerprint

    def draw(editor, found):
        found += [editor.edit([one])[0] for _ in range(5)]

    found = {editor: [] for editor in ("baseline", "trained")}
    threads = [
        threading.Thread(target=draw, args=(e, found[n])) for n, e in zip(found, (baseline, trained), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(picture, plain) for picture in found["baseline"]), "also while the other draws"
    assert all(np.array_equal(picture, changed) for picture in found["trained"])


def test_a_tag_is_fixed_to_the_version_that_it_means(store):
    commit_adapter(store, b"x", "a")
    config = pinned(ModelEditorConfig(adapter="adapter@latest"), store)
    assert config.adapter == "adapter@v1"
    assert pinned(ClassicalEditorConfig(), store) == ClassicalEditorConfig()


def test_an_unknown_adapter_lists_what_there_is(store):
    with pytest.raises(VersionNotFoundError, match=r"adapters in .*: none, python -m flows.post_train makes one"):
        find_adapter("adapter@latest", store)
    commit_adapter(store, b"x", "a")
    commit_adapter(store, b"y", "a", key="other")
    with pytest.raises(VersionNotFoundError, match=r"adapter@v3: .*: adapter@v1, adapter@v2 \(latest\)"):
        fingerprint_of_editor(ModelEditorConfig(adapter="adapter@v3"), store)
    store.commit(Manifest(artifact="cases", stage="s", stage_version=1, key="k", config={}, tables={}))
    with pytest.raises(VersionNotFoundError, match="cases@v1 has no weights"):
        find_adapter("cases", store)


def test_an_adapter_of_another_model_is_refused_before_anything_is_loaded(store, miniature):
    commit_adapter(store, b"x", "another", {"model": {"kind": "diffusers", "settings": {"model": "Qwen/Other"}}})
    config = ModelEditorConfig(adapter="adapter@v1")
    told = r"adapter@v1 was trained on another model than the miniature: on another \(Qwen/Other\), and this one is"
    for use in (fingerprint_of_editor, make_editor, make_pair):
        with pytest.raises(ValueError, match=told):
            use(config, store)
    assert not miniature.loaded


def test_an_adapter_that_does_not_say_its_model_is_refused(store):
    data = store.add_file(b"x", ".safetensors")
    manifest = Manifest(artifact="adapter", stage="s", stage_version=1, key="k", config={}, tables={"weights": (data,)})
    store.commit(manifest)
    with pytest.raises(ValueError, match="on None, and this one is"):
        fingerprint_of_editor(ModelEditorConfig(adapter="adapter@v1"), store)


# --- a pipeline of diffusers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_qwen_image_edit(tmp_path_factory.mktemp("qwen"))


def qwen(folder, **changes):
    areas = {"target_area": 64 * 64, "condition_area": 64 * 64, "vision_area": 56 * 56}
    settings = DiffusersSettings(model=str(folder), dtype="float32", **(areas | changes))
    return DiffusersModel(settings=settings)


def test_a_pipeline_edits_photographs_of_all_sizes(store, folder):
    config = ModelEditorConfig(model=qwen(folder), num_steps=2, batch=2)
    editor = make_editor(config, store)
    assert editor.fingerprint == fingerprint_of_editor(config, store)
    sizes = [(90, 120), (120, 90), (91, 120), (40, 400)]
    instructions = ["make the car red", "remove the dog on the left", "a", "turn it into a painting"]
    tasks = [task(n, source(*size), words) for n, (size, words) in enumerate(zip(sizes, instructions, strict=True))]
    pictures = editor.edit(tasks)
    assert [picture.shape[:2] for picture in pictures] == [fitted(*size, 64 * 64) for size in sizes]
    (alone,) = editor.edit(tasks[2:3])
    assert np.abs(alone.astype(int) - pictures[2]).max() <= 1, "padding of texts does not show"


def test_an_adapter_belongs_to_weights_not_to_sizes(store, folder, tmp_path):
    trained = qwen(folder)
    data = trained_adapter(models.load_model(trained).transformer)
    told = {"model": trained.model_dump(mode="json")}
    commit_adapter(store, data, fingerprint_of_model(trained), told)
    larger = ModelEditorConfig(model=qwen(folder, target_area=96 * 96, guidance=2.0), num_steps=2, adapter="adapter@v1")
    baseline, changed = (editor.edit([task()])[0] for editor in make_pair(larger, store))
    assert baseline.shape == (96, 96, 3)
    assert not np.array_equal(baseline, changed)
    other = make_tiny_qwen_image_edit(tmp_path / "other", plus=False)
    with pytest.raises(ValueError, match=r"was trained on another model than .*other"):
        fingerprint_of_editor(larger.model_copy(update={"model": qwen(other)}), store)
