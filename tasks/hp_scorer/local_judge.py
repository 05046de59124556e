"""A judge in this process: Qwen3-VL by transformers, in batches, without a server."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.digits import DIGITS
from tasks.hp_scorer.judge import Answer, JudgeError, Spent
from tasks.hp_scorer.prompts import Prompt
from tasks.hp_scorer.qwen_model import Encoded, QwenModel
from tasks.hp_scorer.qwen_processor import load_processor
from tasks.hp_scorer.settings import LocalSettings, Mode

_TOP = 20
"""Alternatives kept of a token that may be the score, besides all digits: as many as servers give."""
_UNUSABLE = (OSError, ValueError, ImportError, RuntimeError, AssertionError, SafetensorError)
"""What the libraries raise for a folder, a hub or a device that is not as it should be."""
_loaded: dict[tuple[str, str, str, str], QwenModel] = {}
"""The one model in memory. Judges come and go with each stage, but its weights may take minutes to load."""
_loading = threading.Lock()

Batch = list[tuple[int, Prompt, Encoded | Answer]]
"""Numbered prompts, each as the model's inputs, or what became of it before."""


class LocalJudge:
    """Answers greedily. In bfloat16 the last digits of a score depend on what else is in its batch."""

    def __init__(self, settings: LocalSettings, spent: Spent | None = None) -> None:
        self.settings = settings
        self.spent = spent or Spent()
        self._name = f"{settings.model}@{settings.revision}" if settings.revision else settings.model

    async def ask_all(self, prompts: Iterable[Prompt]) -> AsyncIterator[tuple[int, Answer]]:
        """Ask all prompts; answers come with their number, batch by batch.

        Prompts are taken and encoded while the batch before is judged, both in threads. Those of one case share the
        work on what they have in common where they follow each other. Raises: JudgeError where the model cannot be
        loaded or a batch does not fit into memory.
        """
        numbered = enumerate(prompts)
        coming = asyncio.ensure_future(asyncio.to_thread(self._take, numbered))
        try:
            while batch := await coming:
                coming = asyncio.ensure_future(asyncio.to_thread(self._take, numbered))
                for number, answer in await asyncio.to_thread(self._answer, batch):
                    yield number, answer
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def close(self) -> None:
        """Nothing: the weights stay for the next judge, see `forget_weights`."""

    def _take(self, numbered: Iterator[tuple[int, Prompt]]) -> Batch:
        """The next prompts; empty when there are no more."""
        model = loaded(self.settings)
        batch: Batch = []
        for number, prompt in itertools.islice(numbered, self.settings.batch):
            try:
                batch.append((number, prompt, model.encode(prompt.content())))
            except ValueError as error:
                batch.append((number, prompt, Answer(Outcome.IMAGE_ERROR, str(error), model=self._name)))
        return batch

    def _answer(self, batch: Batch) -> list[tuple[int, Answer]]:
        answers = {number: one for number, _, one in batch if isinstance(one, Answer)}
        for mode in Mode:
            asked = {n: one for n, prompt, one in batch if prompt.mode is mode and isinstance(one, Encoded)}
            if asked:
                answers |= zip(asked, self._ask(list(asked.values()), mode), strict=True)
        self.spent.requests += len(answers)
        for answer in answers.values():
            self.spent.answers += answer.outcome is not Outcome.IMAGE_ERROR
            self.spent.prompt_tokens += answer.prompt_tokens
            self.spent.completion_tokens += answer.completion_tokens
        self.spent.models.add(self._name)
        return list(answers.items())

    def _ask(self, batch: Sequence[Encoded], mode: Mode) -> list[Answer]:
        model = loaded(self.settings)
        try:
            return self._digits(model, batch) if mode is Mode.LOGIT else self._verdicts(model, batch, mode)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise JudgeError(
                f"{self._name}: a batch of {len(batch)} does not fit into the memory of {model.device}: "
                f"lower batch, which is {self.settings.batch}, or image_side"
            ) from error

    def _digits(self, model: QwenModel, batch: Sequence[Encoded]) -> list[Answer]:
        """One token each, from one forward pass; its alternatives are all digits, so that their mass is exact."""
        logits_BV = model.start(batch, keep=False).logits_BV
        answers = []
        for one, logits_V in zip(batch, logits_BV, strict=True):
            chosen = model.text(int(logits_V.argmax()))
            tokens = [(chosen, _alternatives(model, logits_V, top=1))]
            answers.append(self._answered(Outcome.SCORED, chosen, one, 1, tokens))
        return answers

    def _verdicts(self, model: QwenModel, batch: Sequence[Encoded], mode: Mode) -> list[Answer]:
        """Whole replies. Alternatives are kept where the token that was chosen is a digit: elsewhere is no score."""
        ids: list[list[int]] = [[] for _ in batch]
        tokens: list[list[tuple[str, Mapping[str, float]]]] = [[] for _ in batch]
        speaking = set(range(len(batch)))
        so_far = model.start(batch, keep=True)
        for step in range(self.settings.max_tokens):
            chosen_B = so_far.logits_BV.argmax(1)
            chosen = chosen_B.tolist()
            speaking -= {row for row in speaking if chosen[row] in model.stops}
            for row in speaking:
                ids[row].append(chosen[row])
                wanted = mode is Mode.COT_LOGIT and chosen[row] in model.digits
                tops = _alternatives(model, so_far.logits_BV[row], _TOP) if wanted else {}
                tokens[row].append((model.text(chosen[row]), tops))
            if not speaking or step + 1 == self.settings.max_tokens:
                break
            so_far = model.go_on(so_far, chosen_B)
        answers = []
        for row, one in enumerate(batch):
            text = model.text(*ids[row])
            if row in speaking:
                told = f"cut off after {self.settings.max_tokens} tokens: {text}"
                answers.append(self._answered(Outcome.PARSE_ERROR, told, one, len(ids[row])))
            else:
                given = tokens[row] if mode is Mode.COT_LOGIT else []
                answers.append(self._answered(Outcome.SCORED, text, one, len(ids[row]) + 1, given))
        return answers

    def _answered(self, outcome: Outcome, text: str, asked: Encoded, spoken: int, tokens: Any = ()) -> Answer:
        return Answer(outcome, text, tokens, len(asked.ids_S), spoken, model=self._name)


