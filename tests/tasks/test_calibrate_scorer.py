"""A judge calibrated on a small miniature world, with the real stage: sloppy edits, simulated raters, a real judge."""

import json
import math
import re
import shutil
from collections import Counter

import pytest

from perf.judge_server import judge_server
from storage.records import EditType, identity
from storage.store import REJECTED, Store
from storage.verify import verify
from tasks import calibrate_scorer
from tasks.calibrate_scorer import CalibrateConfig, CalibrateScorer
from tasks.calibration.label_files import write_csv
from tasks.calibration.probes import PROBES
from tasks.calibration.ratings import Rating
from tasks.calibration.score_map import IDENTITY
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.collect_labels import CollectLabels, LabelConfig
from tasks.edit_baseline import EditConfig
from tasks.hp_scorer.calibration import calibration_of
from tasks.hp_scorer.catalogue import judge_asked_by
from tasks.hp_scorer.contract import Judgement, Outcome, Scorer
from tasks.hp_scorer.distractors import HARMFUL, USELESS
from tasks.hp_scorer.question_bank import stand_in_bank
from tasks.hp_scorer.questions import QUESTIONS
from tasks.hp_scorer.rubric import rubric_of
from tasks.hp_scorer.settings import MeasuredConfig, Price, ServerSettings, VlmConfig
from tasks.miniature.coco import write_coco
from tasks.pick_triplets import PickConfig, PickTriplets
from tasks.rate_edits import RateConfig, RateEdits
from tasks.stage import RejectedError, execute
from tests.tasks.sloppy_edits import SloppyEditor
from tests.tasks.stand_ins import CountedEdits

WORLD, SCENES = 5, 72
TYPES = (EditType.ADDITION, EditType.REMOVAL)
COLLECT = CollectConfig(train_per_edit_type=80, bench_per_edit_type=1, cases_per_image=8, bench_share=0.05)
JUDGE = MeasuredConfig(mode="continuous")
QUICK_TEXTS = {
    EditType.ADDITION: ("was the source bright?", "is the new object there?"),
    EditType.REMOVAL: ("is the object gone?", "is the edited image a picture?"),
}
QUICK = CalibrateConfig(
    scorer=JUDGE,
    bank={t: tuple(q for q in stand_in_bank()[t] if q.text in texts) for t, texts in QUICK_TEXTS.items()},
    probed_per_edit_type=2,
)
"""A bank of two questions for each of the two edit types, one of them useful."""


class Books:
    """What a judge was asked, over all rubrics."""

    def __init__(self, kill_at=None, dies_after=None):
        self.asked, self.kill_at, self.dies_after = [], kill_at, dies_after


class Watched(Scorer):
    """The real judge, noted in the books; one that dies has no answer any more."""

    def __init__(self, scorer, books):
        self.scorer, self.books = scorer, books

    @property
    def who(self):
        return self.scorer.who

    @property
    def full_at(self):
        return self.scorer.full_at

    @property
    def fingerprint(self):
        return self.scorer.fingerprint

    def fingerprint_of(self, edit_type):
        return self.scorer.fingerprint_of(edit_type)

    def judgements(self, triplets, attempt=0):
        for position, triplet in enumerate(triplets):
            if self.books.kill_at == len(self.books.asked):
                raise KeyboardInterrupt
            look = identity(triplet.source.tobytes(), triplet.edited.tobytes(), triplet.instruction)
            self.books.asked.append((self.fingerprint_of(triplet.edit_type), triplet.case_id, look))
            if self.books.dies_after is not None and len(self.books.asked) > self.books.dies_after:
                yield position, Judgement(outcome=Outcome.TIMEOUT, score=None, raw_reply="no answer")
            else:
                yield position, self.scorer.score([triplet], attempt)[0]


