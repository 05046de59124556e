"""Where the committed miniature editor lies, and loading it."""

from __future__ import annotations

from pathlib import Path

import torch

from training.editors.miniature import MiniatureEditor

WEIGHTS = Path(__file__).parent / "weights"


def load_miniature(folder: Path = WEIGHTS) -> MiniatureEditor:
    """The miniature editor, on a GPU where there is one."""
    return MiniatureEditor.from_pretrained(folder).to("cuda" if torch.cuda.is_available() else "cpu")
