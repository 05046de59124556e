"""Another judge takes the old one's place: back on its scale, without asking anybody twice."""

import base64
import json
import re
import shutil
from functools import cached_property

import numpy as np
import pytest
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st

from flows.migrate_judge import read_judge
from perf.judge_server import Digit, judge_server
from storage.records import EditType, Score
from storage.schemas import from_table
from storage.store import Store
from tasks import rows
from tasks.calibrate_scorer import CalibrateConfig, CalibrateScorer
from tasks.calibration.migration import composed, reached_at
from tasks.calibration.score_map import ScoreMap
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.collect_labels import CollectLabels, LabelConfig
from tasks.edit_baseline import EditConfig
from tasks.hp_scorer.calibration import calibration_of
from tasks.hp_scorer.catalogue import judge_asked_by
from tasks.hp_scorer.judge import JudgeError
from tasks.hp_scorer.question_bank import stand_in_bank
from tasks.hp_scorer.settings import MeasuredConfig, Mode, Price, ServerSettings, VlmConfig
from tasks.images import decode
from tasks.migrate_judge import NOT_ASKED, MigrateConfig, MigrateJudge
from tasks.miniature.coco import write_coco
from tasks.pick_triplets import PickConfig, PickTriplets
from tasks.rate_edits import RateConfig, RateEdits
from tasks.stage import RejectedError, execute
from tests.tasks.pages.page import Page
from tests.tasks.sloppy_edits import SloppyEditor
from tests.tasks.stand_ins import CountedEdits

TYPES = (EditType.REMOVAL, EditType.COLOUR, EditType.BOKEH)
OLD = MeasuredConfig(mode="continuous")
NEW = MeasuredConfig(mode="continuous", noise=0.3)
QUOTED = re.compile(r"quoted: (\".*\")$")


