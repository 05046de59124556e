"""Which edits people rate, and which of their ratings are kept for the final check."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from storage.records import identity

_UNRATED = -1
_TYPE_WEIGHT = 4.0
"""The balance of an edit type counts this many times as much as that of one of its scores."""


@dataclass(frozen=True, slots=True)
class Pickable:
    """An edit that may be shown to people."""

    edit_id: str
    edit_type: str
    cluster: str
    """The source image."""
    score: float | None
    """0 to 5: a first judge's, or people's; None where there is none."""

    @property
    def stratum(self) -> int:
        """The score rounded half up to 0..5, or -1 without one."""
        return _UNRATED if self.score is None else min(max(math.floor(self.score + 0.5), 0), 5)


def pick_stratified(candidates: Sequence[Pickable], per_edit_type: int, seed: int) -> list[str]:
    """Pick edits for people to rate, of every edit type about as many of each rounded score as of the next.

    A strong editor gives mostly fives, and fives alone cannot tell a good judge from one that always says five. Within
    an edit type the scores take turns, the one with the fewest edits left first; what one lacks goes to the others. A
    source image is used a second time for an edit type only when every image with a rated edit was used once; edits
    without a score come only when no other is left.

    Returns: edit identifiers, edit type by edit type, within it in an order that tells nothing about the scores. They
    depend on the seed and the set of candidates, not on their order.

    Raises: ValueError for a negative number or an edit that is there twice.
    """
    if per_edit_type < 0:
        raise ValueError(f"per_edit_type is {per_edit_type}, must not be negative")
    by_type: dict[str, list[Pickable]] = defaultdict(list)
    for candidate in _in_hash_order(candidates, seed):
        by_type[candidate.edit_type].append(candidate)
    return [edit_id for edit_type in sorted(by_type) for edit_id in _pick(by_type[edit_type], per_edit_type, seed)]


def split_held_out(items: Sequence[Pickable], held_out_share: float = 0.4, seed: int = 0) -> dict[str, bool]:
    """Split edits into those a rubric is tuned on and those it is checked on.

    All edits of a source image are on one side, whatever their types. Each edit type, and each rounded score in it,
    is split as nearly in the same share as that allows: images go one by one to the side that is short of them, and
    then change sides as long as that makes it more even.

    Returns: edit identifier -> whether it is held out; independent of the order of the items.

    Raises: ValueError for a share outside [0, 1] or an edit that is there twice.
    """
    if not 0 <= held_out_share <= 1:
        raise ValueError(f"held_out_share is {held_out_share}, must be in [0, 1]")
    clusters: dict[str, Counter[tuple[str, int | None]]] = defaultdict(Counter)
    for item in _in_hash_order(items, seed):
        clusters[item.cluster].update([(item.edit_type, None), (item.edit_type, item.stratum)])
    order = sorted(clusters, key=lambda name: (-clusters[name].total(), identity(seed, name)))
    excess: dict[tuple[str, int | None], float] = defaultdict(float)
    held_out = dict.fromkeys(order, False)
    for name in order:
        for cell, number in clusters[name].items():
            excess[cell] -= held_out_share * number
        _move_if_better(name, held_out, clusters[name], excess)
    while sum(_move_if_better(name, held_out, clusters[name], excess) for name in order):
        pass
    return {item.edit_id: held_out[item.cluster] for item in items}


def _move_if_better(
    name: str,
    held_out: dict[str, bool],
    cells: Counter[tuple[str, int | None]],
    excess: dict[tuple[str, int | None], float],
) -> bool:
    """Change the side of an image if that lessens the weighted sum of squared excesses; whether it did.

    Args:
        excess: by edit type, and by edit type and score, how many more are held out than should be; changed in place.
    """
    sign = -1 if held_out[name] else 1
    gain = 0.0
    for (edit_type, stratum), number in cells.items():
        weight = _TYPE_WEIGHT if stratum is None else 1.0
        gain -= weight * number * (number + 2 * sign * excess[edit_type, stratum])
    if gain <= 1e-9:
        return False
    for cell, number in cells.items():
        excess[cell] += sign * number
    held_out[name] = not held_out[name]
    return True


def _pick(candidates: list[Pickable], number: int, seed: int) -> list[str]:
    """Up to `number` of one edit type."""
    left = _enough(candidates, number)
    picked: set[str] = set()
    used: Counter[str] = Counter()
    taken: Counter[int] = Counter()
    while left and len(picked) < number:
        rated = [candidate for candidate in left if candidate.score is not None] or left
        fewest = min(used[candidate.cluster] for candidate in rated)
        open_now = [(c, c.stratum) for c in rated if used[c.cluster] == fewest]
        available = Counter(stratum for _, stratum in open_now)
        turn = min(available, key=lambda stratum: (taken[stratum], available[stratum], stratum))
        scores_of: dict[str, set[int]] = defaultdict(set)
        for candidate, stratum in open_now:
            scores_of[candidate.cluster].add(stratum)
        # An image that offers fewer other scores first: the others can still serve where it cannot.
        choice = min((c for c, stratum in open_now if stratum == turn), key=lambda c: len(scores_of[c.cluster]))
        picked.add(choice.edit_id)
        used[choice.cluster] += 1
        taken[turn] += 1
        left.remove(choice)
    # Not in the candidates' order: of a frequent score the first ones are picked, of a rare one all.
    return sorted(picked, key=lambda edit_id: identity("shown", seed, edit_id))


def _enough(candidates: list[Pickable], number: int) -> list[Pickable]:
    """The candidates of the first images of each stratum: so many that `number` are left when others used `number`."""
    images: dict[int, set[str]] = defaultdict(set)
    kept = []
    for candidate in candidates:
        known = images[candidate.stratum]
        if candidate.cluster in known or len(known) < 2 * number:
            known.add(candidate.cluster)
            kept.append(candidate)
    return kept


def _in_hash_order(items: Sequence[Pickable], seed: int) -> list[Pickable]:
    names = Counter(item.edit_id for item in items)
    if names and (most := names.most_common(1)[0])[1] > 1:
        raise ValueError(f"edit {most[0]} is there twice")
    return sorted(items, key=lambda item: identity(seed, item.edit_id))
