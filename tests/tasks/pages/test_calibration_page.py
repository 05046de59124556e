import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from storage.manifest import DataFile
from storage.records import EditType
from storage.store import Store
from tasks.calibration.agreement import Measured
from tasks.calibration.probes import PROBES
from tasks.calibration.results import JUDGES, BadgeLimits, Judged
from tasks.hp_scorer.rubric import RubricQuestion
from tasks.images import png
from tasks.pages.calibration import FAILURES, HEADLINE, MEASURES, REPLY, SHOWN, disagreements, render_calibration
from tasks.pages.thumbnails import LARGEST_PICTURE, PHOTOGRAPH, photograph
from tests.tasks.pages.made_calibration import (
    HP_SCORER,
    PICTURE,
    TYPES,
    Calibrated,
    calibrate,
    judged_rows,
    made_store,
    probed,
    step,
)
from tests.tasks.pages.page import Page

NASTY = "<script>alert(1)</script> & \"quoted\" 'twice'"
LENIENT = BadgeLimits(coverage=0, bias=5, mae=5, qwk=-1, pair_accuracy=0)
SHARES = {"within_1", "exact", "pair_accuracy", "coverage"}
NO_NUMBER = re.compile(r"\b(nan|NaN|None|inf)\b")
UNKNOWN: dict[str, Any] = dict.fromkeys(("before", "after", "difference", "low", "high", "better_share"))
TRIED = [
    step(EditType.SWAP),
    step(
        EditType.SWAP,
        RubricQuestion(name="bright", text="Was the source bright?"),
        kept=False,
        reason="better in 41% of the resamples, wanted 90%",
        difference=-0.0125,
        better_share=0.41,
        proposed=True,
    ),
    step(
        EditType.REMOVAL,
        kept=False,
        reason="only 2 triplets with both scores",
        **UNKNOWN,
    ),
]


def written(name: str, value: float) -> str:
    """A figure as a reader expects it."""
    if name in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:{'+' if name == 'bias' else ''}.2f}".replace("-", "−")


def cell(name: str, one: Measured) -> str:
    """A figure with its interval, or the reason."""
    if one.value is None:
        return one.note
    assert one.low is not None
    assert one.high is not None
    return f"{written(name, one.value)} {written(name, one.low).removesuffix(' %')} to {written(name, one.high)}"


def shown_edits(page: str) -> list[str]:
    return re.findall(r'id="edit-([^"]+)"', page)


def images(page: str) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in Page.of(page).tags if tag == "img"]


def rated(made: Calibrated) -> list[Judged]:
    return list(made.result.judged)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    judged = [*judged_rows(EditType.SWAP, 90), *judged_rows(EditType.REMOVAL, 48)]
    probes = [*probed("unchanged"), *probed("resize", 4.5, 3.0), *probed("crop", None, 3.0)]
    folder = tmp_path_factory.mktemp("store")
    return calibrate(folder, judged, steps=TRIED, probes=probes, simulated=True)


# --- head -----------------------------------------------------------------------------------------------------------


def test_every_reason_against_the_badge_is_there(made: Calibrated) -> None:
    page = Page.of(made.page)
    assert made.result.badge.reasons, "this judge is half a point too generous and fails a probe"
    badges = [attributes["class"] for tag, attributes in page.tags if "badge" in (attributes.get("class") or "")]
    assert badges == ["badge warn"]
    for reason in made.result.badge.reasons:
        assert f"<li>{reason.replace('_', ' ')}</li>" in made.page
    assert made.page.count("<li>probe resize failed</li>") == 1


def test_a_judge_within_the_limits_is_called_calibrated(tmp_path: Path) -> None:
    judged = [row for edit_type in TYPES for row in judged_rows(edit_type, 60)]
    made = calibrate(tmp_path, judged, limits=LENIENT)
    assert made.result.badge.reasons == ()
    assert '<span class="badge good">calibrated</span>' in made.page
    assert "uncalibrated" not in Page.of(made.page).text
    assert 'class="reasons"' not in made.page


def test_simulated_raters_and_a_stand_in_are_called_so_and_people_are_not(made: Calibrated, tmp_path: Path) -> None:
    text = Page.of(made.page).text
    for words in (
        "on SIMULATED raters",
        "The raters are SIMULATED",
        "says nothing about people",
        "it is not HP-Scorer",
    ):
        assert words in text
    assert text.index("SIMULATED") < text.index("How far it agrees")
    real = calibrate(tmp_path, judged_rows(EditType.SWAP, 60), types=TYPES[:1], judge=HP_SCORER)
    text = Page.of(real.page).text
    assert not re.search("simulated|stand-in", text, re.IGNORECASE)
    for words in ("Qwen/Qwen3-VL-8B-Instruct", "0c351dd", "logit", "512 pixels a side, JPEG at quality 90", "3 times"):
        assert words in text


