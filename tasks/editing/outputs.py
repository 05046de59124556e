"""Where pictures are written: beside what they were made from, and over nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from PIL import Image

from tasks.images import Pixels, jpeg, png

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_QUALITY = 95


@dataclass(frozen=True)
class Outputs:
    """The files of one edit, chosen before anything is drawn."""

    paths: Mapping[str, Path]
    force: bool

    @classmethod
    def of(cls, image: Path, out: Path | None, names: Sequence[str], force: bool) -> Outputs:
        """The files for these pictures; the first name is that of the picture that was wanted.

        Without `out` they are named after the image, with a number where such files are there already.

        Raises: ValueError for a kind of file that is not written; FileExistsError, unless `force`; PermissionError.
        """
        folder = image.parent if out is None else out.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder to write to")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder}: may not be written to; name a file elsewhere with --out")
        if out is None:
            return cls(_free(image, names, force), force)
        if out.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"--out {out}: a name that ends in {', '.join(_SUFFIXES)}")
        first, *others = names
        paths = {first: out} | {name: out.with_name(f"{out.stem}-{name}.png") for name in others}
        if (found := [str(path) for path in paths.values() if path.exists()]) and not force:
            raise FileExistsError(f"{', '.join(found)}: there already; --force writes over it")
        return cls(paths, force)

    def write(self, name: str, data: bytes) -> Path:
        """Write one of them. Raises: FileExistsError where it came to be in the meantime, unless `force`."""
        path = self.paths[name]
        with path.open("wb" if self.force else "xb") as file:
            file.write(data)
        return path


def encode(pixels: Pixels, path: Path) -> bytes:
    """A picture as a file of this name holds it."""
    match path.suffix.lower():
        case ".png":
            return png(pixels)
        case ".webp":
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "WEBP", quality=_QUALITY)
            return encoded.getvalue()
        case _:
            return jpeg(pixels, _QUALITY)


def _free(image: Path, names: Sequence[str], force: bool) -> dict[str, Path]:
    """Names that are all free, with the lowest number that makes them so."""
    for number in count(1):
        end = "" if number == 1 else f"-{number}"
        paths = {name: image.with_name(f"{image.stem}-{name}{end}.png") for name in names}
        if force or not any(path.exists() for path in paths.values()):
            return paths
    raise AssertionError("numbers do not end")
