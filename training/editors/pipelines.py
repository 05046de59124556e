"""Editors over the pipelines of diffusers: loading one, and naming its weights without loading them.

Light to import: torch and diffusers come with the first editor.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.records import identity
from training.editors.settings import DiffusersSettings

if TYPE_CHECKING:
    from training.editors.diffusers_editor import DiffusersEditor

EDITORS = {
    "QwenImageEditPipeline": "training.editors.qwen_image_edit.QwenImageEditEditor",
    "QwenImageEditPlusPipeline": "training.editors.qwen_image_edit.QwenImageEditPlusEditor",
    "QwenImage21Pipeline": "training.editors.qwen_image21.QwenImage21Editor",
    "FluxKontextPipeline": "training.editors.flux_kontext.FluxKontextEditor",
    "Flux2KleinPipeline": "training.editors.flux2_klein.Flux2KleinEditor",
    "LongCatImageEditPipeline": "training.editors.longcat.LongCatEditor",
}
"""By the class of the pipeline, as its model_index.json names it."""
INDEX = "model_index.json"
_KINDS = (".json", ".safetensors", ".txt", ".jinja", ".model")
"""The files of a part. Neither code nor pickled weights, which could do anything when they are read."""
_MIB = 2**20


@dataclass(frozen=True)
class _Saved:
    """A saved pipeline as its index describes it."""

    settings: DiffusersSettings
    file: Path
    """The index: in the pipeline's own folder, or in the hub's copy here."""
    index: dict[str, Any]

    @property
    def on_hub(self) -> bool:
        return self.file.parent != Path(self.settings.model)

    @property
    def kind(self) -> str:
        """The class of the pipeline."""
        return str(self.index.get("_class_name"))

    @property
    def parts(self) -> dict[str, str]:
        """The parts that it has, and the class of each; other entries of the index are settings."""
        return {
            name: value[1]
            for name, value in self.index.items()
            if isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value)
        }

    @property
    def editor(self) -> tuple[str, str]:
        """Module and name of the class of the editor for it. Raises: ValueError where there is none."""
        if self.kind not in EDITORS:
            raise ValueError(
                f"{self.settings.model}: no editor for a {self.kind}; there is one for {', '.join(sorted(EDITORS))}"
            )
        module, _, name = EDITORS[self.kind].rpartition(".")
        return module, name

    def folder_with(self, parts: Iterable[str]) -> Path:
        """Where these parts lie; the hub's are fetched, all of one commit."""
        if not self.on_hub:
            return self.file.parent
        from huggingface_hub import snapshot_download

        patterns = [INDEX, *(f"{part}/*{kind}" for part in parts for kind in _KINDS)]
        commit = self.file.parent.name
        return Path(snapshot_download(self.settings.model, revision=commit, allow_patterns=patterns))

    def identity(self) -> str:
        """See `identity_of`."""
        folder = self.file.parent
        if self.on_hub:
            return folder.name  # the hub's library keeps a snapshot in a folder named by its commit
        files = [self.file, *(file for part in self.parts for file in (folder / part).rglob("*"))]
        kept = sorted((file.relative_to(folder).as_posix(), file) for file in files if file.suffix in _KINDS)
        return identity(*(value for name, file in kept for value in (name, _sampled(file))))


def load_editor(settings: DiffusersSettings, device: str, encoders: bool = True) -> DiffusersEditor:
    """An editing pipeline as an editor, frozen, all of it in `settings.dtype`, as diffusers itself runs it.

    Args:
        encoders: also load the encoders of instructions (17 GB of Qwen-Image-Edit); without them, conditions must be
            encoded already. What draws is the same, and so is the fingerprint.

    Raises:
        FileNotFoundError: neither a folder with a pipeline nor one of the hub.
        ValueError: a pipeline that no editor is written for.
    """
    saved = _find(settings)
    module, name = saved.editor
    import diffusers
    import torch

    # Tokenizers and processors stay: they are small, and some pipelines are not made without.
    wanted = {part: kind for part, kind in saved.parts.items() if encoders or "encoder" not in part}
    folder = saved.folder_with(wanted)
    pipeline = getattr(diffusers, saved.kind).from_pretrained(
        folder,
        dtype=getattr(torch, settings.dtype),
        use_safetensors=True,
        local_files_only=True,
        **{part: None for part in saved.parts if part not in wanted},
        **_processors(folder, wanted),
    )
    return getattr(import_module(module), name)(pipeline.to(device), settings, saved.identity())


def fingerprint_of(settings: DiffusersSettings) -> str:
    """The fingerprint that the loaded editor has; it is read off the files. Raises: as `load_editor`."""
    saved = _find(settings)
    return settings.fingerprint(saved.editor[1], saved.identity())


def identity_of(settings: DiffusersSettings) -> str:
    """What identifies the weights: the commit of a pipeline on the hub, a hash over the files of a folder.

    Hashing all of 57 GB would take minutes every time. Of a file beyond 32 MiB are read its size, its first and last
    MiB, and 4 KiB in every 8 MiB between: training, or merging an adapter, changes all of a tensor, and those of a
    large model's layers are larger. The same weights on the hub and in a folder have two identities.
    """
    return _find(settings).identity()


def _find(settings: DiffusersSettings) -> _Saved:
    """The pipeline's index, which the hub is asked for where it is not here yet."""
    folder = Path(settings.model)
    if folder.is_dir():
        file = folder / INDEX
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder}: no {INDEX} in this folder; expected one that a pipeline of diffusers was saved in"
            )
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", settings.model):
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(settings.model, INDEX, revision=settings.revision))
        except OSError as error:  # of the hub's library: unknown repository, revision or file, no network
            raise FileNotFoundError(
                f"{settings.model}: no such folder, and the hub gave no {INDEX} of that name"
                f" (revision {settings.revision or 'main'}): {error}"
            ) from error
    else:
        raise FileNotFoundError(f"{folder}: no such folder, and no name on the hub, as Qwen/Qwen-Image-Edit-2509 is")
    return _Saved(settings, file, json.loads(file.read_text()))


def _sampled(file: Path) -> str:
    digest = hashlib.sha256()
    size = file.stat().st_size
    digest.update(size.to_bytes(8, "big"))
    with file.open("rb") as stream:
        for start, length in _stretches(size):
            stream.seek(start)
            digest.update(stream.read(length))
    return digest.hexdigest()


def _stretches(size: int) -> Iterator[tuple[int, int]]:
    """Where a file of this size is read: start and length, in bytes."""
    if size <= 32 * _MIB:
        yield 0, size
        return
    yield 0, _MIB
    for start in range(8 * _MIB, size - _MIB, 8 * _MIB):
        yield start, 4096
    yield size - _MIB, _MIB


def _processors(folder: Path, parts: dict[str, str]) -> dict[str, Any]:
    """The processors of Qwen's vision-language models, whose stock classes do not load without torchvision."""
    import transformers

    from training.editors.qwen_processor import image_only

    return {
        part: image_only(getattr(transformers, kind)).from_pretrained(folder / part)
        for part, kind in parts.items()
        if re.fullmatch(r"Qwen\w*VLProcessor", kind)
    }
