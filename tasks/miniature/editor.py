"""Where the committed miniature editor lies, and loading it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from storage.records import identity

if TYPE_CHECKING:
    from training.editors.miniature import MiniatureEditor

WEIGHTS = Path(__file__).parent / "weights"


@cache
def weights_fingerprint(folder: Path = WEIGHTS) -> str:
    """The content hash of the model's files; no model is loaded for it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return identity(*(part for path in files for part in (str(path.relative_to(folder)), path.read_bytes())))


def load_miniature(folder: Path = WEIGHTS) -> MiniatureEditor:
    """The miniature editor, on a GPU where there is one."""
    import torch

    from training.editors.miniature import MiniatureEditor

    return MiniatureEditor.from_pretrained(folder).to("cuda" if torch.cuda.is_available() else "cpu")