def bend(score):
    """A generous judge's scale: the order is the same, everything is nearer to 5."""
    return 5 * (score / 5) ** 0.5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a calibrated judge."""
    folder = tmp_path_factory.mktemp("made")
    store = Store(str(folder / "store"))
    world = write_coco(folder, 3, 48)
    collect = CollectConfig(train_per_edit_type=20, bench_per_edit_type=1, cases_per_image=8, bench_share=0.1)
    cases = execute(CollectCases(store, collect, world)).version
    edits = execute(CountedEdits(store, EditConfig(limits={}), cases, SloppyEditor(3, 48, TYPES))).version
    pick = PickConfig(per_edit_type=16, pool_per_edit_type=18)
    triplets = execute(PickTriplets(store, pick, edits)).version
    labels = execute(CollectLabels(store, LabelConfig(raters="simulated", simulated=2), triplets)).version
    bank = {edit_type: stand_in_bank()[edit_type][3:5] for edit_type in TYPES}
    config = CalibrateConfig(scorer=OLD, bank=bank, probed_per_edit_type=0, held_out_share=0.35, seed=4)
    execute(CalibrateScorer(store, config, labels))
    return store


@pytest.fixture
def store(made, tmp_path):
    """A copy of it."""
    shutil.copytree(made.url, tmp_path / "store")
    return Store(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


class Counted:
    """A judge that remembers what it was asked, and may be cut off."""

    def __init__(self, judge, cut_off_after=None):
        self.judge, self.cut_off_after, self.asked = judge, cut_off_after, []

    def __getattr__(self, name):
        return getattr(self.judge, name)

    def judgements(self, triplets, attempt=0):
        for position, triplet in enumerate(triplets):
            if len(self.asked) == self.cut_off_after:
                raise KeyboardInterrupt
            self.asked.append((triplet.case_id, triplet.edited.tobytes()))
            yield position, self.judge.score([triplet], attempt)[0]


class Watched(MigrateJudge):
    """The real stage, with judges that count."""

    cut_off_after = None

    @cached_property
    def old_judge(self):
        return Counted(judge_asked_by(self.config.old, self.calibration.rubrics))

    @cached_property
    def new_judge(self):
        return Counted(judge_asked_by(self.config.scorer, self.calibration.rubrics), self.cut_off_after)


class BentJudge:
    """A script that knows what the old judge said of each edit, and says it on a scale of its own."""

    def __init__(self, store, triplets=None):
        scorer, triplets = store.resolve("scorer"), triplets or store.resolve("triplets")
        chosen = {row["chosen"] for row in scorer.table("chosen").to_pylist()}
        said = {
            row["edit_id"]: row["score"]
            for row in scorer.table("judgements", ["edit_id", "scorer", "score"]).to_pylist()
            if row["scorer"] in chosen
        }
        self.said = {
            (row["instruction"], decode(row["edited"]["bytes"]).tobytes()): said[row["edit_id"]]
            for row in triplets.table("triplets", ["edit_id", "instruction", "edited"]).to_pylist()
        }

    def __call__(self, body):
        parts = body["messages"][0]["content"]
        instruction = next(json.loads(m[1]) for p in parts if p["type"] == "text" and (m := QUOTED.search(p["text"])))
        _, edited = (part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        pixels = decode(base64.b64decode(edited.partition("base64,")[2]))
        return Digit.of_score(bend(self.said.get((instruction, pixels.tobytes()), pixels.mean() / 51)))


def vlm(url):
    settings = ServerSettings(base_url=url, model="bent", price=Price(prompt=0, completion=0), tries=1)
    return VlmConfig(judge=settings, mode=Mode.LOGIT)


def moved_of(version):
    return version.table("moved").to_pylist()


def test_a_judge_that_only_bends_the_scale_comes_back_to_it(store):
    scorer, triplets = store.resolve("scorer"), store.resolve("triplets")
    with judge_server(BentJudge(store)) as (url, server):
        config = MigrateConfig(old=OLD, scorer=vlm(url))
        stage = Watched(store, config, scorer)
        run = execute(stage)
        version = run.version
        assert server.books.requests == triplets.manifest.rows("triplets") == run.done == 3 * 16
        assert stage.old_judge.asked == [], "what the calibration heard is not asked again"
        assert execute(Watched(store, config, scorer)).reused
        rated = execute(RateEdits(store, RateConfig(scorer=vlm(url)), store.resolve("edits"), version)).version
        assert server.books.requests < 3 * 16 + rated.manifest.rows("scores"), "edits that failed are not asked about"

    # The scale.
    moved = moved_of(version)
    held_out = [row for row in moved if row["held_out"]]
    assert len(moved) == 48
    assert 12 < len(held_out) < 24
    assert max(abs(row["new_raw"] - bend(row["old_raw"])) for row in moved) < 1e-4
    assert max(abs(row["residual"]) for row in held_out) < 0.15
    assert all(row["old_rank"] == row["new_rank"] for row in moved)
    statistics = version.manifest.statistics
    overall = statistics["held_out"]["overall"]
    assert overall["raw"]["spearman"][0] > 0.99
    assert overall["raw"]["flipped_pairs"][0] == 0
    shift = np.mean([bend(row["old_raw"]) - row["old_raw"] for row in held_out])
    assert overall["raw"]["bias"][0] == pytest.approx(shift, abs=1e-3)
    assert overall["raw"]["bias"][1] > 0.1, "the whole interval: it is the more generous one"
    assert overall["mapped"]["mae"][0] < 0.05
    assert abs(overall["people_change"]["spearman"][0]) < 0.05
    full = [sum(row[name] for row in held_out) for name in ("old_full", "new_full")]
    crossed = statistics["crossings"]["overall"]
    assert crossed == {"became_full": full[1] - full[0], "no_longer_full": 0}
    assert crossed["became_full"] > 0
    assert statistics["full_as_before"]["overall"] == pytest.approx(bend(4.5), abs=0.1)
    assert statistics["left_out"] == {"no score of the old judge": 0, "no score of the new judge": 0}

    # From the new judge to people, as from the old one.
    before, after = calibration_of(scorer), calibration_of(version)
    assert before.rubrics == after.rubrics
    differences = [
        after.maps[row["edit_type"]](row["new_raw"]) - before.maps[row["edit_type"]](row["old_raw"]) for row in moved
    ]
    assert max(map(abs, differences)) < 0.2
    for part in rated.parts("scores"):
        for score in from_table(part, Score):
            if score.score is not None:
                assert score.score == after.maps[score.edit_type](score.raw)
                assert score.full == (score.raw >= 4.5)
    with pytest.raises(
        ValueError, match=r"scorer@v2 was calibrated for another judge: .*kind was 'vlm', is 'measured'"
    ):
        RateEdits(store, RateConfig(scorer=OLD), store.resolve("edits"), version).shards()

    # Held out is what neither the calibration nor this fitted anything by.
    images = {row["source_id"]: row["held_out"] for row in moved}
    assert len({(row["source_id"], row["held_out"]) for row in moved}) == len(images)
    page = version.file("report").decode()
    assert Page.of(page).text.count("became full") >= 1
    assert not re.search(r"https?://|<script|\bnan\b|\bNone\b", page)


@pytest.fixture
def more_triplets(store):
    """Two more of each edit type, which nobody rated and the old judge has not seen."""
    pick = PickConfig(per_edit_type=18, pool_per_edit_type=18)
    return execute(PickTriplets(store, pick, store.resolve("edits"))).version


def test_the_old_judge_is_asked_for_what_it_has_not_scored_alone(store, more_triplets):
    scorer = store.resolve("scorer")
    stage = Watched(store, MigrateConfig(old=OLD, scorer=NEW), scorer, more_triplets)
    run = execute(stage)
    assert (len(stage.old_judge.asked), len(stage.new_judge.asked), run.done) == (6, 54, 60)
    of_types = {row["edit_id"]: row for row in moved_of(run.version)}
    assert len(of_types) == 54
    # Rated images are on the side on which the calibration had them.
    calibration = CalibrateScorer(
        store, CalibrateConfig.model_validate(scorer.manifest.config), store.resolve("labels")
    )
    assert {edit_id: of_types[edit_id]["held_out"] for edit_id in calibration.held_out} == calibration.held_out
    # Another new judge: what the old one was asked for the first is known now.
    other = Watched(store, MigrateConfig(old=OLD, scorer=MeasuredConfig(), ask_old=False), scorer, more_triplets)
    assert len(moved_of(execute(other).version)) == 54
    assert (len(other.old_judge.asked), len(other.new_judge.asked)) == (0, 54)


def test_without_the_old_judge_what_it_has_not_scored_is_left_out(store, more_triplets):
    stage = Watched(store, MigrateConfig(old=OLD, scorer=NEW, ask_old=False), store.resolve("scorer"), more_triplets)
    version = execute(stage).version
    assert (len(stage.old_judge.asked), len(stage.new_judge.asked)) == (0, 48), "nor is the new one, for nothing"
    assert len(moved_of(version)) == 48
    assert version.manifest.statistics["left_out"] == {
        "no score of the old judge": 6,
        "no score of the new judge": 0,
    }
    outcomes = version.table("judgements", ["outcome"])["outcome"].to_pylist()
    assert outcomes.count(NOT_ASKED) == 6
    assert "6 triplets with no score of the old judge" in Page.of(version.file("report").decode()).text
    assert execute(stage, retry_failed=True).reused, "there is nobody to try again with"


def test_cut_off_and_continued_nothing_is_paid_twice(store, more_triplets, monkeypatch):
    monkeypatch.setattr(rows, "JOURNAL_SECONDS", 0.0)
    scorer, config = store.resolve("scorer"), MigrateConfig(old=OLD, scorer=NEW)
    whole = Store(f"{store.url}-whole")
    shutil.copytree(store.url, whole.url)

    cut_off = Watched(store, config, scorer, more_triplets)
    cut_off.cut_off_after = 30
    with pytest.raises(KeyboardInterrupt):
        execute(cut_off)
    resumed = Watched(store, config, scorer, more_triplets)
    version = execute(resumed).version
    for judge in ("old_judge", "new_judge"):
        first, second = getattr(cut_off, judge).asked, getattr(resumed, judge).asked
        assert first
        assert not set(first) & set(second)
    assert len(cut_off.new_judge.asked) + len(resumed.new_judge.asked) == 54
    assert len(cut_off.old_judge.asked) + len(resumed.old_judge.asked) == 6
    again = execute(Watched(whole, config, whole.resolve("scorer"), whole.resolve("triplets"))).version
    assert again.manifest.tables == version.manifest.tables, "the bytes are the same"


def test_a_migrated_judge_can_be_migrated_again_and_may_be_gone_by_then(store, more_triplets):
    triplets = store.version("triplets", 1)
    with judge_server(BentJudge(store, triplets)) as (url, _):
        first = execute(MigrateJudge(store, MigrateConfig(old=OLD, scorer=vlm(url)), store.resolve("scorer"))).version
    gone = JSONResponse({"error": {"message": "the model does not exist", "code": "model_not_found"}}, 404)
    with judge_server(lambda body: gone) as (url, server):
        config = MigrateConfig(old=vlm(url), scorer=NEW)
        second = execute(MigrateJudge(store, config, first)).version
        assert server.books.requests == 0
        with pytest.raises(JudgeError, match=r"old judge: .*the model does not exist.* set ask_old to false"):
            execute(MigrateJudge(store, config, first, more_triplets))
    assert second.manifest.parents["triplets"].version == triplets.number
    assert second.manifest.parents["labels"] == store.resolve("labels").as_parent()
    assert calibration_of(second).judge == NEW.deciding()
    page = Page.of(second.file("report").decode()).text
    assert "From bent (logit) to the stand-in judge (continuous): the rubrics of scorer@v2" in page


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (OLD, OLD.model_copy(update={"full_at": 4.0}), "scorer@v1 is a calibration of the new judge already"),
        (NEW, OLD, r"old judge: scorer@v1 was calibrated for another judge: noise was 0\.05, is 0\.3"),
    ],
)
def test_wrong_judges_are_refused_before_anything_is_asked(made, old, new, told):
    with pytest.raises(ValueError, match=told):
        MigrateJudge(made, MigrateConfig(old=old, scorer=new), made.resolve("scorer"))


def test_a_new_judge_that_often_fails_is_rejected(store):
    failing = vlm("http://127.0.0.1:1/v1")
    stage = MigrateJudge(store, MigrateConfig(old=OLD, scorer=failing), store.resolve("scorer"))
    with pytest.raises(RejectedError, match=r"coverage 0 is below 0\.9"):
        execute(stage)
    version = store.resolve("scorer@rejected")
    assert version.manifest.statistics["left_out"]["no score of the new judge"] == 48
    assert "No triplet that was set aside has a score of both judges" in Page.of(version.file("report").decode()).text


@given(*(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), max_size=6) for _ in range(2)), st.floats(0, 5))
def test_a_composed_map_does_one_after_the_other(one, two, raw):
    first, then = (rising(points) for points in (one, two))
    assert composed(first, then)(raw) == pytest.approx(then(first(raw)), abs=1e-6)


def rising(points):
    """A map from any points, with steps that are not steeper than a judge's noise could tell."""
    raws = sorted({0.0, 5.0, *(round(raw, 2) for raw, _ in points)})
    values = sorted(round(value, 2) for _, value in [*points, (0, 0), (0, 5)])
    return ScoreMap(tuple(zip(raws, [*values[: len(raws) - 1], values[-1]], strict=True)))


def test_where_a_score_is_reached():
    score_map = ScoreMap(((0.0, 1.0), (2.0, 1.0), (4.0, 3.0), (5.0, 3.0)))
    assert [reached_at(score_map, value) for value in (0.5, 1.0, 2.0, 3.0, 3.1)] == [0.0, 0.0, 3.0, 4.0, None]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"kind": "measured", "nois": 1}', "nois\n  Extra inputs"),
        ("{", "Invalid JSON"),
        ('{"kind": "vlm", "judge": {"where": "server"}}', "model\n  Field required"),
        (None, "No such file"),
    ],
)
def test_a_judge_that_cannot_be_read_names_its_file(tmp_path, content, told):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"old\.json: (.|\n)*" + told):
        read_judge(path)


def test_a_judge_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new.json"
    path.write_text(vlm("http://there/v1").model_dump_json())
    assert read_judge(path) == vlm("http://there/v1")