def test_the_head_counts_raters_and_triplets_and_tells_the_improvement(made: Calibrated) -> None:
    held_out = sum(j.held_out for j in rated(made))
    text = Page.of(made.page).text
    assert "3 raters scored 138 triplets" in text
    assert f"{138 - held_out} for tuning, {held_out} held out" in text
    gain = made.result.improvement
    assert gain.before is not None
    assert gain.after is not None
    assert gain.difference is not None
    assert f"went from {gain.before:.2f} to {gain.after:.2f}, by {gain.difference:+.2f}" in text


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["object_swap", "object_removal", "overall"])
def test_all_measures_are_those_of_the_result(made: Calibrated, group: str) -> None:
    page = Page.of(made.page)
    place = list(made.result.agreement).index(group)
    for name, (title, _) in MEASURES.items():
        row = [line for line in page.lines(title) if len(line) == 5][place]
        among = made.result.ceiling[group].get(name)
        assert row[4] == (cell(name, among) if among else "–")
        for judge, found in zip(JUDGES, row[1:4], strict=True):
            measured = made.result.agreement[group][judge].get(name)
            assert found == (cell(name, measured) if measured else "–")


def test_the_headline_has_three_judges_and_the_raters(made: Calibrated) -> None:
    page = Page.of(made.page)
    for judge, says in JUDGES.items():
        measures = made.result.agreement["overall"][judge]
        expected = [cell(name, measures[name]) for name in HEADLINE]
        assert page.lines(says.replace("'", "’"))[0][1:] == expected
    assert page.lines("raters among themselves")[0][1] == cell("pearson", made.result.ceiling["overall"]["pearson"])
    by_type = page.lines("object removal 16 triplets")[0]
    assert by_type[2:6] == [cell(n, made.result.agreement["object_removal"]["calibrated"][n]) for n in HEADLINE]
    assert by_type[7] == "; ".join(made.result.badges["object_removal"].reasons).replace("_", " ")


def test_the_chart_shows_both_judges_and_the_raters(made: Calibrated) -> None:
    chart = made.page.split("<title>Pearson’s r by edit type</title>")[1].split("</svg>")[0]
    assert [chart.count(f'"dot {css}"') for css in ("before", "trained")] == [3, 3]
    assert chart.count('"bar-mark"') == 3


def test_questions_are_told_with_what_they_brought(made: Calibrated) -> None:
    page = Page.of(made.page)
    kept, refused = page.lines("Is the original object gone?")
    figures = ["0.41 → 0.62 40 triplets", "+0.212 +0.050 to +0.375", "99.5 %", "the bank"]
    assert kept[1:] == [*figures, "kept: agreement improved"]
    assert refused[1:] == ["– → – 40 triplets", "–", "–", "the bank", "no: only 2 triplets with both scores"]
    assert page.lines("Was the source bright?")[0][2:] == [
        *("−0.013 +0.050 to +0.375", "41.0 %", "a language model"),
        "no: better in 41% of the resamples, wanted 90%",
    ]
    assert made.page.count("<li>Is the original object gone?</li>") == 2, "the rubric of either edit type asks it"


def test_probes_pass_fail_or_show_nothing(made: Calibrated) -> None:
    page = Page.of(made.page)
    says = {probe.name: probe.says for probe in PROBES}
    assert page.lines("unchanged")[0] == ["unchanged", says["unchanged"], "4", "4.50", "1.25", "✓ passed"]
    assert page.lines("resize")[0] == ["resize", says["resize"], "4", "4.50", "3.00", "✗ failed"]
    for name in ("crop", "painted"):
        assert page.lines(name)[0] == [name, says[name], "0", "–", "–", "not shown (no score)"]


def test_maps_and_histograms_are_the_results(made: Calibrated) -> None:
    for edit_type in TYPES:
        points = made.result.maps[edit_type].score_map.points
        said = ", ".join(f"{raw:.2f} becomes {score:.2f}" for raw, score in points)
        assert f"<desc>{said}.</desc>" in made.page
    swaps = [j for j in rated(made) if j.edit_type == EditType.SWAP]
    chart = made.page.split("<title>Raters’ scores, object swap</title>")[1].split("</svg>")[0]
    bars = [int(count) for count in re.findall(r'class="value"[^>]*>(\d+)<', chart)]
    for place, held_out in enumerate((False, True)):
        scores = [int(j.human + 0.5) for j in swaps if j.held_out == held_out]
        assert bars[place::2] == [scores.count(score) for score in range(6)]
    heat = made.page.split('<table class="heat">')[1].split("</table>")[0]
    assert sum(int(n) for n in re.findall(r'<td class="h[^"]*">(\d+)<', heat)) == sum(j.held_out for j in rated(made))


