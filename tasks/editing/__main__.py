"""Edit a photograph of one's own: `python -m tasks.editing IMAGE "instruction"`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from storage.records import identity
from tasks.editing.adapters import pinned
from tasks.editing.interface import EditFailure, Editor, EditorError, EditTask
from tasks.editing.options import add_editor_options, editor_of, fit_for
from tasks.editing.outputs import Outputs, encode
from tasks.editing.photographs import OF_PEOPLE, Photograph, read_photograph
from tasks.editing.settings import EditorConfig
from tasks.images import Pixels, contact_sheet
from tasks.stores import open_store

DEFAULT_STORE = "runs/store"
SIDE_BY_SIDE = 256
"""Pixels per side of a picture that stands beside others, at least."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m tasks.editing", description=__doc__)
    options.add_argument("image", type=Path, help="the photograph")
    options.add_argument("instruction", help='what to do, such as "make the car red"')
    add_editor_options(options)
    options.add_argument("--baseline", action="store_true", help="also without the adapter, and all side by side")
    options.add_argument("--seed", type=int, default=0, help="of the noise that a model starts from (%(default)s)")
    options.add_argument("--out", type=Path, help="the picture; none: beside the photograph, under a free name")
    options.add_argument("--force", action="store_true", help="write over pictures that are there already")
    options.add_argument(
        "--store",
        default=os.environ.get("HP_EDIT_STORE", DEFAULT_STORE),
        help="where adapters are: a folder or an fsspec address (HP_EDIT_STORE, else %(default)s)",
    )
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Edit one photograph. Returns: 0, or 1 where the editor made no picture, or 2 for a mistaken command."""
    told = parser().parse_args(words)
    try:
        for line in edit(told):
            print(line, flush=True)
    except NotEditedError as error:
        print(f"not edited: {error}", file=sys.stderr)
        return 1
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        print(f"error: {said}", file=sys.stderr)
        return 2
    except (ValueError, LookupError, OSError, EditorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class NotEditedError(RuntimeError):
    """The editor made no picture."""


def edit(told: argparse.Namespace) -> Iterator[str]:
    """Edit, telling what is done and what was written. Raises: NotEditedError, and what is wrong with the command."""
    photograph = read(told.image)
    if not told.instruction.strip():
        raise ValueError("the instruction is empty: say what to do")
    if told.baseline and not told.adapter:
        raise ValueError("--baseline: also name the --adapter that it is to be compared with")
    names = ("edited", "baseline", "side-by-side") if told.baseline else ("edited",)
    outputs = Outputs.of(told.image, told.out, names, told.force)
    store = open_store(told.store)
    config = pinned(editor_of(told, photograph), store)
    source, note = fit_for(config, photograph)
    yield f"photograph  {told.image}, {photograph.size}{''.join(f'; {n}' for n in (*photograph.notes, note) if n)}"

    from tasks.editing.catalogue import make_editor, make_pair

    started = time.monotonic()
    if told.baseline:
        assert config.kind == "model"
        editors = dict(zip(("baseline", "edited"), make_pair(config, store), strict=True))
    else:
        editors = {"edited": make_editor(config, store)}
    yield f"editor      {_name_of(config)}, ready in {time.monotonic() - started:.1f} s"
    pictures: dict[str, Pixels] = {}
    for name, editor in editors.items():
        started = time.monotonic()
        picture = pictures[name] = _edited(editor, source, told.instruction, told.seed)
        seconds = time.monotonic() - started
        path = outputs.write(name, encode(picture, outputs.paths[name]))
        size = f"{picture.shape[1]} x {picture.shape[0]}"
        yield f"{name:12s}{path}, {size}, drawn in {seconds:.1f} s, fingerprint {editor.fingerprint}"
    if told.baseline:
        assert config.kind == "model"
        columns = [resized_like(source, pictures["baseline"]), pictures["baseline"], pictures["edited"]]
        side = max(SIDE_BY_SIDE, *pictures["edited"].shape[:2])
        sheet = contact_sheet([(f"source | baseline | {config.adapter}, seed {told.seed}", columns)], side)
        yield f"together    {outputs.write('side-by-side', sheet)}"


def read(path: Path) -> Photograph:
    """The photograph. Raises: FileNotFoundError, ValueError that says what can be read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return read_photograph(path.read_bytes(), OF_PEOPLE)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; save it as PNG or JPEG") from error


def _name_of(config: EditorConfig) -> str:
    """An editor, for people."""
    if config.kind != "model":
        return f"{config.kind} {config.model}" if config.kind == "remote" else config.kind
    model = config.model.settings.model if config.model.kind == "diffusers" else config.model.kind
    return f"{model}, {config.steps} steps{f', {config.adapter}' if config.adapter else ''}"


def resized_like(image: Pixels, other: Pixels) -> Pixels:
    """An image in the size of another, to stand beside it."""
    from training.editors.sizes import resized

    return resized(image, *other.shape[:2])


def _edited(editor: Editor, source: Pixels, instruction: str, seed: int) -> Pixels:
    task = EditTask(case_id=identity(source.tobytes(), instruction), instruction=instruction, source=source, seed=seed)
    (picture,) = editor.edit([task])
    if isinstance(picture, EditFailure):
        raise NotEditedError(picture.reason)
    return picture


if __name__ == "__main__":
    sys.exit(main())
