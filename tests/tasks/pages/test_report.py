import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from storage.records import EditType
from tasks.images import png
from tasks.pages.report import agreement, heat
from tasks.pages.thumbnails import THUMBNAIL, thumbnail
from tests.tasks.pages.made_run import HINT, NASTY, PICTURE, ROWS, Run, bench_row, curve, make_run
from tests.tasks.pages.page import Page


def shown(value: float, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.3f}".replace("-", "−")


def case_order(page: str) -> list[int]:
    return [int(found, 16) for found in re.findall(r'id="case-([0-9a-f]+)"', page)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("store"))


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("judge", "place"), [("referee", 0), ("score", 1)])
def test_gains_are_those_of_the_manifest(run: Run, judge: str, place: int) -> None:
    statistics = run.statistics("benchmark")[judge]
    page = Page.of(run.page)
    for name, gain in {**statistics["per_edit_type"], "overall": statistics["overall"]}.items():
        words = {(True, False): "▲ better", (False, True): "▼ worse"}
        assert page.lines(f"{name.replace('_', ' ')} {gain['n']} of")[place] == [
            f"{name.replace('_', ' ')} {gain['n']} of {gain['total']}",
            shown(gain["baseline"]),
            shown(gain["post_trained"]),
            f"{shown(gain['gain'], True)} {shown(gain['low'], True)} to {shown(gain['high'], True)}",
            words.get((gain["low"] > 0, gain["high"] < 0), "no clear change"),
        ]


def test_the_opening_says_what_happened_and_what_it_is_not(run: Run) -> None:
    text = Page.of(run.page).text
    overall = run.statistics("benchmark")["referee"]["overall"]
    assert f"moved from {shown(overall['baseline'])} to {shown(overall['post_trained'])}" in text
    assert "for 30 iterations" in text
    assert "the 3 hard cases" in text
    for word in ("This is a miniature", "procedural scenes", "it is not HP-Scorer", "simulated referee", "not people"):
        assert word in text


def test_what_was_dropped_is_counted_by_reason(run: Run) -> None:
    page = Page.of(run.page)
    assert page.lines("edit type rated") == []
    assert ["edit type", "rated", "kept", "dropped: full score", "dropped: no score"] in page.lines("edit type")
    assert page.lines("object addition")[2] == ["object addition", "3", "1", "1", "1"]
    assert page.lines("object swap")[2] == ["object swap", "3", "2", "1", "0"]
    assert page.lines("overall")[2] == ["overall", "6", "3", "2", "1"]
    bars = [int(count) for count in re.findall(r'class="value"[^>]*>(\d+)<', run.page)]
    statistics = run.statistics("realpref")
    assert (bars[::2], bars[1::2]) == (statistics["histogram_before"], statistics["histogram_after"])


def test_stages_settings_and_lineage_are_all_there(run: Run) -> None:
    page = Page.of(run.page)
    for version in run.versions.values():
        stage = version.manifest.stage
        assert [stage, str(version), "77", "12.2"] in page.lines(stage)
        if version.artifact != "benchmark":
            assert version.ref.manifest[:12] in page.text
    assert ["editor.kind", "miniature"] in page.lines("editor.kind")
    assert ["editor.layers", "a, b"] in page.lines("editor.layers")
    assert ["drop_full", "true"] in page.lines("drop_full")
    assert "realpref@v1 was made from cases@v1, edits@v1, scores@v1" in page.text
    assert HINT in page.text
    assert "5 min 33 s" in page.text


# --- a page that is safe and stands alone ---------------------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere(run: Run) -> None:
    page = Page.of(run.page)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "base", "iframe", "object", "embed", "form"}
    for _, attributes in page.tags:
        assert "style" not in attributes
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action", "background"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"https?://|@import|url\((?!#)", run.page)


def test_instructions_are_text(tmp_path: Path) -> None:
    run = make_run(tmp_path, [ROWS[0] | {"instruction": NASTY}, *ROWS[1:]])
    assert "<script" not in run.page
    page = Page.of(run.page)
    assert NASTY in page.text
    assert [a["alt"] for t, a in page.tags if t == "img" and NASTY in (a["alt"] or "")] == [
        f"baseline: {NASTY}",
        f"post-trained: {NASTY}",
    ]


