"""What the command line says of an editor, as settings, and how a photograph is made fit for it."""

from __future__ import annotations

import argparse
import re
from typing import Any

from tasks.editing.photographs import Photograph
from tasks.editing.settings import (
    DiffusersModel,
    EditorConfig,
    ModelEditorConfig,
    RemoteEditorConfig,
    editor_argument,
)
from tasks.images import Pixels
from training.editors.settings import DiffusersSettings

_SIDE = 64
"""Of the miniature's pictures: nothing else was ever shown to it."""


def add_editor_options(parser: argparse.ArgumentParser) -> None:
    """The options that `editor_of` reads."""
    which = parser.add_argument_group("editor, the miniature if nothing is said")
    which.add_argument("--miniature", action="store_true", help="the small trained model, 64 x 64 pixels")
    which.add_argument("--model", metavar="NAME", help="a pipeline of diffusers: a folder, or a name on the hub")
    which.add_argument("--server", metavar="URL", help="a server with OpenAI's protocol; --model is its model's name")
    which.add_argument("--editor", type=editor_argument, metavar="JSON", help="any editor, see docs/editors.md")
    which.add_argument("--revision", help="of the model: a commit of the hub")
    which.add_argument("--adapter", help="put on the model, such as adapter@v3 or adapter@latest")
    which.add_argument("--steps", type=int, help="sampling steps")
    which.add_argument("--guidance", type=float, help="classifier-free, of --model and --server")
    which.add_argument(
        "--size", help="of the picture: an area in pixels or WIDTHxHEIGHT; a model keeps the photograph's aspect ratio"
    )


def editor_of(told: argparse.Namespace, photograph: Photograph) -> EditorConfig:
    """The editor. Raises: ValueError for options that do not go together."""
    named = {f"--{name}": getattr(told, name) for name in ("miniature", "model", "server", "editor")}
    kinds = [name for name, value in named.items() if value]
    if len(kinds) > 1 and kinds != ["--model", "--server"]:
        raise ValueError(f"{' and '.join(kinds)}: name one editor")
    if told.editor is not None:
        _refuse(told, "--editor", "revision", "steps", "guidance", "size")
        return _with_adapter(told.editor, told.adapter)
    if told.server:
        _refuse(told, "--server", "adapter")
        return _remote(told, photograph)
    if told.model:
        return _with_adapter(_diffusers(told), told.adapter)
    _refuse(told, "the miniature", "revision", "guidance", "size")
    return _with_adapter(ModelEditorConfig(num_steps=told.steps), told.adapter)


def fit_for(config: EditorConfig, photograph: Photograph) -> tuple[Pixels, str]:
    """The photograph as an editor takes it, and a note on what was done to it, if anything was."""
    if config.kind == "model" and config.model.kind == "miniature" and photograph.pixels.shape != (_SIDE, _SIDE, 3):
        from training.editors.sizes import resized  # torch comes with it

        note = f"resized to {_SIDE} x {_SIDE}, the one size of the miniature model"
        return resized(photograph.pixels, _SIDE, _SIDE), note
    return photograph.pixels, ""


def _refuse(told: argparse.Namespace, kind: str, *names: str) -> None:
    if found := [f"--{name}" for name in names if getattr(told, name) is not None]:
        raise ValueError(f"{', '.join(found)}: not with {kind}")


def _with_adapter(config: EditorConfig, adapter: str | None) -> EditorConfig:
    if adapter is None:
        return config
    if config.kind != "model":
        raise ValueError(f"--adapter {adapter}: editor {config.kind} has no weights here to put it on")
    return config.model_copy(update={"adapter": adapter})


def _diffusers(told: argparse.Namespace) -> ModelEditorConfig:
    sizes: dict[str, Any] = {}
    if told.size:
        width, height = _size_of(told.size)
        # The source, too: a large picture from a small one has no more in it.
        sizes = {"target_area": width * height, "condition_area": width * height}
    guidance = {} if told.guidance is None else {"guidance": told.guidance}
    settings = DiffusersSettings(model=told.model, revision=told.revision, **sizes, **guidance)
    return ModelEditorConfig(model=DiffusersModel(settings=settings), num_steps=told.steps)


def _remote(told: argparse.Namespace, photograph: Photograph) -> RemoteEditorConfig:
    if not told.model:
        raise ValueError(f"--server {told.server}: say --model NAME, the model that it serves")
    sent = {"num_inference_steps": told.steps, "guidance_scale": told.guidance}
    size = "auto"
    if told.size:
        width, height = _size_of(told.size)
        if "x" not in told.size:
            from training.editors.sizes import fitted

            rows, columns, _ = photograph.pixels.shape
            height, width = fitted(rows, columns, width)
        size = f"{width}x{height}"
    return RemoteEditorConfig(
        model=told.model,
        revision=told.revision or "",
        base_url=told.server,
        size=size,
        # OpenAI's own models know neither.
        send_seed=not told.model.startswith("gpt-image"),
        extra_body={name: value for name, value in sent.items() if value is not None},
    )


def _size_of(text: str) -> tuple[int, int]:
    """Width and height; of an area, it and 1."""
    if match := re.fullmatch(r"([1-9]\d{0,9})(?:x([1-9]\d{0,4}))?", text):
        return int(match[1]), int(match[2] or 1)
    raise ValueError(f"--size {text}: an area in pixels such as {512 * 512}, or a size such as 768x512")