@pytest.fixture
def watch(monkeypatch):
    """Lets the stage's judge be watched; gives the books of the runs from then on."""

    def watched(**options):
        books = Books(**options)
        monkeypatch.setattr(calibrate_scorer, "judge_asked_by", watching(books))
        return books

    return watched


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Labels of three simulated raters, of edits of two edit types."""
    folder = tmp_path_factory.mktemp("rated")
    store = Store(str(folder / "store"))
    cases = execute(CollectCases(store, COLLECT, write_coco(folder, WORLD, SCENES))).version
    edits = execute(CountedEdits(store, EditConfig(limits={}), cases, SloppyEditor(WORLD, SCENES, TYPES))).version
    triplets = execute(PickTriplets(store, PickConfig(per_edit_type=50), edits)).version
    return execute(CollectLabels(store, LabelConfig(raters="simulated"), triplets)).version


def copied(version, folder):
    """The same version in a store of its own."""
    shutil.copytree(version.store.url, folder)
    return Store(str(folder)).version(version.artifact, version.number)


@pytest.fixture
def labels(rated, tmp_path):
    """The labels in a store of the test's own."""
    return copied(rated, tmp_path / "store")


def watching(books):
    """A maker of judges that are watched."""
    return lambda *given: Watched(judge_asked_by(*given), books)


def calibrate(labels, config=QUICK, **options):
    return execute(CalibrateScorer(Store(labels.store.url), config, labels), **options)


def relabelled(labels, path, change):
    """People's labels of the same triplets, each as a function makes it of a row; None is left out."""
    ratings = [change(row) for row in labels.table("labels").to_pylist()]
    path.write_text(write_csv([rating for rating in ratings if rating is not None]))
    triplets = labels.manifest.parents["triplets"]
    store = labels.store
    stage = CollectLabels(store, LabelConfig(), store.version(triplets.artifact, triplets.version), [path])
    return execute(stage).version


def rows_of(version, table):
    return version.table(table).to_pylist()


def figures(version):
    """By group, judge and measure."""
    return {(r["edit_type"], r["judge"], r["measure"]): r for r in rows_of(version, "agreement")}


def calibrated_with(config, rated, folder):
    """In a store of its own: (run, what the judge was asked)."""
    books = Books()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate_scorer, "judge_asked_by", watching(books))
        return calibrate(copied(rated, folder / "store"), config), books