def test_a_full_bench_stays_small(tmp_path: Path) -> None:
    """480 cases of noise, which compresses worst, in the miniature's size."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    picture = {"bytes": png(noise), "path": None}
    columns = dict.fromkeys(("source", "baseline_edited", "post_trained_edited"), picture)
    types = list(EditType)
    rows = [bench_row(i, types[i % 8], (3.0, 2.5), (3.0, 2.5 + (i % 7 - 3) / 10)) | columns for i in range(480)]
    run = make_run(tmp_path, rows)
    assert len(run.page.encode()) < 6e6
    order = case_order(run.page)
    assert len(order) == len(set(order)) == 48
    assert {types[i % 8] for i in order[32:]} == set(types), "the even draw leaves no edit type out"


# --- missing values -------------------------------------------------------------------------------------------------


def test_missing_scores_are_coverage_and_no_numbers(tmp_path: Path) -> None:
    rows = [
        *ROWS[:2],
        ROWS[2] | {"post_trained_score": None, "post_trained_outcome": "timeout"},
        *(row | {"baseline_score": None, "baseline_outcome": "parse_error"} for row in ROWS[3:]),
    ]
    run = make_run(tmp_path, rows)
    page = Page.of(run.page)
    assert page.lines("object swap 2 of 3")[0][1] == "1.500"
    assert page.lines("object addition 0 of 3")[0][1:] == ["–", "–", "–", "not compared"]
    assert page.lines("overall 2 of 6")[0][1] == "1.500"
    assert "no score: timeout" in page.text
    assert "no score: parse error" in page.text
    assert page.lines("object addition")[3][:4] == ["object addition", "0", "no case with both", "3"]
    assert not re.search(r"\b(nan|NaN|None|inf)\b", page.text)


def test_without_a_referee_the_judge_orders_the_gallery(tmp_path: Path) -> None:
    rows = [row | {"baseline_referee": None, "post_trained_referee": None} for row in ROWS]
    rows[4] |= {"post_trained_score": 1.0}
    run = make_run(tmp_path, rows, referee=False)
    page = Page.of(run.page)
    assert case_order(run.page) == [4, 0, 3, 2, 5, 1]
    assert "no referee took part in this run, 0 of 6 cases compared" in page.text
    assert "There was no referee to ask." in page.text
    assert "no referee, so it cannot be told" in page.text
    assert "▼ judge −3.00" in page.text
    assert not re.search(r"\b(nan|NaN|None)\b", page.text)


def test_without_any_score_the_page_still_stands(tmp_path: Path) -> None:
    gone = {
        "baseline_score": None,
        "post_trained_score": None,
        "baseline_outcome": "timeout",
        "post_trained_edited": None,
    }
    run = make_run(tmp_path, [row | gone | {"post_trained_referee": None} for row in ROWS])
    page = Page.of(run.page)
    assert "no case has a score for both editors, 0 of 6 cases compared" in page.text
    assert "6 of 6 cases that nobody compared" in page.text
    assert "no picture" in page.text


# --- gallery, curves, agreement -------------------------------------------------------------------------------------


def test_the_gallery_shows_the_worst_first_then_the_best_then_the_rest(run: Run) -> None:
    assert case_order(run.page) == [3, 1, 0, 2, 5, 4]
    text = Page.of(run.page).text
    for said in ("2 of 2 cases that lost", "3 of 3 cases that gained", "1 of 1 other cases", "▼ referee −1.50"):
        assert said in text
    assert text.index("Got worst") < text.index("Most improved") < text.index("Drawn evenly")


def test_reward_hacking_is_called_out(tmp_path: Path) -> None:
    rows = [bench_row(i, EditType.SWAP, (2.0, 3.0 + i / 10), (4.0, 2.0 + i / 10)) for i in range(8)]
    text = Page.of(make_run(tmp_path, rows).page).text
    assert text.count("larm: the judge gained, the referee lost") == 4, "at the top, in the section and its table"
    assert "In 8 of the 8 cases with all four values the judge’s score rose" in text
    assert "all scores are equal" in text


@pytest.mark.parametrize(
    "lines", [[], [curve(0)], [curve(i, score=float("nan"), reward=float("nan")) for i in range(12)]]
)
def test_short_and_empty_curves_are_drawn(tmp_path: Path, lines: list[dict[str, float]]) -> None:
    page = make_run(tmp_path, curves=lines).page
    assert not re.search(r'"nan|nan,|,nan', page)
    assert f"for {len(lines)} iteration" in Page.of(page).text


def test_what_was_left_to_learn_is_told_by_edit_type(run: Run) -> None:
    """Of made-up curves: four groups an iteration, none of them full at first, two of four at last."""
    text = " ".join(Page.of(run.page).text.split())
    assert "groups with full scores alone" in text
    assert "bokeh 0.0 % 50.0 % 25.0 % 25.0 %" in text.replace("\xa0", " ")


def test_agreement_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    scores, referees = rng.integers(0, 6, 40).astype(float), rng.uniform(0, 5, 40)
    rows = [
        bench_row(i, EditType.SWAP, (s, r), (None, r)) for i, (s, r) in enumerate(zip(scores, referees, strict=True))
    ]
    found = agreement(rows, "baseline")
    assert (found.n, found.total, found.why) == (40, 40, "")
    assert found.pearson == pytest.approx(stats.pearsonr(scores, referees).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(scores, referees).statistic)
    counts = heat(rows, "baseline")
    assert sum(map(sum, counts)) == 40
    assert [sum(line) for line in counts] == [int((scores == points).sum()) for points in range(6)]
    assert agreement(rows, "post_trained").why == "no case with both"


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([], "no case with both"),
        ([(1.0, 2.0), (3.0, 4.0)], "only 2 cases with both"),
        ([(1.0, 2.0), (3.0, None), (None, 3.0)], "only 1 cases with both"),
        ([(3.0, 1.0), (3.0, 2.0), (3.0, 3.0)], "all scores are equal"),
        ([(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)], "all referee values are equal"),
    ],
)
def test_a_degenerate_agreement_is_said_in_words(pairs: list[tuple[float | None, float | None]], why: str) -> None:
    found = agreement([bench_row(i, EditType.BOKEH, pair, pair) for i, pair in enumerate(pairs)], "baseline")
    assert (found.pearson, found.spearman, found.why) == (None, None, why)


def test_thumbnails_are_small_pngs_and_pixels_of_small_pictures_are_kept() -> None:
    assert thumbnail(PICTURE) is not None
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8)).save(buffer, "JPEG")
    uri = thumbnail(buffer.getvalue())
    assert uri is not None
    assert uri.startswith("data:image/png;base64,")
    assert len(uri) < 30_000
    assert thumbnail(b"no image") is None
    assert THUMBNAIL == 128
