"""HP-Scorer: a vision-language model asked by a rubric, see `Scorer`. Its numbers come from the model or not at all."""

from __future__ import annotations

import re
import statistics
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from storage.records import EditType, identity
from tasks.hp_scorer.contract import EditTriplet, Judgement, Outcome, Scorer, WhoJudges
from tasks.hp_scorer.digits import expected_digit
from tasks.hp_scorer.judge import Answer, Spent, make_judge
from tasks.hp_scorer.prompts import Prompt, form_fingerprint
from tasks.hp_scorer.replies import read_reply
from tasks.hp_scorer.rubric import Rubric
from tasks.hp_scorer.settings import Mode, VlmConfig
from tasks.images import Pixels, jpeg, png
from tasks.serving.streaming import iterate


@dataclass(frozen=True)
class VlmScorer(Scorer):
    """The judge, see `Scorer`."""

    config: VlmConfig
    rubrics: Mapping[EditType, Rubric]
    """What it is told, by edit type."""
    spent: Spent = field(default_factory=Spent, compare=False)

    @property
    def who(self) -> WhoJudges:
        judge = self.config.judge
        return WhoJudges(judge.model, judge.revision, self.config.deciding())

    @property
    def full_at(self) -> float:
        if self.config.full_at is not None:
            return self.config.full_at
        return 5.0 if self.config.mode is Mode.COT else 4.5

    @property
    def fingerprint(self) -> str:
        return identity(*(self.fingerprint_of(edit_type) for edit_type in EditType))

    def fingerprint_of(self, edit_type: EditType) -> str:
        config = self.config
        asked = {name: value for name, value in config.deciding().items() if name not in ("generic", "full_at")}
        return identity("vlm", asked, form_fingerprint(config.mode), self.rubrics[edit_type].fingerprint)

    def judgements(
        self, triplets: Iterable[EditTriplet], attempt: int = 0
    ) -> Generator[tuple[int, Judgement], None, None]:
        return iterate(self._judgements(triplets, attempt))

    async def _judgements(self, triplets: Iterable[EditTriplet], attempt: int) -> AsyncIterator[tuple[int, Judgement]]:
        repeats = self.config.repeats
        asked: list[tuple[int, EditType]] = []
        """Of each prompt: the triplet's position and edit type."""
        unreadable: list[int] = []

        def prompts() -> Iterator[Prompt]:
            seen: Pixels | None = None
            for position, triplet in enumerate(triplets):
                if triplet.edited is None:
                    unreadable.append(position)
                    continue
                # The samples of a training group have one source: it is encoded once.
                if triplet.source is not seen:
                    seen, source = triplet.source, self._encoded(triplet.source)
                prompt = self.prompt(triplet, source)
                for repeat in range(attempt * repeats, (attempt + 1) * repeats):
                    asked.append((position, triplet.edit_type))
                    yield replace(prompt, repeat=repeat)

        answered: dict[int, list[Judgement]] = {}
        judge = make_judge(self.config.judge, self.spent)
        try:
            async for number, answer in judge.ask_all(prompts()):
                position, edit_type = asked[number]
                answered.setdefault(position, []).append(self.judge(answer, self.rubrics[edit_type]))
                if len(answered[position]) == repeats:
                    yield position, joined(answered.pop(position))
        finally:
            await judge.close()
        for position in unreadable:
            told = "the edited image cannot be read"
            yield position, Judgement(outcome=Outcome.IMAGE_ERROR, score=None, raw_reply=told)

    def prompt(self, triplet: EditTriplet, source: bytes | None = None) -> Prompt:
        """What is sent for a triplet, whose edited image is there.

        Args:
            source: its source as it is sent, where that is made already.
        """
        assert triplet.edited is not None
        return Prompt(
            rubric=self.rubrics[triplet.edit_type],
            mode=self.config.mode,
            instruction=triplet.instruction,
            source=source or self._encoded(triplet.source),
            edited=self._encoded(triplet.edited),
            image_kind="png" if self.config.image_quality is None else "jpeg",
        )

    def judge(self, answer: Answer, rubric: Rubric) -> Judgement:
        """What an answer to a rubric comes to."""
        if answer.outcome is not Outcome.SCORED:
            return Judgement(outcome=answer.outcome, score=None, raw_reply=answer.text, model=answer.model)
        if self.config.mode is Mode.LOGIT:
            return self._digit(answer, answer.tokens[0][1] if answer.tokens else {}, {})
        reply = read_reply(answer.text, [question.name for question in rubric.questions])
        if reply.outcome is not Outcome.SCORED:
            raw = f"{reply.reason}: {answer.text}"
            return Judgement(outcome=reply.outcome, score=None, raw_reply=raw, model=answer.model)
        answers = dict(reply.answers or {})
        if self.config.mode is Mode.COT_LOGIT:
            return self._digit(answer, _score_token(answer), answers)
        return Judgement(
            outcome=Outcome.SCORED, score=reply.score, answers=answers, raw_reply=answer.text, model=answer.model
        )

    def _digit(self, answer: Answer, tops: Mapping[str, float], answers: Mapping[str, float]) -> Judgement:
        digit = expected_digit(tops)
        mass = digit.mass if digit else 0.0
        if digit is None or mass < self.config.least_mass:
            why = f"digits have {mass:.2f} of the probability, less than {self.config.least_mass:.2f}"
            raw = f"{why}: {answer.text}"
            return Judgement(
                outcome=Outcome.PARSE_ERROR, score=None, raw_reply=raw, digit_mass=mass, model=answer.model
            )
        return Judgement(
            outcome=Outcome.SCORED,
            score=digit.score,
            answers=answers,
            raw_reply=answer.text,
            digit_mass=mass,
            spread=digit.spread,
            model=answer.model,
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
    masses = [one.digit_mass for one in scored if one.digit_mass is not None]
    return Judgement(
        outcome=Outcome.SCORED,
        score=statistics.median(scores),
        answers={name: statistics.fmean(one.answers[name] for one in scored) for name in scored[0].answers},
        raw_reply="\n".join(one.raw_reply for one in judgements),
        digit_mass=statistics.fmean(masses) if masses else None,
        spread=statistics.pstdev(scores),
        model=scored[0].model,
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