def loaded(settings: LocalSettings) -> QwenModel:
    """The model, from memory where it is there; another one that is there is dropped first.

    Raises: JudgeError where it cannot be used.
    """
    device = settings.device
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    key = (settings.model, settings.revision, settings.dtype, device)
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            try:
                _loaded[key] = _load(*key)
            except _UNUSABLE as error:
                raise JudgeError(f"{settings.model} cannot judge on {device}: {error}") from error
        return _loaded[key]


def forget_weights() -> None:
    """Give the model's memory back, as before training on the same GPU."""
    with _loading:
        _loaded.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load(model: str, revision: str, dtype: str, device: str) -> QwenModel:
    processor = load_processor(model, revision)
    from transformers import AutoConfig, AutoModelForImageTextToText

    options: dict[str, Any] = {"revision": revision or None, "local_files_only": Path(model).is_dir()}
    config = AutoConfig.from_pretrained(model, **options)
    if not config.model_type.startswith("qwen3_vl"):
        raise ValueError(f"it is a {config.model_type}, not a Qwen3-VL")
    found, told = AutoModelForImageTextToText.from_pretrained(
        model, config=config, dtype=getattr(torch, dtype), device_map=device, output_loading_info=True, **options
    )
    # The library fills what is missing with random numbers and merely warns: a judge that speaks at random.
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")
    judge = QwenModel(found.eval(), processor)
    # Nor does it mind a tokenizer without a vocabulary.
    if not processor.chat_template or {judge.text(token).strip() for token in judge.digits} != set(DIGITS):
        raise ValueError("its chat template or the digits of its vocabulary are missing")
    return judge


def _alternatives(model: QwenModel, logits_V: torch.Tensor, top: int) -> dict[str, float]:
    """Log-probabilities of all digits and of the most probable tokens."""
    log_probabilities_V = logits_V.log_softmax(0)
    ids = sorted({*model.digits, *log_probabilities_V.topk(min(top, len(logits_V))).indices.tolist()})
    # No two digit tokens read alike, since Qwen's are bytes; fragments of other characters may.
    return dict(zip((model.text(token) for token in ids), log_probabilities_V[ids].tolist(), strict=True))
