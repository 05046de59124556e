"""What asks a vision-language model: prompts in, answers out, wherever the model runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.prompts import Prompt
from tasks.hp_scorer.settings import LocalSettings, ServerSettings


class JudgeError(RuntimeError):
    """The judge cannot be used as it is set up: nothing that asking again would help."""


class SpendingCapError(JudgeError):
    """As much was spent as was allowed; everything that was paid for has its answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one prompt."""

    outcome: Outcome
    """SCORED: there is a reply to read, which may still turn out to be unreadable."""
    text: str = ""
    tokens: Sequence[tuple[str, Mapping[str, float]]] = ()
    """Each token of the reply with the log-probabilities of its alternatives; empty where the server gave none."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tries: int = 1
    model: str = ""
    """As the server calls the model that answered."""


@dataclass
class Spent:
    """What a judge was asked so far."""

    requests: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused_for_rate: int = 0
    retries: int = 0
    models: set[str] = field(default_factory=set)
    """As the server calls itself: an alias may come to mean another model."""
    limit: float | None = None
    """How many requests at a time the server took last; None before the first."""


class Judge(Protocol):
    """A model that can be asked."""

    spent: Spent

    def ask_all(self, prompts: Iterable[Prompt]) -> AsyncIterator[tuple[int, Answer]]:
        """Exactly one answer per prompt, with its number, in any order; prompts are taken as they are needed.

        Raises: JudgeError where the judge cannot be used at all.
        """

    async def close(self) -> None:
        """Give back what is held."""


def make_judge(settings: ServerSettings | LocalSettings, spent: Spent) -> Judge:
    """A judge from its settings; its libraries are imported only now.

    Args:
        spent: what was spent before; it is counted on.
    """
    if settings.where == "server":
        from tasks.hp_scorer.openai_judge import OpenAIJudge

        return OpenAIJudge(settings, spent)
    from tasks.hp_scorer.local_judge import LocalJudge

    return LocalJudge(settings, spent)
