import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.records import EditType
from tasks.calibration.migration import Migration, Pair, migration
from tasks.calibration.score_map import IDENTITY, ScoreMap
from tasks.hp_scorer.settings import ServerSettings, VlmConfig
from tasks.pages.migration import render_migration
from tests.tasks.pages.made_calibration import STAND_IN, TYPES, judged_rows, made_store
from tests.tasks.pages.made_run import NASTY
from tests.tasks.pages.page import Page

TO_PEOPLE = dict.fromkeys(EditType, IDENTITY) | {EditType.SWAP: ScoreMap(((0.0, 0.5), (4.0, 3.0), (5.0, 5.0)))}
NEW = VlmConfig(judge=ServerSettings(model="gpt-5 & <b>more</b>")).deciding()


def pairs_of(seed: int = 0, count: int = 40, **fixed: Any) -> list[Pair]:
    """A new judge that follows the old one from half a point above, with noise."""
    rng = np.random.default_rng(seed)
    pairs = []
    for judged in (one for t in TYPES for one in judged_rows(t, count, seed)):
        old = judged.raw or 0.0
        new = float(np.clip(old + 0.5 + rng.normal(0, 0.3), 0, 5))
        scores = {"old": old, "new": new, "old_full": old >= 4.5, "new_full": new >= 4.5, "human": judged.human}
        named = {name: getattr(judged, name) for name in ("edit_id", "edit_type", "source_id", "held_out")}
        pairs.append(Pair(**(named | scores | fixed)))
    return pairs


def page_of(
    folder: Path, pairs: Sequence[Pair], instruction: str = "", left_out: int = 0, raters: str = "people"
) -> tuple[Migration, str]:
    result = migration(pairs, TO_PEOPLE, old_full_at=4.5)
    judged = [one for t in TYPES for one in judged_rows(t, 40)]
    triplets, labels = made_store(folder, judged, {one.edit_id: instruction for one in judged if instruction})
    versions = {"scorer": labels, "triplets": triplets, "labels": labels}
    judges = {"old": STAND_IN, "new": NEW}
    return result, render_migration(result, judges, versions, {"no score of the old judge": left_out}, raters)


def test_the_numbers_are_those_of_the_held_out_triplets(tmp_path: Path) -> None:
    pairs = pairs_of()
    result, html = page_of(tmp_path, pairs)
    held_out = [pair for pair in pairs if pair.held_out]
    shift = float(np.mean([pair.new - pair.old for pair in held_out]))
    up = sum(pair.new_full and not pair.old_full for pair in held_out)
    page = Page.of(html)
    assert f"On {len(held_out)} triplets set aside, the new judge’s mean lies +{shift:.2f} points" in page.text
    assert up > 1
    assert f"{up} triplets came to have the full score and 0 lost it" in page.text
    raw, mapped = (result.found["overall"][name] for name in ("raw", "mapped"))
    assert raw["bias"].value == pytest.approx(shift)
    assert abs(mapped["bias"].value or 0) < 0.15 < shift
    ordered = [(one, two) for i, one in enumerate(held_out) for two in held_out[:i] if one.old != two.old]
    flipped = [(one.old - two.old) * (one.new - two.new) < 0 for one, two in ordered]
    assert raw["flipped_pairs"].value == pytest.approx(np.mean(flipped))
    assert raw["full_change"].value == pytest.approx(up / len(held_out))
    change = result.found["overall"]["people_change"]["mae"]
    before, after = (
        np.mean([abs(of(pair) - (pair.human or 0)) for pair in held_out])
        for of in (lambda p: TO_PEOPLE[p.edit_type](p.old), lambda p: result.to_people[p.edit_type](p.new))
    )
    assert change.value == pytest.approx(after - before)
    movers = re.findall(r'id="edit-([^"]+)"', html)
    residuals = {pair.edit_id: abs(result.residual(pair)) for pair in pairs}
    assert movers == sorted(residuals, key=lambda name: -residuals[name])[:16]


def test_ranks_are_within_an_edit_type_and_ties_share_theirs() -> None:
    pairs = pairs_of()
    rows = {row["edit_id"]: row for row in migration(pairs, TO_PEOPLE, 4.5).moved_rows()}
    swaps = [pair for pair in pairs if pair.edit_type == EditType.SWAP]
    best = max(swaps, key=lambda pair: pair.old)
    ties = [pair for pair in swaps if pair.new == 5]
    assert rows[best.edit_id]["old_rank"] == (1 + sum(pair.old == best.old for pair in swaps)) / 2
    assert {rows[pair.edit_id]["new_rank"] for pair in ties} == {(1 + len(ties)) / 2}


def test_a_page_stands_alone_and_all_text_is_text(tmp_path: Path) -> None:
    _, html = page_of(tmp_path, pairs_of(), NASTY)
    page = Page.of(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "base", "iframe", "object", "embed", "form", "b>more"}
    assert "<b>more" not in html
    assert "gpt-5 & <b>more</b> (logit)" in page.text
    assert NASTY in page.text
    for _, attributes in page.tags:
        assert "style" not in attributes
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.search(r"https?://|@import|url\((?!#)|\b(nan|None)\b", html)


def test_the_same_migration_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = [page_of(tmp_path / name, pairs_of())[1] for name in ("one", "two")]
    assert pages[0] == pages[1]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    _, html = page_of(tmp_path / "rated", pairs_of(), left_out=3, raters="simulated")
    text = Page.of(html).text
    assert "Left out: 3 triplets with no score of the old judge." in text
    assert "SIMULATED" in text
    assert "One of the judges is a stand-in" in text
    _, html = page_of(tmp_path / "unrated", pairs_of(human=None), raters="none")
    assert "not in the store any more" in Page.of(html).text
    _, html = page_of(tmp_path / "empty", [])
    assert "nothing can be said" in Page.of(html).text
    _, html = page_of(tmp_path / "one", pairs_of(old=3.0, old_full=False))
    text = Page.of(html).text
    assert "all scores of the old judge are 3" in text
    assert not re.search(r"\b(nan|None)\b", html)


def test_a_judge_that_says_the_opposite_is_not_mapped() -> None:
    pairs = [replace(pair, new=5 - pair.old) for pair in pairs_of()]
    result = migration(pairs, TO_PEOPLE, 4.5)
    fit = result.to_old[EditType.SWAP]
    assert (fit.score_map, fit.fitted) == (IDENTITY, False)
    assert "the new judge disagrees with the old judge" in fit.note
    assert result.to_people[EditType.SWAP] == TO_PEOPLE[EditType.SWAP]
