"""What editors are set up with. Light, since flows read it: no model and no torch is imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.settings import Settings
from training.editors.settings import DiffusersSettings


class MiniatureModel(Settings):
    """The small trained model of the miniature world, 64 x 64 pixels."""

    kind: Literal["miniature"] = "miniature"


class DiffusersModel(Settings):
    """An editing pipeline of diffusers, from a folder or the hub."""

    kind: Literal["diffusers"] = "diffusers"
    settings: DiffusersSettings


ModelConfig = Annotated[MiniatureModel | DiffusersModel, Field(discriminator="kind")]
"""Which model: one that edits and can be trained."""
