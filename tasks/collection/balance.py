"""Choosing cases: the splits share no image, and categories and edit types come in equal numbers as far as they go."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

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
            if number[edit_type] < per_edit_type:
                order = sorted(
                    waiting[edit_type],
                    key=lambda name: (taken[edit_type][name], total[name], identity(seed, edit_type, name)),
                )
                pick = next(
                    (c for name in order if (c := _least_used(waiting[edit_type][name], used, per_image))), None
                )
            if pick is None:
                active.remove(edit_type)
                continue
            waiting[edit_type][pick.category].remove(pick)
            chosen[edit_type].append(pick)
            number[edit_type] += 1
            used[pick.image_hash] += 1
            taken[edit_type][pick.category] += 1
            total[pick.category] += 1
    rest = [c for by_category in waiting.values() for queue in by_category.values() for c in queue]
    return [candidate for edit_type in EditType for candidate in chosen[edit_type]], rest


def _least_used(queue: Sequence[Choice], used: Counter[str], per_image: int) -> Choice | None:
    """The first candidate of the least used image that may still be used."""
    free = [candidate for candidate in queue if used[candidate.image_hash] < per_image]
    return min(free, key=lambda candidate: used[candidate.image_hash], default=None)
