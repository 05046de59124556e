"""Triplets that people rated, as a judge is asked about them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from storage.records import Case, Edit, EditType
from storage.schemas import from_table
from storage.store import Version
from tasks.calibration.picking import Pickable, split_held_out

Labels = Mapping[str, Mapping[str, int]]
"""Scores by edit and rater."""


@dataclass(frozen=True, slots=True)
class RatedTriplet:
    """A triplet with people's scores."""

    case: Case
    edit: Edit
    ratings: Mapping[str, int]
    """By rater."""
    held_out: bool
    """Set aside: nothing is chosen or fitted by it, everything is reported on it."""

    @property
    def human(self) -> float:
        """The mean of the raters, 0 to 5."""
        return fmean(self.ratings.values())


def labels_of(labels: Version) -> Labels:
    """What a version of the artifact `labels` says."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for part in labels.parts("labels", ["edit_id", "rater", "score"]):
        for row in part.to_pylist():
            found[row["edit_id"]][row["rater"]] = row["score"]
    return dict(found)


def held_out_of(triplets: Version, labels: Labels, share: float, seed: int) -> dict[str, bool]:
    """Which of the rated edits are set aside: whole source images, over all edit types and scores alike."""
    items = [
        Pickable(row["edit_id"], row["edit_type"], row["source_id"], fmean(labels[row["edit_id"]].values()))
        for part in triplets.parts("triplets", ["edit_id", "edit_type", "source_id"])
        for row in part.to_pylist()
        if row["edit_id"] in labels
    ]
    return split_held_out(items, share, seed)


def rated_triplets(
    triplets: Version, edit_type: EditType, labels: Labels, held_out: Mapping[str, bool]
) -> list[RatedTriplet]:
    """The rated triplets of one edit type, by their edits' identifiers."""
    return sorted(_read(triplets, edit_type, labels, held_out), key=lambda triplet: triplet.edit.edit_id)


def _read(
    triplets: Version, edit_type: EditType, labels: Labels, held_out: Mapping[str, bool]
) -> Iterator[RatedTriplet]:
    for file in triplets.files("triplets"):
        if file.partition not in (None, edit_type):
            continue
        table = triplets.store.read_table(file)
        constant = {"split": "train", "failure": ""}
        for name, value in constant.items():
            table = table.append_column(name, [[value] * table.num_rows])
        for case, edit in zip(from_table(table, Case), from_table(table, Edit), strict=True):
            if case.edit_type == edit_type and edit.edit_id in labels:
                yield RatedTriplet(case, edit, labels[edit.edit_id], held_out[edit.edit_id])


def rounded(score: float) -> int:
    """A score as a whole one, half up."""
    return min(max(math.floor(score + 0.5), 0), 5)