def test_the_foot_names_versions_and_finds_an_image_on_both_sides(made: Calibrated, tmp_path: Path) -> None:
    text = Page.of(made.page).text
    for version in (made.labels, made.triplets):
        assert str(version) in text
        assert version.ref.manifest[:12] in text
    for title, says in MEASURES.values():
        assert f"{title} {says}" in text
    assert "no image is on both sides" in text
    mixed = [replace(row, held_out=n % 2 == 0) for n, row in enumerate(judged_rows(EditType.SWAP, 60))]
    assert "30 images on both sides" in Page.of(calibrate(tmp_path, mixed, types=TYPES[:1]).page).text


# --- disagreements --------------------------------------------------------------------------------------------------


def test_the_largest_differences_come_first_and_failures_last(tmp_path: Path) -> None:
    judged = judged_rows(EditType.SWAP, 60)
    held_out = [n for n, row in enumerate(judged) if row.held_out]
    for n in held_out[:3]:
        judged[n] = replace(judged[n], raw=None, generic=None, reply="server error 503")
    made = calibrate(tmp_path, judged, types=TYPES[:1])
    distance = {}
    for n in held_out[3:]:
        score = made.result.calibrated_score(judged[n])
        assert score is not None
        distance[judged[n].edit_id] = abs(score - judged[n].human)
    worst = sorted(distance, key=lambda edit_id: -distance[edit_id])[: SHOWN - FAILURES]
    failures = [judged[n].edit_id for n in held_out[:FAILURES]]
    assert shown_edits(made.page) == [*worst, *failures]
    text = Page.of(made.page).text
    assert f"6 of {len(held_out)}, 3 without a score" in text
    assert text.count("judge no score") == FAILURES
    first = next(row for row in judged if row.edit_id == worst[0])
    score = made.result.calibrated_score(first)
    assert score is not None
    apart = f"{score - first.human:+.2f}".replace("-", "−")
    assert f"do {first.edit_id} raters {first.human:.2f}, judge {score:.2f}: {apart} ann" in text
    assert f"own scale {first.raw:.2f}, general criteria {first.generic:.2f} {first.reply}" in text
    for rater, given in first.ratings.items():
        assert f'<span class="rater">{rater}&nbsp;{given}</span>' in made.page


def test_failures_fill_the_places_that_are_left(tmp_path: Path) -> None:
    judged = judged_rows(EditType.SWAP, 30, held_out=True)
    judged = [row if n == 9 else replace(row, raw=None) for n, row in enumerate(judged)]
    result = calibrate(tmp_path, judged).result
    found = disagreements(result, EditType.SWAP)
    assert [row.edit_id for row in found] == [judged[n].edit_id for n in (9, 0, 1, 2, 3, 4)]


def test_everything_that_others_wrote_is_text(tmp_path: Path) -> None:
    judged = judged_rows(EditType.SWAP, 40, raters=(NASTY, "bob"), reply=NASTY)
    question = RubricQuestion(name="nasty", text=NASTY)
    made = calibrate(
        tmp_path,
        judged,
        types=TYPES[:1],
        steps=[step(EditType.SWAP, question, kept=False, reason=NASTY)],
        questions=[question],
        instructions=dict.fromkeys((row.edit_id for row in judged), NASTY),
        judge=HP_SCORER | {"judge": {**HP_SCORER["judge"], "model": NASTY, "revision": NASTY}},
    )
    assert "<script" not in made.page
    text = Page.of(made.page).text
    # Instruction, rater and reply of each card; the question, kept and tried, and its reason; the model below the
    # title, and with its revision among the facts and the settings.
    assert text.count(NASTY) == 3 * SHOWN + 3 + 5
    assert {a["alt"] for a in images(made.page)} == {"source", f"edited: {NASTY}"}


def test_long_replies_are_cut(tmp_path: Path) -> None:
    made = calibrate(tmp_path, judged_rows(EditType.SWAP, 40, reply="word\n " * 400), types=TYPES[:1])
    replies = re.findall(r'<div class="reply">([^<]*)</div>', made.page)
    assert len(replies) == SHOWN
    assert {len(reply) for reply in replies} == {REPLY - len(" ") + len(" …")}


