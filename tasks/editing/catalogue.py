"""Which editors there are, and how each is made from its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING

from storage.records import Case, identity
from storage.store import Store
from tasks.collection.coco import decode_mask
from tasks.editing.adapters import WEIGHTS, adapter_of
from tasks.editing.interface import Editor
from tasks.editing.models import fingerprint_of_model, load_model
from tasks.editing.settings import EditorConfig, ModelEditorConfig
from tasks.images import decode

if TYPE_CHECKING:
    from training.editors.interface import TrainableEditor


def fingerprint_of_editor(config: EditorConfig, store: Store) -> str:
    """The fingerprint that the editor will have, without making it: models are heavy.

    The classical editor's does not tell which objects it has to paste: they come from the cases, and every new case
    would make all edits anew. An edit stands with the objects that there were when it was made.

    Raises: ValueError for an adapter of another model, VersionNotFoundError for one that there is not, FolderError.
    """
    if config.kind == "model":
        adapter = adapter_of(config, store)
        # Edits of the miniature are known by this word since before there were other models.
        kind = "miniature" if config.model.kind == "miniature" else "model"
        return identity(kind, fingerprint_of_model(config.model), adapter.ref.manifest if adapter else "", config.steps)
    if config.kind == "classical":
        from tasks.editing.classical import fingerprint_of

        return fingerprint_of(config.careful_share)
    if config.kind == "remote":
        return identity("remote", config.deciding())
    from tasks.editing.folder import read_listing

    return read_listing(config).fingerprint


def make_editor(config: EditorConfig, store: Store, cases: Callable[[], Iterable[Case]] = lambda: ()) -> Editor:
    """Make an editor.

    Args:
        store: where adapters are.
        cases: where the classical editor finds objects to paste.

    Raises: as `fingerprint_of_editor`.
    """
    if config.kind == "model":
        fingerprint = fingerprint_of_editor(config, store)  # first, since it also finds what is wrong
        return _around(_load(config, store), config, fingerprint)
    if config.kind == "classical":
        from tasks.editing.classical import ClassicalEditor
        from tasks.editing.cutouts import Cutouts

        objects = ((case.category, decode(case.source), decode_mask(case.mask)) for case in cases())
        return ClassicalEditor(Cutouts.from_objects(objects), careful_share=config.careful_share)
    if config.kind == "remote":
        from tasks.editing.remote import RemoteEditor

        return RemoteEditor(config)
    from tasks.editing.folder import FolderEditor, read_listing

    return FolderEditor(read_listing(config))


def make_pair(config: ModelEditorConfig, store: Store) -> tuple[Editor, Editor]:
    """A model without and with its adapter, loaded once: a large one does not fit twice."""
    from training.lora import reference

    alone = config.model_copy(update={"adapter": None})
    prints = [fingerprint_of_editor(one, store) for one in (alone, config)]
    model = _load(config, store)
    lock = Lock()  # one transformer: while it draws without its adapter, no other thread may draw with it

    @contextmanager
    def without() -> Iterator[None]:
        with lock, reference(model.transformer):
            yield

    return _around(model, alone, prints[0], without), _around(model, config, prints[1], lambda: lock)


def _load(config: ModelEditorConfig, store: Store) -> TrainableEditor:
    """A model with its adapter, if it has one."""
    adapter = adapter_of(config, store)
    model = load_model(config.model)
    if adapter is not None:
        from training.lora import load_adapter

        load_adapter(model.transformer, adapter.file(WEIGHTS))
    return model


def _around(
    model: TrainableEditor,
    config: ModelEditorConfig,
    fingerprint: str,
    drawing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Editor:
    from tasks.editing.model_editor import ModelEditor

    return ModelEditor(model, fingerprint, config.steps, config.batch_size, drawing)
