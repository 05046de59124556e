"""What judges are set up with: which model, how it is asked, how it is reached. Light, since flows read it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tasks.hp_scorer.digits import LEAST_MASS
from tasks.serving.settings import check_address, check_no_secret
from tasks.settings import Settings, passing

NOISE = 0.05
"""Standard deviation of the stand-in's own inaccuracy, in points; drawn from the content, so a repeat says the same.

Small against a whole point, and against the differences within a training group (0.1 to 0.75 points): a group whose
samples differ by less than the noise would be trained on noise, since its advantages are scaled to unit spread.
"""


class Mode(StrEnum):
    """How a judge answers."""

    LOGIT = "logit"
    """One digit; the score is the mean over its probabilities."""
    COT = "cot"
    """Answers, a reason, then a whole score, as JSON."""
    COT_LOGIT = "cot+logit"
    """The same, and the score is the mean over the probabilities of its digit."""


class Price(Settings):
    """US dollars per million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)


class ServerSettings(Settings):
    """A model behind an OpenAI-compatible server. The key comes by the environment, `OPENAI_API_KEY`."""

    where: Literal["server"] = "server"
    model: str = Field(min_length=1)
    revision: str = Field("", description="Of an open model's weights; recorded, since servers do not tell.")
    temperature: float | None = Field(0.0, ge=0, description="None: the server's own; reasoning models take no other.")
    seed: int | None = 0
    max_tokens: int = Field(700, ge=1, description="For answers, reason and score; a digit takes one.")
    extra_body: dict[str, Any] = Field({}, description="Sent along, such as a model's own sampling parameters.")
    base_url: str | None = passing(None, "None: OPENAI_BASE_URL, or OpenAI's own.")
    token_field: str = passing("max_completion_tokens", "Or max_tokens, for older servers.")
    timeout_seconds: float = passing(120.0, "Of one request.", gt=0)
    tries: int = passing(6, "Of one request, the first included.", ge=1)
    concurrency: int = passing(32, "Requests under way at most; fewer where the server says 429.", ge=1)
    price: Price | None = passing(None, "None: as listed for the model by genai-prices, if it is.")
    spend_at_most: float | None = passing(None, "US dollars in one run of one process; then it stops.", gt=0)

    _address = field_validator("base_url")(check_address)
    _body = field_validator("extra_body")(check_no_secret)


def _default(tag: str, usual: str) -> BeforeValidator:
    """Settings of before there were several kinds do not say which they are."""
    return BeforeValidator(lambda value: {tag: usual, **value} if isinstance(value, Mapping) else value)


class LocalSettings(Settings):
    """Qwen3-VL in this process, by transformers."""

    where: Literal["in_process"] = "in_process"
    model: str = Field(min_length=1, description="A folder, or a name on the Hugging Face hub.")
    revision: str = Field("", description="A commit of the hub; empty for a folder.")
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_tokens: int = Field(700, ge=1, description="For answers, reason and score; a digit takes one.")
    device: str = passing("auto", "auto: the first GPU, else the CPU.")
    batch: int = passing(8, "Prompts in one forward pass.", ge=1)


class VlmConfig(Settings):
    """HP-Scorer: which vision-language model judges, and how it is asked."""

    kind: Literal["vlm"] = "vlm"
    judge: Annotated[
        Annotated[ServerSettings | LocalSettings, Field(discriminator="where")], _default("where", "server")
    ]
    mode: Mode = Mode.LOGIT
    generic: bool = Field(False, description="The general criteria alone, for all edit types: the paper's Base-Scorer.")
    image_side: int = Field(512, ge=32, description="Pixels of the longer side; larger images are reduced.")
    image_quality: int | None = Field(None, ge=1, le=100, description="JPEG at this quality; none: PNG.")
    repeats: int = Field(1, ge=1, description="Times that each edit is asked about; the score is the median.")
    least_mass: float = Field(LEAST_MASS, ge=0, le=1, description="logit: probability on digits, at least.")
    full_at: float | None = Field(
        None, gt=0, le=5, description="The lowest full score; none: 5, or 4.5 in logit modes."
    )

    @model_validator(mode="after")
    def _check_repeats(self) -> VlmConfig:
        if self.repeats > 1 and self.judge.where == "in_process":
            raise ValueError(f"repeats {self.repeats}: a judge in this process says the same each time")
        return self


class MeasuredConfig(Settings):
    """The stand-in judge that measures pixels; not HP-Scorer."""

    kind: Literal["measured"] = "measured"
    knows: Literal["sprites", "nothing"] = Field(
        "sprites", description="Which objects it recognises: those of the miniature world, or none."
    )
    generic: bool = Field(False, description="One set of questions for all edit types (the paper's Base-Scorer).")
    mode: Literal["integer", "continuous"] = Field("integer", description="Whole points, as in the paper, or not.")
    full_at: float = Field(4.5, description="continuous: the lowest score that counts as full.")
    noise: float = Field(NOISE, ge=0, description="Standard deviation of its own inaccuracy, in points.")


ScorerConfig = Annotated[
    Annotated[MeasuredConfig | VlmConfig, Field(discriminator="kind")], _default("kind", "measured")
]
"""Which judge."""
