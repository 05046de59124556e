"""Rating edits: what stands on a row, and what is paid for again when something changes. A server counts what it is
asked; the stage, the judge and its client are the real ones.
"""

import json
import math
import shutil
from collections import Counter
from dataclasses import fields, replace

import pyarrow as pa
import pytest
from fastapi.responses import JSONResponse

from perf.judge_server import judge_server
from storage.compact import compact
from storage.manifest import Manifest
from storage.records import Case, Edit, EditType, Score
from storage.schemas import CASES, EDITS, SCORES, from_table, to_table
from storage.store import Store
from tasks.calibration.score_map import IDENTITY, ScoreMap
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditConfig
from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.judge import JudgeError
from tasks.hp_scorer.rubric import RubricQuestion, rubric_of
from tasks.hp_scorer.settings import Mode, Price, ServerSettings, VlmConfig
from tasks.miniature.coco import write_coco
from tasks.plan import plan_lines
from tasks.rate_edits import RateConfig, RateEdits
from tasks.stage import execute
from tests.tasks.stand_ins import CountedEdits, CountedScores, CountingJudge

HALVED = ScoreMap(((0.0, 0.0), (5.0, 2.5)))
LIFTED = ScoreMap(((0.0, 4.8), (5.0, 5.0)))
RUBRICS = {edit_type: rubric_of(edit_type) for edit_type in EditType}
NEW = (COLUMNS := [column.name for column in SCORES])[COLUMNS.index("raw_score") :]
"""The columns that scores did not have at first."""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-secret")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """A store with two edits of each edit type; as its second version with three; as its third with these three in one
    file per edit type.
    """
    folder = tmp_path_factory.mktemp("rated")
    store, world = Store(str(folder / "store")), write_coco(folder, 5, 12)
    for count in (2, 3):
        collect = CollectConfig(train_per_edit_type=count, bench_per_edit_type=1, cases_per_image=8)
        cases = execute(CollectCases(store, collect, world)).version
        execute(CountedEdits(store, EditConfig(), cases))
    execute(CountedEdits(store, EditConfig(), compact(cases)))
    return store.root


@pytest.fixture
def store(worlds, tmp_path):
    return Store(shutil.copytree(worlds, str(tmp_path / "store")))


def settings(url="http://127.0.0.1:1/v1", mode=Mode.LOGIT, full_at=None, **server):
    fields = {"revision": "r1", "timeout_seconds": 5, "tries": 1, "concurrency": 4} | server
    return VlmConfig(judge=ServerSettings(base_url=url, model="scripted", **fields), mode=mode, full_at=full_at)


def rating(store, config, calibration=None, edits=1):
    return RateEdits(store, RateConfig(limits={}, scorer=config), store.version("edits", edits), calibration)


def calibrated(store, config, rubrics=(), maps=()):
    """A version of the artifact `scorer`, by hand."""
    rubrics, maps = RUBRICS | dict(rubrics), dict.fromkeys(EditType, IDENTITY) | dict(maps)
    rows = [
        {
            "edit_type": str(edit_type),
            "rubric": rubrics[edit_type].model_dump_json(),
            "score_map": json.dumps(maps[edit_type].to_json()),
            "note": "",
        }
        for edit_type in EditType
    ]
    return commit(store, "scorer", {"scorer": store.add_table(pa.Table.from_pylist(rows))}, scorer=config.deciding())


def commit(store, artifact, tables, parents=(), fingerprints=(), **config):
    return store.commit(
        Manifest(
            artifact=artifact,
            stage="by-hand",
            stage_version=1,
            key=f"by-hand-{len(store.numbers(artifact))}",
            config=config,
            fingerprints=dict(fingerprints),
            parents=dict(parents),
            tables={name: (file,) for name, file in tables.items()},
        )
    )


def scores_of(version):
    return list(from_table(version.table("scores"), Score))


def of_case(version):
    """Scores by case, without what a map makes of them."""
    return {
        score.case_id: replace(score, score=score.raw, raw_score=None, score_map="") for score in scores_of(version)
    }


def type_asked(body):
    """Of which edit type a request is, by what its rubric says."""
    said = body["messages"][0]["content"][0]["text"]
    (found,) = [edit_type for edit_type, rubric in RUBRICS.items() if rubric.edit_type in said]
    return found


class Answers:
    """Says a digit by the edited picture, and remembers of which edit types it was asked."""

    def __init__(self):
        self.asked = Counter()
        self.said = []

    def __call__(self, body):
        self.asked[type_asked(body)] += 1
        self.said.append(body["messages"][0]["content"][0]["text"])
        return str(len(body["messages"][0]["content"][5]["image_url"]["url"]) % 6)


# --- what stands on a row ----------------------------------------------------------------------------------------


def test_every_row_says_who_judged_with_what_parameters_and_how_sure_it_was(store):
    """A server that is asked for an alias answers by the name of what it really runs."""
    tops = [
        {"token": token, "logprob": math.log(p), "bytes": None} for token, p in (("4", 0.6), ("5", 0.2), ("I", 0.2))
    ]
    answer = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "scripted-2026-11-05",
        "choices": [{
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4", "refusal": None},
            "logprobs": {"content": [tops[0] | {"top_logprobs": tops}]},
        }],
    }  # fmt: skip
    with judge_server(lambda body: JSONResponse(answer)) as (url, _):
        run = execute(rating(store, settings(url)))
    rows = scores_of(run.version)
    assert len(rows) == run.done == 16
    config = settings().deciding()
    assert (config["mode"], config["judge"]["model"]) == ("logit", "scripted")
    for row in rows:
        assert (row.judge, row.revision, row.model) == ("scripted", "r1", "scripted-2026-11-05")
        assert row.parameters == config
        assert row.digit_mass == pytest.approx(0.8)
        assert row.score == row.raw == pytest.approx(4.25), "4 with three quarters, 5 with one"
        assert row.spread == pytest.approx(math.sqrt(0.75 * 0.25))
        assert (row.raw_score, row.score_map, row.full, row.raw_reply) == (None, "", False, "4")
    assert "sk-test-secret" not in json.dumps([row.parameters for row in rows])
    assert {(row.edit_type, row.scorer) for row in rows} == {
        (edit_type, rating(store, settings()).scorer.fingerprint_of(edit_type)) for edit_type in EditType
    }
    assert run.version.manifest.statistics["judge"] == config


def test_an_edit_that_the_judge_cannot_rate_stays_a_row_that_says_why(store):
    with judge_server(lambda body: "no" if type_asked(body) == "bokeh" else "5") as (url, _):
        version = execute(rating(store, settings(url))).version
    rows = [row for row in scores_of(version) if row.edit_type == "bokeh"]
    assert [(row.outcome, row.score, row.full) for row in rows] == [(Outcome.PARSE_ERROR, None, False)] * 2
    assert {(row.judge, row.model, row.digit_mass) for row in rows} == {("scripted", "scripted", 0.0)}
    assert version.manifest.statistics["counts"] == {"scored": 14, "parse_error": 2}
    assert version.manifest.statistics["measures"]["coverage"] == 14 / 16


def test_two_edits_that_came_out_the_same_are_asked_about_once(store):
    """Two seeds, one picture: a score is of a picture, and both edits have it."""
    case = next(from_table(store.version("cases", 1).table("train"), Case))
    first = next(from_table(store.version("edits", 1).table("edits"), Edit))
    assert first.case_id == case.case_id
    edits = [replace(first, edit_id=f"seed-{seed}", seed=seed) for seed in range(3)]
    other = replace(first, edit_id="another", edited=case.source)
    cases = commit(store, "cases", {"train": store.add_table(to_table([case] * 4, CASES))})
    file = store.add_table(to_table([edits[0], other, *edits[1:]], EDITS))
    made = commit(store, "edits", {"edits": file}, {"cases": cases.as_parent()}, split="train")
    with judge_server(Answers()) as (url, server):
        run = execute(RateEdits(store, RateConfig(limits={}, scorer=settings(url)), made))
        assert server.books.requests == run.done == 2
    rows = scores_of(run.version)
    assert [row.edit_id for row in rows] == ["seed-0", "another", "seed-1", "seed-2"]
    assert len({row.score_id for row in rows}) == len({row.score for row in rows}) == 2
    assert rows[0].score_id == rows[2].score_id == rows[3].score_id != rows[1].score_id


# --- maps and rubrics --------------------------------------------------------------------------------------------


def test_a_new_map_rates_nothing_anew_and_moves_scores_alone(store):
    with judge_server(Answers()) as (url, server):
        config = settings(url)
        plain = execute(rating(store, config)).version
        assert server.books.requests == 16
        runs = [
            execute(rating(store, config, calibrated(store, config, maps=dict.fromkeys(EditType, one))))
            for one in (IDENTITY, HALVED, LIFTED)
        ]
        assert server.books.requests == 16, "nothing was asked again"
    assert [(run.done, run.reused) for run in runs] == [(0, False)] * 3
    same, halved, lifted = (run.version for run in runs)
    assert scores_of(same) == scores_of(plain)
    for version, score_map in ((halved, HALVED), (lifted, LIFTED)):
        assert of_case(version) == of_case(plain), "raw score, fullness and all the rest are as they were"
        for row in scores_of(version):
            assert row.score == score_map(row.raw_score)
            assert row.score_map == score_map.fingerprint
    assert [v.manifest.fingerprints["scorer"] for v in (same, halved, lifted)] == [
        plain.manifest.fingerprints["scorer"]
    ] * 3


class Watched(RateEdits):
    """The real stage, which remembers the shards that it works on."""

    def work(self, shard, progress):
        self.__dict__.setdefault("worked", []).append(shard.files["edits"].partition)
        return super().work(shard, progress)


def test_a_map_of_one_edit_type_leaves_the_shards_of_the_others(store):
    with judge_server(Answers()) as (url, server):
        config = settings(url)
        before = execute(rating(store, config, calibrated(store, config))).version
        scorer = calibrated(store, config, maps={EditType.BOKEH: HALVED})
        stage = Watched(store, RateConfig(limits={}, scorer=config), store.version("edits", 1), scorer)
        after = execute(stage).version
        assert server.books.requests == 16
    assert stage.worked == ["bokeh"]
    changed = [new.edit_type for new, old in zip(scores_of(after), scores_of(before), strict=True) if new != old]
    assert changed == ["bokeh"] * 2


def test_a_full_score_is_one_by_the_judges_own_scale(store):
    """A map to people's scale may put every score below the judge's threshold, or above it."""
    fulls = {}
    with judge_server(lambda body: "5" if type_asked(body) in ("bokeh", "relighting") else "3") as (url, server):
        config = settings(url)  # in logit mode 4.5 is full; "5" comes to 4.8, "3" to 3
        for name, score_map in (("halved", HALVED), ("lifted", LIFTED)):
            maps = dict.fromkeys(EditType, score_map)
            version = execute(rating(store, config, calibrated(store, config, maps=maps))).version
            fulls[name] = {row.edit_type for row in scores_of(version) if row.full}
            assert version.manifest.statistics["measures"]["full_share"] == 4 / 16
            highest = max(row.score for row in scores_of(version))
            assert (highest < 4.5) == (name == "halved")
        lower = execute(rating(store, settings(url, full_at=2.9))).version
        assert server.books.requests == 16, "another threshold asks nothing"
    assert fulls == {"halved": {"bokeh", "relighting"}, "lifted": {"bokeh", "relighting"}}
    assert all(row.full for row in scores_of(lower))


def test_a_new_rubric_of_one_edit_type_rates_that_type_alone(store):
    answers = Answers()
    with judge_server(answers) as (url, server):
        config = settings(url)
        before = execute(rating(store, config, calibrated(store, config))).version
        assert answers.asked == dict.fromkeys(EditType, 2)
        answers.asked.clear()
        asked = RUBRICS[EditType.STYLE].with_questions([RubricQuestion(name="grain", text="Is it free of grain?")])
        run = execute(rating(store, config, calibrated(store, config, rubrics={EditType.STYLE: asked})))
        assert answers.asked == {EditType.STYLE: 2}
        assert all("- grain: Is it free of grain?" in said for said in answers.said[16:])
        assert run.done == 2
        old, new = of_case(before), of_case(run.version)
        changed = {case_id for case_id in new if new[case_id] != old[case_id]}
        assert {new[case_id].edit_type for case_id in changed} == {"style_transfer"}
        assert len(changed) == 2
        assert execute(rating(store, config, calibrated(store, config))).done == 0, (
            "the old one's scores are still there"
        )
        assert server.books.requests == 18


def test_a_calibration_of_another_judge_is_refused_before_anything_is_asked(store):
    with judge_server(Answers()) as (url, server):
        of_another = calibrated(store, settings(url, mode=Mode.COT))
        with pytest.raises(ValueError, match=r"scorer@v1 was calibrated for another judge: mode was 'cot', is 'logit'"):
            execute(rating(store, settings(url), of_another))
        assert server.books.requests == 0


# --- older versions ----------------------------------------------------------------------------------------------


def test_scores_of_a_version_without_the_new_columns_are_read_and_taken_over(store):
    """Scores written before judges told their names, their certainty and their raw scores."""
    with judge_server(Answers()) as (url, server):
        config = settings(url)
        now = execute(rating(store, config)).version
        old = now.files("scores")
        older = Store(f"{store.root}-older")
        shutil.copytree(store.root, older.root, ignore=lambda folder, names: {"shards", "journal", "scores"} & {*names})
        files = tuple(older.add_table(store.read_table(file).drop_columns(NEW), file.partition) for file in old)
        assert older.version("edits", 1).manifest == store.version("edits", 1).manifest
        assert {f.name for f in fields(Score)} - {*older.read_table(files[0]).column_names} == {*NEW}
        manifest = now.manifest.model_copy(
            update={"tables": {"scores": files}, "key": "of-old-code", "stage_version": 3}
        )
        version = older.commit(manifest)
        run = execute(rating(older, config, calibrated(older, config, maps={EditType.BOKEH: HALVED})))
        assert server.books.requests == 16, "nothing is asked again"
    assert (run.done, run.version.number) == (0, 2)
    for before, after, whole in zip(scores_of(version), scores_of(run.version), scores_of(now), strict=True):
        assert (before.judge, before.model, before.digit_mass, before.parameters) == ("", "", None, {})
        assert (before.score_id, before.raw, before.full) == (after.score_id, after.raw, after.full)
        assert (after.judge, after.digit_mass) == ("", None), "what was never written down is not made up"
        assert after.raw == whole.raw
        bokeh = after.edit_type == "bokeh"
        assert after.score == (HALVED(before.score) if bokeh else before.score)
        assert after.score_map == (HALVED.fingerprint if bokeh else "")


# --- what it would cost ------------------------------------------------------------------------------------------

A_MILLIONTH = Price(prompt=1, completion=0)


def told_by(stage, **options):
    lines = []
    return execute(stage, tell=lines.append, **options), lines


def planned(store, make, **options):
    lines = plan_lines(store, {"scores": lambda made: make()}, **options)
    return [line.strip() for line in lines if "judge" in line or "tokens" in line]


def test_before_a_run_its_calls_are_told_without_those_that_are_known(store):
    with judge_server(Answers()) as (url, server):
        config = settings(url, price=A_MILLIONTH)
        plan = planned(store, lambda: rating(store, config))
        _, told = told_by(rating(store, config))
        assert told == plan
        assert told[0] == "16 calls to the judge; 0 judgements are known already"
        assert told[1].startswith("about 1")
        assert told[1].endswith("and 16 completion tokens; about $0.02; hours unknown before the first run")
        assert server.books.requests == 16
        assert planned(store, lambda: rating(store, config)) == [], "what stands costs nothing"
        assert told_by(rating(store, config))[1] == []
        plan = planned(store, lambda: rating(store, config, edits=3))
        run, told = told_by(rating(store, config, edits=3))
        assert told == plan
        assert told[0] == "8 calls to the judge; 16 judgements are known already"
        assert told[1].endswith("and 8 completion tokens; about $0.01; about 0.00 hours"), (
            "by the pace of the first run"
        )
        assert run.done == server.books.requests - 16 == 8


def test_a_plan_asks_nothing(store):
    with judge_server(Answers()) as (url, server):
        assert len(planned(store, lambda: rating(store, settings(url)))) == 2
        assert server.books.requests == 0
    assert store.numbers("scores") == []


def test_the_forecast_counts_what_a_new_rubric_asks_anew_and_what_failed(store):
    def script(body):
        return "5" if type_asked(body) != "relighting" else "no"

    with judge_server(script) as (url, _):
        config = settings(url)
        execute(rating(store, config))
        asked = RUBRICS[EditType.STYLE].with_questions(())
        stage = rating(store, config, calibrated(store, config, rubrics={EditType.STYLE: asked}))
        run, told = told_by(stage)
        assert told[0] == "2 calls to the judge; 0 judgements are known already"
        assert run.done == 2
        plan = planned(store, lambda: rating(store, config), retry_failed=True)
        assert plan[0] == "2 calls to the judge; 0 judgements are known already"
        plan = planned(store, lambda: rating(store, config), refresh=True)
        assert plan[0] == "16 calls to the judge; 0 judgements are known already"
        run, told = told_by(rating(store, config), refresh=True)
        assert told[0] == plan[0]
        assert run.done == 16


def test_a_stand_in_judge_has_no_forecast(store):
    stage = CountedScores(store, RateConfig(limits={}), store.version("edits", 1), CountingJudge())
    assert told_by(stage)[1] == []


# --- what is no new configuration, and what stops a run ----------------------------------------------------------


def test_how_the_server_is_reached_and_paid_is_no_new_configuration(store):
    with judge_server(Answers()) as (url, server):
        first = execute(rating(store, settings(url)))
        others = [
            settings(url, concurrency=31),
            settings(url, timeout_seconds=77),
            settings(url, tries=5),
            settings(url, price=A_MILLIONTH),
            settings(url, price=A_MILLIONTH, spend_at_most=0.000001),
            settings(url, token_field="max_tokens"),
            settings("http://127.0.0.1:9/v1"),
            settings(None),
        ]
        for other in others:
            stage = rating(store, other)
            assert stage.key == first.version.manifest.key
            assert execute(stage).reused
        assert server.books.requests == 16
        assert store.numbers("scores") == [1]
    told = {
        rating(store, one).key
        for one in (settings(), settings(revision="r2"), settings(temperature=1.0), settings(mode=Mode.COT))
    }
    assert len(told) == 4, "what changes the answers is"


def test_a_judge_that_cannot_be_used_stops_the_run_with_its_name_and_keeps_what_was_rated(store):
    """The key was withdrawn while the run went on; with a new one it goes on where it was."""
    answers, good = Answers(), 3

    def script(body):
        if answers.asked.total() == good:
            error = {
                "message": "Incorrect API key provided",
                "type": "invalid_request_error",
                "code": "invalid_api_key",
            }
            return JSONResponse({"error": error}, 401)
        return answers(body)

    with judge_server(script) as (url, server):
        config = settings(url, concurrency=1)
        with pytest.raises(JudgeError, match=rf"{url}/ scripted: .*Incorrect API key") as told:
            execute(rating(store, config))
        assert "sk-test-secret" not in str(told.value)
        assert store.numbers("scores") == []
        assert server.books.requests == 4, "it is not asked on and on"
        good = 10**6
        plan = planned(store, lambda: rating(store, config))
        assert plan[0] == "13 calls to the judge; 1 judgements are known already", "of the other two the shard is done"
        run = execute(rating(store, config))
        assert run.done == 13
        assert list(server.books.delivered.values()) == [1] * 16, "nothing is paid twice"
    assert {row.outcome for row in scores_of(run.version)} == {"scored"}
