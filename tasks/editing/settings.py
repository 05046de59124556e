"""What editors are set up with. Light, since flows read it: no model and no torch is imported here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, field_validator, model_validator

from tasks.serving.settings import check_address, check_no_secret
from tasks.settings import Settings, passing
from training.editors.settings import DiffusersSettings

_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""A repository on the hub, owner and name."""


class MiniatureModel(Settings):
    """The small trained model of the miniature world, 64 x 64 pixels."""

    kind: Literal["miniature"] = "miniature"


class DiffusersModel(Settings):
    """An editing pipeline of diffusers, from a folder or the hub."""

    kind: Literal["diffusers"] = "diffusers"
    settings: DiffusersSettings

    def deciding(self) -> dict[str, Any]:
        """Where a folder lies decides nothing, and is nobody's business; which weights are in it, fingerprints tell."""
        told = super().deciding()
        name: str = told["settings"]["model"]
        return told | {"settings": told["settings"] | {"model": name if _HUB.fullmatch(name) else Path(name).name}}


ModelConfig = Annotated[MiniatureModel | DiffusersModel, Field(discriminator="kind")]
"""Which model: one that edits and can be trained."""

_STEPS = {"miniature": 8, "diffusers": 40}
"""Usual sampling steps; 40 are those of Qwen-Image-Edit-2509's own example."""
_BATCH = {"miniature": 64, "diffusers": 4}


class ModelEditorConfig(Settings):
    """A model in this process, perhaps with an adapter."""

    kind: Literal["model"] = "model"
    model: ModelConfig = MiniatureModel()
    num_steps: int | None = Field(None, ge=2, description="Sampling steps; none: 8 of the miniature, 40 of diffusers.")
    adapter: str | None = Field(None, description="An adapter version to put on the model, such as adapter@v3.")
    batch: int | None = passing(None, "Pictures drawn at once; none: 64 of the miniature, 4 of diffusers.", ge=1)

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return self.num_steps or _STEPS[self.model.kind]

    @property
    def batch_size(self) -> int:
        """Pictures drawn at once."""
        return self.batch or _BATCH[self.model.kind]


class ClassicalEditorConfig(Settings):
    """Image processing, for cases with masks: no model."""

    kind: Literal["classical"] = "classical"
    careful_share: float = Field(0.5, ge=0, le=1, description="Share of the edits made with care.")


class RemoteEditorConfig(Settings):
    """A model behind any server with OpenAI's protocol for edits of images. The key comes by the environment,
    `OPENAI_API_KEY`.
    """

    kind: Literal["remote"] = "remote"
    model: str = Field(min_length=1)
    revision: str = Field("", description="Of an open model's weights; recorded, since servers do not tell.")
    size: str = Field(
        "auto",
        pattern=r"^(auto|source|[1-9]\d{0,4}x[1-9]\d{0,4})$",
        description="Of the picture: auto (the server chooses), source (the case's own), or one such as 1024x768.",
    )
    send_seed: bool = Field(True, description="Off for servers that take none, such as OpenAI's.")
    extra_body: dict[str, Any] = Field({}, description="Sent along, such as num_inference_steps or guidance_scale.")
    base_url: str | None = passing(None, "None: OPENAI_BASE_URL, or OpenAI's own.")
    send_format: bool | None = passing(
        None, "Whether response_format is sent; none: except to gpt-image models, which refuse it."
    )
    timeout_seconds: float = passing(300.0, "Of one request.", gt=0)
    tries: int = passing(5, "Of one request, the first included.", ge=1)
    concurrency: int = passing(8, "Requests under way at most; fewer where the server says 429.", ge=1)
    give_up_after: int | None = passing(
        20, "Tasks without a single picture among them after which it stops; none: it goes on.", ge=1
    )
    price: float | None = passing(None, "US dollars per picture.", ge=0)
    spend_at_most: float | None = passing(None, "US dollars in one run of one process; then it stops.", gt=0)

    _address = field_validator("base_url")(check_address)
    _secrets = field_validator("extra_body")(check_no_secret)

    @field_validator("extra_body")
    @classmethod
    def _check_own(cls, value: dict[str, Any]) -> dict[str, Any]:
        if found := sorted(_SENT & value.keys()):
            raise ValueError(f"{', '.join(found)}: sent by this editor itself; size, model and send_seed are settings")
        return value

    @model_validator(mode="after")
    def _check_price(self) -> RemoteEditorConfig:
        if self.spend_at_most is not None and self.price is None:
            raise ValueError(f"spend_at_most {self.spend_at_most:g}: set price, the dollars per picture, too")
        return self

    @property
    def sends_format(self) -> bool:
        """Whether response_format is sent."""
        return not self.model.startswith("gpt-image") if self.send_format is None else self.send_format


_SENT = {"model", "image", "prompt", "n", "size", "seed", "response_format", "stream"}


class FolderEditorConfig(Settings):
    """Pictures that were made elsewhere, a file per case."""

    kind: Literal["folder"] = "folder"
    folder: str = passing(..., "A path or an fsspec address, without credentials.", min_length=1)
    made_by: str = Field("", description="Model, revision and settings that made them, for the record.")


def _of_before(value: Any) -> Any:
    """Settings of before there were several kinds of models: all fields in one, and "miniature" a kind of editor."""
    if not isinstance(value, Mapping):
        return value
    kind, rest = value.get("kind"), {name: value[name] for name in value if name != "kind"}
    if kind == "miniature" or (kind is None and "model" not in rest):
        rest.pop("careful_share", None)
        return {"kind": "model", "model": {"kind": "miniature"}, **rest}
    if kind == "classical":
        rest.pop("num_steps", None)
        if adapter := rest.pop("adapter", None):
            raise ValueError(f"editor classical has no weights to put {adapter} on; choose a model")
    return {"kind": kind or "model", **rest}


BaselineConfig = Annotated[ModelEditorConfig, BeforeValidator(_of_before)]
"""A model that an adapter can be put on."""
EditorConfig = Annotated[
    Annotated[
        ModelEditorConfig | ClassicalEditorConfig | RemoteEditorConfig | FolderEditorConfig, Field(discriminator="kind")
    ],
    BeforeValidator(_of_before),
]
"""Which editor, and how it works."""
_EDITOR: TypeAdapter[EditorConfig] = TypeAdapter(EditorConfig)


def editor_argument(text: str) -> EditorConfig:
    """An editor as a command line tells it, in JSON. Raises: argparse.ArgumentTypeError that says what is wrong."""
    try:
        return _EDITOR.validate_json(text)
    except ValidationError as error:
        told = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in error.errors())
        raise argparse.ArgumentTypeError("; ".join(told)) from error
