"""HP-Scorer: a vision-language model asked by a rubric, see `Scorer`. Its numbers come from the model or not at all."""

from __future__ import annotations

import asyncio
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydantic import Field

from storage.records import EditType, identity
from tasks.hp_scorer.contract import EditTriplet, Judgement, Outcome
from tasks.hp_scorer.digits import LEAST_MASS, expected_digit
from tasks.hp_scorer.openai_judge import Answer, OpenAIJudge, ServerSettings
from tasks.hp_scorer.prompts import Mode, Prompt, form_fingerprint
from tasks.hp_scorer.replies import read_reply
from tasks.hp_scorer.rubric import Rubric, generic_rubric, rubric_of
from tasks.images import Pixels, jpeg, png
from tasks.stage import StageConfig


class VlmConfig(StageConfig):
    """Which model judges, and how it is asked."""

    server: ServerSettings
    mode: Mode = Mode.LOGIT
    generic: bool = Field(False, description="The general criteria alone, for all edit types: the paper's Base-Scorer.")
    image_side: int = Field(512, ge=32, description="Pixels of the longer side; larger images are reduced.")
    image_quality: int | None = Field(None, ge=1, le=100, description="JPEG at this quality; none: PNG.")
    repeats: int = Field(1, ge=1, description="Times that each edit is asked about; the score is the median.")
    least_mass: float = Field(LEAST_MASS, ge=0, le=1, description="logit: probability on digits, at least.")
    full_at: float | None = Field(
        None, gt=0, le=5, description="The lowest full score; none: 5, or 4.5 in logit modes."
    )


@dataclass(frozen=True)
class VlmScorer:
    """The judge. The rubrics are those of the files where none are given."""

    config: VlmConfig
    rubrics: Mapping[EditType, Rubric] | None = None

    @property
    def full_at(self) -> float:
        if self.config.full_at is not None:
            return self.config.full_at
        return 5.0 if self.config.mode is Mode.COT else 4.5

    @property
    def fingerprint(self) -> str:
        return identity(*(self.fingerprint_of(edit_type) for edit_type in EditType))

    def fingerprint_of(self, edit_type: EditType) -> str:
        config, server = self.config, self.config.server
        decoding = [server.temperature, server.seed, server.max_tokens, dict(server.extra_body)]
        images = [config.image_side, config.image_quality]
        asked = [form_fingerprint(config.mode), config.repeats, config.least_mass]
        return identity(
            "vlm", server.model, server.revision, decoding, images, asked, self.rubric(edit_type).fingerprint
        )

    def rubric(self, edit_type: EditType) -> Rubric:
        """What the judge is told for an edit type."""
        if self.rubrics is not None:
            return self.rubrics[edit_type]
        return generic_rubric() if self.config.generic else rubric_of(edit_type)

    def score(self, triplets: Sequence[EditTriplet], attempt: int = 0) -> list[Judgement]:
        return asyncio.run(self._score(triplets))

    async def _score(self, triplets: Sequence[EditTriplet]) -> list[Judgement]:
        asked = [number for number, triplet in enumerate(triplets) if triplet.edited is not None]
        prompts = {number: self.prompt(triplets[number]) for number in asked}
        judge = OpenAIJudge(self.config.server)
        found: dict[int, list[Judgement]] = {number: [] for number in asked}
        try:
            repeated = [number for number in asked for _ in range(self.config.repeats)]
            async for position, answer in judge.ask_all([prompts[number] for number in repeated]):
                number = repeated[position]
                found[number].append(self.judge(answer, prompts[number]))
        finally:
            await judge.close()
        unreadable = Judgement(outcome=Outcome.IMAGE_ERROR, score=None, raw_reply="the edited image cannot be read")
        return [joined(found[number]) if number in found else unreadable for number in range(len(triplets))]

    def prompt(self, triplet: EditTriplet) -> Prompt:
        """What is sent for a triplet, whose edited image is there."""
        assert triplet.edited is not None
        return Prompt(
            rubric=self.rubric(triplet.edit_type),
            mode=self.config.mode,
            instruction=triplet.instruction,
            source=self._encoded(triplet.source),
            edited=self._encoded(triplet.edited),
            image_kind="png" if self.config.image_quality is None else "jpeg",
        )

    def judge(self, answer: Answer, prompt: Prompt) -> Judgement:
        """What an answer comes to."""
        if answer.outcome is not Outcome.SCORED:
            return Judgement(outcome=answer.outcome, score=None, raw_reply=answer.text)
        if prompt.mode is Mode.LOGIT:
            return self._digit(answer, answer.tokens[0][1] if answer.tokens else {}, {})
        reply = read_reply(answer.text, prompt.questions)
        if reply.outcome is not Outcome.SCORED:
            raw = f"{reply.reason}: {answer.text}"
            return Judgement(outcome=reply.outcome, score=None, raw_reply=raw)
        answers = dict(reply.answers or {})
        if prompt.mode is Mode.COT_LOGIT:
            return self._digit(answer, _score_token(answer), answers)
        return Judgement(outcome=Outcome.SCORED, score=reply.score, answers=answers, raw_reply=answer.text)

    def _digit(self, answer: Answer, tops: Mapping[str, float], answers: Mapping[str, float]) -> Judgement:
        digit = expected_digit(tops)
        mass = digit.mass if digit else 0.0
        if digit is None or mass < self.config.least_mass:
            why = f"digits have {mass:.2f} of the probability, less than {self.config.least_mass:.2f}"
            return Judgement(outcome=Outcome.PARSE_ERROR, score=None, raw_reply=f"{why}: {answer.text}")
        return Judgement(
            outcome=Outcome.SCORED,
            score=digit.score,
            answers=answers,
            raw_reply=f"{answer.text} (digit mass {mass:.3f}, spread {digit.spread:.3f})",
        )

    def _encoded(self, pixels: Pixels) -> bytes:
        """An image as it is sent."""
        scale = self.config.image_side / max(pixels.shape[:2])
        if scale < 1:
            size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        return png(pixels) if self.config.image_quality is None else jpeg(pixels, self.config.image_quality)


def joined(judgements: Sequence[Judgement]) -> Judgement:
    """Several judgements of one edit as one: the median of the scores that there are, or the first failure.

    Answers are means. Half of the repeats at least must have a score.
    """
    scored = [one for one in judgements if one.score is not None]
    if 2 * len(scored) < len(judgements) or not scored:
        return next(one for one in judgements if one.score is None)
    if len(judgements) == 1:
        return judgements[0]
    scores = [one.score for one in scored if one.score is not None]
    names = scored[0].answers
    return Judgement(
        outcome=Outcome.SCORED,
        score=statistics.median(scores),
        answers={name: statistics.fmean(one.answers[name] for one in scored) for name in names},
        raw_reply=f"{len(scored)} of {len(judgements)} scored, spread {statistics.pstdev(scores):.3f}\n"
        + "\n".join(one.raw_reply for one in judgements),
    )


def _score_token(answer: Answer) -> Mapping[str, float]:
    """The alternatives of the digit that is the score: the first digit after the last mention of the key."""
    text = "".join(token for token, _ in answer.tokens)
    ends = [match.end() for match in re.finditer(r'"score"\s*:\s*', text)]
    at = 0
    for token, tops in answer.tokens:
        if ends and at + len(token) > ends[-1] and token.strip()[:1].isdigit():
            return tops
        at += len(token)
    return {}
