"""Choosing cases: the splits share no image, and categories and edit types come in equal numbers as far as they go."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from storage.records import EditType, identity


class Choosable(Protocol):
    """What choosing looks at."""

    @property
    def image_hash(self) -> str: ...
    @property
    def edit_type(self) -> EditType: ...
    @property
    def category(self) -> str: ...


Choice = TypeVar("Choice", bound=Choosable)


def split_of(image_hash: str, bench_share: float, seed: int) -> str:
    """The split of an image, by its content: adding images moves none to the other side, and copies stay together."""
    return "bench" if int(identity("split", seed, image_hash), 16) / 2**64 < bench_share else "train"


def choose_balanced(
    candidates: Sequence[Choice],
    per_edit_type: int,
    per_image: int,
    seed: int,
    chosen_before: Sequence[Choosable] = (),
) -> tuple[list[Choice], list[Choice]]:
    """Choose up to `per_edit_type` cases of every edit type, balanced over the categories.

    Categories take turns; within a category, images that are used least come first. Edit types take turns too, so
    that none of them finds all images used up.

    Args:
        per_image: how many cases one image may give.
        chosen_before: cases of earlier nights, which count towards all of this.

    Returns: the newly chosen, edit type by edit type, and the rest.
    """
    waiting: dict[EditType, dict[str, list[Choice]]] = {edit_type: defaultdict(list) for edit_type in EditType}
    for candidate in sorted(candidates, key=lambda c: identity(seed, c.image_hash, c.category, c.edit_type)):
        waiting[candidate.edit_type][candidate.category].append(candidate)
    queues = {t: {name: _Queue(some) for name, some in by_name.items()} for t, by_name in waiting.items()}
    turn = {(t, name): identity(seed, t, name) for t, by_name in waiting.items() for name in by_name}
    used: Counter[str] = Counter()
    chosen: dict[EditType, list[Choice]] = {edit_type: [] for edit_type in EditType}
    taken: dict[EditType, Counter[str]] = {edit_type: Counter() for edit_type in EditType}
    total: Counter[str] = Counter()
    number = Counter(candidate.edit_type for candidate in chosen_before)
    for before in chosen_before:
        used[before.image_hash] += 1
        taken[before.edit_type][before.category] += 1
        total[before.category] += 1
    active = list(EditType)
    while active:
        for edit_type in tuple(active):
            pick = None
            by_category = queues[edit_type]
            while by_category and pick is None and number[edit_type] < per_edit_type:
                name = min(by_category, key=lambda n: (taken[edit_type][n], total[n], turn[edit_type, n]))
                pick = by_category[name].take(used, per_image)
                if pick is None:
                    del by_category[name]  # images are only ever used more
            if pick is None:
                active.remove(edit_type)
                continue
            chosen[edit_type].append(pick)
            number[edit_type] += 1
            used[pick.image_hash] += 1
            taken[edit_type][pick.category] += 1
            total[pick.category] += 1
    picked = {id(candidate) for of_type in chosen.values() for candidate in of_type}
    rest = [c for by_name in waiting.values() for some in by_name.values() for c in some if id(c) not in picked]
    return [candidate for edit_type in EditType for candidate in chosen[edit_type]], rest


class _Queue(Generic[Choice]):
    """Candidates of one edit type and category; those of the least used image come first, then in their order."""

    def __init__(self, candidates: Sequence[Choice]) -> None:
        self._heap = [(0, position, candidate) for position, candidate in enumerate(candidates)]

    def take(self, used: Counter[str], per_image: int) -> Choice | None:
        """The next candidate whose image may still be used; None where there is none."""
        while self._heap:
            uses, position, candidate = self._heap[0]
            uses_now = used[candidate.image_hash]
            if uses_now == uses < per_image:
                return heapq.heappop(self._heap)[2]
            if uses_now < per_image:
                heapq.heapreplace(self._heap, (uses_now, position, candidate))
            else:
                heapq.heappop(self._heap)
        return None