# --- a page that is safe, stands alone and stays small --------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere_and_no_time_or_path_is_told(made: Calibrated) -> None:
    page = Page.of(made.page)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "base", "iframe", "object", "embed", "form"}
    for _, attributes in page.tags:
        assert "style" not in attributes
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action", "background"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,"))
    assert not re.search(r"https?://|@import|url\((?!#)", made.page)
    assert made.triplets.ref.created_at[:10] not in made.page
    assert made.triplets.store.url not in made.page
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links <= {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    judged = [*judged_rows(EditType.SWAP, 30), *judged_rows(EditType.REMOVAL, 30)]
    one, other = (calibrate(tmp_path / name, judged, steps=TRIED, probes=probed("crop")) for name in "ab")
    assert one.page == other.page
    assert one.triplets.ref.commit_id != other.triplets.ref.commit_id


@pytest.mark.parametrize(("side", "kind"), [(96, "PNG"), (400, "JPEG")])
def test_a_full_page_of_noise_stays_small(tmp_path: Path, side: int, kind: str) -> None:
    """Noise compresses worst. Four pictures for all: reading and shrinking 96 different ones says nothing more."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(4):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(buffer, kind)
        pictures.append(buffer.getvalue())
    judged = [row for edit_type in EditType for row in judged_rows(edit_type, 24, reply="reply " * 60)]
    chosen = {row.edit_id: pictures[n % 4] for n, row in enumerate(judged)}
    made = calibrate(tmp_path, judged, types=list(EditType), pictures=chosen)
    assert len(shown_edits(made.page)) == 8 * SHOWN
    # The sources are a plain grey here; they could be noise too.
    edits = sum(len(a["src"] or "") for a in images(made.page) if a["alt"] != "source")
    assert edits > 4e5
    assert len(made.page.encode()) + edits < 3e6


def test_photographs_are_reduced_and_pixels_of_small_pictures_kept(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((300, 500, 3), 90, np.uint8)).save(buffer, "JPEG")
    judged = judged_rows(EditType.SWAP, 12)
    shown = [row.edit_id for row in judged if row.held_out]
    pictures = {shown[0]: buffer.getvalue(), shown[1]: b"no image", shown[2]: None}
    made = calibrate(tmp_path, judged, types=TYPES[:1], pictures=pictures)
    assert made.page.count('class="photograph"') == 1
    assert made.page.count("no picture") == 2
    assert photograph(PICTURE) in {a["src"] for a in images(made.page)}


def test_a_photograph_is_bounded_in_pixels_and_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8)
    for data in (png(noise), png(noise[:128, :128])):
        uri = photograph(data)
        assert uri is not None
        assert uri.startswith("data:image/jpeg;base64,")
        assert len(uri) <= LARGEST_PICTURE * 4 / 3 + 40
    assert photograph(b"no image") is None
    assert PHOTOGRAPH == 192


# --- missing values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        pytest.param([], ["no triplets", "no ratings", "No triplet held out", "no triplet was rated"], id="no labels"),
        pytest.param(
            judged_rows(EditType.SWAP, 60),
            ["No triplet held out: object removal", "no triplet was rated", "nothing to judge by", "60 pairs"],
            id="an edit type without labels",
        ),
        pytest.param(judged_rows(EditType.SWAP, 60, raters=("ann",)), ["only one rater", "1 rater scored"], id="one"),
        pytest.param(
            judged_rows(EditType.SWAP, 60, ratings={"ann": 5, "bob": 5}),
            ["all human scores are 5", "all scores are 5", "nothing to fit", "cannot be told: all human scores are 5"],
            id="all fives",
        ),
        pytest.param(
            judged_rows(EditType.SWAP, 60, raw=None, generic=None, reply=""),
            ["the judge scored no triplet", "judge no score", "no reply", "No held-out triplet has a score"],
            id="a judge that always failed",
        ),
        pytest.param(
            judged_rows(EditType.SWAP, 60, held_out=False),
            ["No triplet held out: object swap, object removal", "cannot be told: no triplet with both scores"],
            id="nothing held out",
        ),
        pytest.param(judged_rows(EditType.SWAP, 60, held_out=True), ["0 for tuning, 60 held out"], id="all held out"),
        pytest.param(judged_rows(EditType.SWAP, 2), ["no interval: only 1 source image", "only 2 triplets"], id="two"),
    ],
)
def test_what_is_missing_is_said_in_words(tmp_path: Path, judged: list[Judged], words: list[str]) -> None:
    if words[-1] == "60 pairs":
        words = [*words[:-1], f"fitted on {sum(not row.held_out for row in judged)} pairs"]
    made = calibrate(tmp_path, judged)
    text = Page.of(made.page).text
    assert not NO_NUMBER.search(text)
    assert not re.search(r'"(nan|inf|None)|[ ,](nan|inf)[ ,"]', made.page.split("base64")[0])
    for said in words:
        assert said in text
    for reason in made.result.badge.reasons:
        assert reason.replace("_", " ") in text


def test_other_files_of_the_triplets_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = judged_rows(EditType.SWAP, 30)
    made = calibrate(tmp_path / "a", judged)
    triplets, labels = made_store(tmp_path / "b", judged)
    read = []
    original = type(triplets.store).read_table

    def noted(store: Store, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
        read.append(file.partition)
        return original(store, file, columns)

    monkeypatch.setattr(type(triplets.store), "read_table", noted)
    render_calibration(made.result, HP_SCORER, triplets, labels)
    assert read == [EditType.SWAP]
