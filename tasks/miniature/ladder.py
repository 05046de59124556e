"""The degradation ladder: `python -m tasks.miniature.ladder` rates clean, sloppy and unedited pictures.

From the clean target over every sloppiness at three strengths down to the unchanged source. The thresholds of the
judge's questions and of the referee were fixed on it, and on nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType
from tasks.hp_scorer.contract import EditTriplet
from tasks.hp_scorer.measured import MeasuredScorer
from tasks.miniature.examples import Example, make_example
from tasks.miniature.recogniser import SpriteRecogniser
from tasks.miniature.referee import referee_score
from tasks.miniature.scenes import coverage, to_bytes
from tasks.miniature.sloppiness import KINDS, render_sloppy

LADDER_SEED = 5
STRENGTHS = (1 / 3, 2 / 3, 1.0)


@dataclass(frozen=True, slots=True)
class Rung:
    """One picture of the ladder."""

    example: Example
    sloppiness: str
    """ "clean", "unchanged source", or a kind of sloppiness."""
    strength: float
    picture: NDArray[np.uint8]

    @property
    def triplet(self) -> EditTriplet:
        """As a judge sees it."""
        example = self.example
        return EditTriplet(
            case_id=example.scene.name,
            edit_type=example.edit_type,
            instruction=example.instruction,
            request=example.request,
            category=example.scene.subject.category,
            source=example.source,
            mask=coverage(example.scene.subject) > 0.5,
            edited=self.picture,
        )

    @property
    def referee(self) -> float:
        """The referee's score."""
        return referee_score(self.example.scene, self.example.edit_type, self.example.request, self.picture)


def ladder(edit_type: EditType, count: int) -> Iterator[Rung]:
    """The ladders of `count` scenes."""
    position = tuple(EditType).index(edit_type)
    for i in range(count):
        example = make_example(LADDER_SEED, position + i * len(EditType), sloppy_share=0)
        yield Rung(example, "clean", 0.0, example.target)
        for kind in KINDS[edit_type]:
            for strength in STRENGTHS:
                picture = render_sloppy(example.scene, edit_type, example.request, kind, strength)
                yield Rung(example, kind, strength, to_bytes(picture))
        yield Rung(example, "unchanged source", 1.0, example.source)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=32, help="scenes per edit type (%(default)s)")
    arguments = parser.parse_args()
    judges = {
        "judge": MeasuredScorer(SpriteRecogniser(), integer=False, noise=0),
        "generic": MeasuredScorer(SpriteRecogniser(), dict.fromkeys(EditType, ()), integer=False, noise=0),
    }
    everything: list[tuple[float, ...]] = []
    for edit_type in EditType:
        rows: dict[tuple[str, float], list[tuple[float, ...]]] = {}
        for rung in ladder(edit_type, arguments.scenes):
            scores = [judge.score([rung.triplet])[0].score or 0.0 for judge in judges.values()]
            rows.setdefault((rung.sloppiness, rung.strength), []).append((rung.referee, *scores))
        print(f"\n{edit_type:38s}referee {'  '.join(judges)}")
        for (kind, strength), values in rows.items():
            print(f"  {kind:22s} {strength:4.2f}        " + "  ".join(f"{v:6.2f}" for v in np.mean(values, axis=0)))
        everything += [v for values in rows.values() for v in values]
    table = np.asarray(everything)
    for i, name in enumerate(judges, start=1):
        print(f"\ncorrelation of {name} with the referee: {np.corrcoef(table[:, 0], table[:, i])[0, 1]:.3f}", end="")
    print()


if __name__ == "__main__":
    main()