@pytest.fixture(scope="module")
def whole(rated, tmp_path_factory):
    """With the whole bank of questions."""
    return calibrated_with(CalibrateConfig(scorer=JUDGE), rated, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def quick(rated, tmp_path_factory):
    """With two questions for each edit type."""
    return calibrated_with(QUICK, rated, tmp_path_factory.mktemp("quick"))


def test_useful_questions_are_kept_and_no_others(whole):
    version = whole[0].version
    rubrics = {row["edit_type"]: json.loads(row["rubric"]) for row in rows_of(version, "scorer")}
    assert set(rubrics) == set(EditType)
    for edit_type in EditType:
        kept = [question["text"] for question in rubrics[edit_type]["questions"]]
        assert set(kept) <= {question.name for question in QUESTIONS[edit_type]}
        assert not set(kept) & {question.name for question in (*USELESS, *HARMFUL)}
        assert bool(kept) is (edit_type in TYPES), "without labels there is nothing to keep a question by"
    assert rubrics[EditType.REMOVAL]["questions"][0]["text"] == "is the object gone?"


def test_every_question_that_was_tried_is_there_with_its_reason(whole):
    version = whole[0].version
    rubrics = {row["edit_type"]: json.loads(row["rubric"]) for row in rows_of(version, "scorer")}
    for edit_type, bank in stand_in_bank().items():
        steps = [row for row in rows_of(version, "steps") if row["edit_type"] == edit_type]
        assert Counter(row["question"] for row in steps) == dict.fromkeys((q.name for q in bank), 1)
        kept = [row["question"] for row in steps if row["kept"]]
        assert kept == [question["name"] for question in rubrics[edit_type]["questions"]]
        for row in steps:
            assert not row["proposed"]
            if edit_type not in TYPES:
                assert (row["kept"], row["reason"], row["n"]) == (False, "no triplet with both scores", 0)
            elif row["kept"]:
                assert row["better_share"] >= 0.9
                assert row["after"] - row["before"] == pytest.approx(row["difference"])
            else:
                assert re.fullmatch(r"better in \d+% of the resamples, wanted 90%", row["reason"])


def test_held_out_agreement_rises_from_the_general_criteria_to_the_calibrated_judge(whole):
    version = whole[0].version
    found = figures(version)
    for group in ("overall", *TYPES):
        generic, rubric, calibrated = (
            {name: found[group, judge, name]["value"] for name in ("pearson", "mae", "coverage")}
            for judge in ("generic", "rubric", "calibrated")
        )
        assert generic["pearson"] + 0.05 < rubric["pearson"]
        assert generic["mae"] > rubric["mae"] > calibrated["mae"], "the map brings it onto people's scale"
        assert calibrated["coverage"] == 1
    assert found["overall", "calibrated", "pearson"]["value"] > 0.85
    assert found["overall", "people", "raters"]["value"] == 3
    improvement = version.manifest.statistics["improvement"]
    assert improvement["low"] > 0, "more than chance"
    assert improvement["better_share"] > 0.99


def test_the_statistics_say_what_came_out(whole):
    version = whole[0].version
    statistics = version.manifest.statistics
    assert statistics["raters"] == "simulated"
    assert statistics["badge"] == ("uncalibrated" if statistics["reasons"] else "calibrated")
    found = figures(version)
    for judge in ("generic", "rubric", "calibrated"):
        for name, (value, low, high) in statistics["held_out"][judge].items():
            row = found["overall", judge, name]
            assert (value, low, high) == tuple(pytest.approx(row[end], abs=1e-4) for end in ("value", "low", "high"))
    assert statistics["measures"]["pearson"] == pytest.approx(found["overall", "calibrated", "pearson"]["value"])
    assert statistics["measures"]["coverage"] == 1
    rubrics = {row["edit_type"]: json.loads(row["rubric"])["questions"] for row in rows_of(version, "scorer")}
    assert statistics["questions"] == {t: [question["text"] for question in asked] for t, asked in rubrics.items()}
    failed = {reason.split()[1] for reason in statistics["reasons"] if reason.startswith("probe ")}
    assert failed == {name.split()[0] for name in statistics["probes_failed"]}
    assert verify([version]) == []


def test_people_and_judge_are_compared_on_images_that_nothing_was_chosen_by(whole, rated):
    version = whole[0].version
    overall = figures(version)["overall", "calibrated", "pearson"]["n"]
    by_type = [figures(version)[edit_type, "calibrated", "pearson"]["n"] for edit_type in TYPES]
    total = len({row["edit_id"] for row in rows_of(rated, "labels")})
    assert overall == sum(by_type)
    assert overall / total == pytest.approx(0.4, abs=0.05)
    tuned = {row["n"] for row in rows_of(version, "steps") if row["edit_type"] in TYPES}
    assert sum(tuned) == total - overall


def test_the_probes_are_tried_where_they_can_show_something(whole, rated):
    """A good edit can fall, and only a bad one can rise by words that are painted into it."""
    ratings = Counter()
    for row in rows_of(rated, "labels"):
        ratings[row["edit_id"]] += row["score"]
    types = {row["edit_id"]: row["edit_type"] for row in rows_of(rated, "labels")}
    probed = rows_of(whole[0].version, "probed")
    assert {row["probe"] for row in probed} == {probe.name for probe in PROBES}
    for edit_type in TYPES:
        of_type = [name for name in ratings if types[name] == edit_type]
        for painted in (False, True):
            rows = [row for row in probed if row["edit_type"] == edit_type and (row["probe"] == "painted") == painted]
            shown = {row["edit_id"] for row in rows}
            assert len(shown) == 8
            others = [ratings[name] for name in of_type if name not in shown]
            if painted:
                assert max(ratings[name] for name in shown) <= min(others)
            else:
                assert min(ratings[name] for name in shown) >= max(others)
    assert {row["edit_type"] for row in probed} == set(TYPES)
    unchanged = [row["after"] for row in probed if row["probe"] == "unchanged"]
    assert max(unchanged) < 2


def test_nothing_is_asked_twice(whole):
    run, books = whole
    assert max(Counter(books.asked).values()) == 1
    said = run.version.table("judgements")
    names = said["score_id"].to_pylist()
    assert len(names) == len(set(names)) == run.done
    probes = run.version.table("probed").num_rows
    assert len(books.asked) == run.done + probes
    triplets = run.version.store.version("triplets", run.version.manifest.parents["triplets"].version)
    assert set(said["edit_id"].to_pylist()) <= set(triplets.table("triplets", ["edit_id"])["edit_id"].to_pylist())


def test_the_report_is_a_page(whole):
    page = whole[0].version.file("report").decode()
    assert page.startswith("<!")
    assert "simulated" in page.lower()
    assert "is the object gone?" in page


def test_more_labels_ask_only_for_what_is_new(labels, tmp_path, watch):
    """The first labels are a part of the later ones; the judge's word on those is still good."""
    names = sorted({row["edit_id"] for row in rows_of(labels, "labels")})
    some = set(names[::2])

    def by_one(row):
        known = row["rater"] == "simulated-1" and row["edit_id"] in some
        return Rating(row["edit_id"], "Anna", row["score"]) if known else None

    few = relabelled(labels, tmp_path / "few.csv", by_one)
    before = watch()
    first = calibrate(few)
    assert first.done == first.version.table("judgements").num_rows > 0
    after = watch()
    second = calibrate(labels)
    said = {run.version.number: set(run.version.table("judgements")["score_id"].to_pylist()) for run in (first, second)}
    assert second.done == len(said[2] - said[1]) < len(said[2])
    known = first.version.table("judgements").to_pylist()
    pairs = {(row["scorer"], row["case_id"]) for row in known}
    again = [one for one in after.asked if one[:2] in pairs and one in set(before.asked)]
    probes = second.version.table("probed").num_rows
    assert len(after.asked) == second.done + probes
    assert len(again) <= probes, "probes are no judgements, and the only ones to be asked anew"
    third = watch()
    assert calibrate(labels).reused
    assert third.asked == []


def test_killed_and_continued_gives_the_same_bytes(labels, quick, watch):
    wanted, at_once = quick
    middle = len(at_once.asked) * 2 // 3
    killed = watch(kill_at=middle)
    with pytest.raises(KeyboardInterrupt):
        calibrate(labels)
    assert len(killed.asked) == middle
    resumed = watch()
    run = calibrate(labels)
    assert run.version.ref.manifest == wanted.version.ref.manifest
    assert set(at_once.asked) == {*killed.asked, *resumed.asked}
    twice = [one for one, times in Counter([*killed.asked, *resumed.asked]).items() if times > 1]
    assert twice == [], "nothing is paid twice"


def no_number_is_missing_without_a_word(version):
    """No NaN anywhere, and wherever there is no figure it is said why."""
    for table in ("agreement", "steps", "probed"):
        for row in rows_of(version, table):
            assert not any(isinstance(value, float) and math.isnan(value) for value in row.values()), row
    for row in rows_of(version, "agreement"):
        assert row["value"] is not None or row["note"], row
    for row in rows_of(version, "steps"):
        assert row["reason"], row
    assert not re.search(r"\bnan\b", version.manifest_bytes().decode(), re.IGNORECASE)
    page = re.sub(r"base64,[^\"')]+", "", version.file("report").decode())
    assert not re.search(r"\b(nan|NaN|None)\b", page), "the page says it in words"
    return version.manifest.statistics


def test_one_rater_is_enough_and_has_no_ceiling(labels, tmp_path):
    alone = relabelled(
        labels,
        tmp_path / "one.csv",
        lambda row: Rating(row["edit_id"], "Anna", row["score"]) if row["rater"] == "simulated-2" else None,
    )
    version = calibrate(alone).version
    statistics = no_number_is_missing_without_a_word(version)
    assert statistics["raters"] == "people"
    assert statistics["improvement"]["low"] > 0
    people = {m: row for (group, judge, m), row in figures(version).items() if (group, judge) == ("overall", "people")}
    assert people["raters"]["value"] == 1
    assert people["pearson"]["value"] is None
    assert people["pearson"]["note"] == "only one rater"


def test_raters_who_like_everything_teach_nothing(labels, tmp_path):
    fives = relabelled(labels, tmp_path / "fives.csv", lambda row: Rating(row["edit_id"], row["rater"], 5))
    version = calibrate(fives).version
    statistics = no_number_is_missing_without_a_word(version)
    assert not any(statistics["questions"].values())
    assert statistics["badge"] == "uncalibrated"
    assert "the lower end of qwk is unknown: all human scores are 5" in statistics["reasons"]
    assert any(reason.endswith("all human scores are 5: nothing to fit") for reason in statistics["reasons"])
    reasons = {row["reason"] for row in rows_of(version, "steps") if row["edit_type"] in TYPES}
    assert reasons == {"all human scores are 5"}
    assert all(calibration_of(version).maps[edit_type] == IDENTITY for edit_type in EditType)


def test_ten_labels_are_a_version_that_does_not_claim_much(labels, tmp_path):
    ten = sorted({row["edit_id"] for row in rows_of(labels, "labels")})[:10]
    few = relabelled(
        labels,
        tmp_path / "ten.csv",
        lambda row: (
            Rating(row["edit_id"], "Anna", row["score"])
            if row["edit_id"] in ten and row["rater"] == "simulated-1"
            else None
        ),
    )
    version = calibrate(few).version
    statistics = no_number_is_missing_without_a_word(version)
    assert statistics["badge"] == "uncalibrated"
    assert any("of the 10 that a map needs" in reason for reason in statistics["reasons"])
    assert figures(version)["overall", "calibrated", "coverage"]["n"] <= 5


def test_an_edit_type_without_labels_keeps_the_general_criteria(labels, tmp_path):
    only = relabelled(
        labels,
        tmp_path / "removal.csv",
        lambda row: (
            Rating(row["edit_id"], row["rater"], row["score"]) if row["edit_type"] == EditType.REMOVAL else None
        ),
    )
    version = calibrate(only).version
    statistics = no_number_is_missing_without_a_word(version)
    assert statistics["questions"][EditType.ADDITION] == []
    assert statistics["questions"][EditType.REMOVAL] == ["is the object gone?"]
    calibration = calibration_of(version)
    assert set(calibration.maps) == set(EditType)
    assert calibration.maps[EditType.ADDITION] != IDENTITY, "the map of all edit types together"
    (note,) = [row["note"] for row in rows_of(version, "scorer") if row["edit_type"] == EditType.ADDITION]
    assert note == "only 0 pairs: the map of all edit types together"
    assert figures(version)[EditType.ADDITION, "calibrated", "pearson"]["note"] == "no triplets"


def test_no_labels_at_all_are_not_accepted(labels, tmp_path):
    none = relabelled(labels, tmp_path / "none.csv", lambda row: None)
    with pytest.raises(RejectedError, match="coverage could not be measured"):
        calibrate(none)
    no_number_is_missing_without_a_word(labels.store.resolve(f"scorer@{REJECTED}"))


def test_a_judge_that_dies_is_rejected_and_then_repaired(labels, quick, watch):
    wanted, healthy = quick
    dead = watch(dies_after=len(healthy.asked) // 3)
    with pytest.raises(RejectedError, match=r"scorer@v1 is rejected, latest stays: coverage 0.* is below 0\.9"):
        calibrate(labels)
    assert labels.store.latest("scorer") is None
    rejected = labels.store.version("scorer", 1)
    no_number_is_missing_without_a_word(rejected)
    assert any(reason.startswith("coverage is 0.") for reason in rejected.manifest.statistics["reasons"])
    good = {row["score_id"] for row in rows_of(rejected, "judgements") if row["outcome"] == Outcome.SCORED}
    assert 0 < len(good) <= dead.dies_after
    alive = watch()
    repaired = calibrate(labels)
    assert repaired.version.manifest.tables == wanted.version.manifest.tables
    assert labels.store.latest("scorer").number == repaired.version.number == 2
    names = set(repaired.version.table("judgements")["score_id"].to_pylist())
    assert repaired.done == len(names - good), "what it had said is not asked again"
    assert len(alive.asked) < len(healthy.asked)


def test_a_calibration_is_what_edits_are_rated_with(whole, tmp_path):
    version = copied(whole[0].version, tmp_path / "rating")
    store = version.store
    edits = store.resolve("edits")
    scores = execute(RateEdits(store, RateConfig(scorer=JUDGE, limits={}), edits, version)).version
    calibration = calibration_of(version)
    judged = {(row["edit_id"], row["scorer"]): row["score"] for row in rows_of(version, "judgements")}
    chosen = {row["edit_type"]: row["chosen"] for row in rows_of(version, "chosen")}
    compared = 0
    for row in rows_of(scores, "scores"):
        assert row["scorer"] == chosen[row["edit_type"]]
        if row["outcome"] != Outcome.SCORED:
            continue
        score_map = calibration.maps[EditType(row["edit_type"])]
        raw = row["score"] if row["raw_score"] is None else row["raw_score"]
        assert row["score"] == score_map(raw)
        assert row["score_map"] == score_map.fingerprint
        if (row["edit_id"], row["scorer"]) in judged:
            assert raw == judged[row["edit_id"], row["scorer"]], "the judge says what it said"
            compared += 1
    assert compared == len({row["edit_id"] for row in rows_of(version, "judgements")})
    with pytest.raises(ValueError, match=r"scorer@v1 was calibrated for another judge: mode was 'continuous'"):
        execute(RateEdits(store, RateConfig(scorer=MeasuredConfig()), edits, version))


def test_a_question_that_a_model_proposes_comes_into_the_rubric(labels, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    bodies = []

    def script(body):
        text = body["messages"][0]["content"][0]["text"]
        bodies.append(text)
        known = rubric_of(EditType.REMOVAL).edit_type in text
        return json.dumps({"name": "gone", "text": "is the object gone?"}) if known else "I have no idea."

    bank = {EditType.ADDITION: QUICK.bank[EditType.ADDITION]}
    with judge_server(script) as (url, _):
        proposer = ServerSettings(base_url=url, model="scripted", tries=1)
        config = QUICK.model_copy(update={"bank": bank, "proposer": proposer, "proposals": 1})
        version = calibrate(labels, config).version
    assert version.manifest.statistics["questions"][EditType.REMOVAL] == ["is the object gone?"]
    (step,) = [row for row in rows_of(version, "steps") if row["edit_type"] == EditType.REMOVAL]
    assert (step["kept"], step["proposed"]) == (True, True)
    assert len(bodies) == len(TYPES), "nobody is asked about edit types without labels"


def test_another_seed_sets_others_aside(labels):
    stages = [CalibrateScorer(labels.store, QUICK.model_copy(update={"seed": seed}), labels) for seed in (0, 1)]
    assert stages[0].held_out != stages[1].held_out
    assert stages[0].held_out == CalibrateScorer(labels.store, QUICK, labels).held_out
    sources = {}
    triplets = labels.store.resolve("triplets").table("triplets", ["edit_id", "source_id"]).to_pylist()
    for row in triplets:
        sources.setdefault(row["source_id"], set()).add(stages[0].held_out[row["edit_id"]])
    assert all(len(sides) == 1 for sides in sources.values()), "an image is on one side"


def test_another_question_in_the_bank_is_another_calibration(labels):
    """It stood in no setting: the rubric files had changed, and the old version was given back."""
    stage = CalibrateScorer(labels.store, CalibrateConfig(), labels)
    bank = stand_in_bank()
    fewer = {t: tuple(bank[t][1:] if t == EditType.BOKEH else bank[t]) for t in EditType}
    explicit = CalibrateScorer(labels.store, CalibrateConfig(bank=fewer), labels)
    changed = {name for name, value in stage.fingerprints().items() if explicit.fingerprints()[name] != value}
    assert changed == {"bank of bokeh"}


def test_all_rubrics_that_are_tried_share_one_cap(labels):
    judge = ServerSettings(model="m", price=Price(prompt=1, completion=1), spend_at_most=1)
    stage = CalibrateScorer(labels.store, CalibrateConfig(scorer=VlmConfig(judge=judge)), labels)
    asking = calibrate_scorer._Asking(stage, EditType.BOKEH, "key", lambda count: None)
    rubrics = [rubric_of(EditType.BOKEH), rubric_of(EditType.BOKEH).with_questions(())]
    assert len({id(asking.scorer(rubric).scorer.spent) for rubric in rubrics}) == 1
