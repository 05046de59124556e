"""Whether calibration finds the useful questions, and what it brings: `python -m perf.calibration --seeds 10`.

On the miniature, for every seed anew: cases of the training split, edited by the baseline; triplets picked among them;
*simulated* raters, who are noisy and biased views of the referee with tastes that no question asks about; and a
*scripted* judge behind the OpenAI protocol, which reads the questions from the prompt that it receives over HTTP and
answers them from measurements. Its question bank holds useful questions, useless ones (every edit is answered alike)
and harmful ones (the answer has nothing to do with the edit). The calibration is the product's own, all of it.

`agreement_rose`: in how many seeds the whole 95 % interval of the held-out improvement, general criteria to calibrated
judge, lies above zero. `kept_useful`, `kept_useless`, `kept_harmful`: questions in the eight rubrics, means over the
seeds. None of it says anything about people. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from perf.judge_server import judge_server
from perf.measuring_judge import MeasuringJudge
from storage.records import Case, Edit
from storage.schemas import from_table
from storage.store import Store, Version
from tasks.calibrate_scorer import CalibrateConfig, CalibrateScorer
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.collect_labels import CollectLabels, LabelConfig
from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.hp_scorer.contract import EditTriplet
from tasks.hp_scorer.distractors import HARMFUL, USELESS
from tasks.hp_scorer.question_bank import stand_in_bank
from tasks.hp_scorer.settings import Mode, Price, ServerSettings, VlmConfig
from tasks.miniature.coco import write_coco
from tasks.pick_triplets import PickConfig, PickTriplets
from tasks.rate_edits import triplet_of
from tasks.stage import execute

_KINDS = {q.name: "useless" for q in USELESS} | {q.name: "harmful" for q in HARMFUL}


def calibrate(folder: Path, seed: int, per_edit_type: int, raters: int) -> dict[str, Any]:
    """One seed, from an empty store to a calibrated judge."""
    store = Store(str(folder / f"store-{seed}"))
    drawn = per_edit_type * 6 // 5
    world = write_coco(folder, seed, 12 * drawn)
    collect = CollectConfig(train_per_edit_type=drawn, bench_per_edit_type=2, cases_per_image=2, seed=seed)
    cases = execute(CollectCases(store, collect, world)).version
    edits = execute(EditBaseline(store, EditConfig(seed=seed), cases)).version
    judge = MeasuringJudge()
    for of_cases, of_edits in zip(cases.parts("train"), edits.parts("edits"), strict=True):
        pairs = list(zip(from_table(of_cases, Case), from_table(of_edits, Edit), strict=True))
        judge.tell(triplet_of(case, edit) for case, edit in pairs)
        # The probe that swaps source and edit.
        judge.tell(_swapped(case, edit) for case, edit in pairs if edit.edited)
    with judge_server(judge) as (url, server):
        settings = ServerSettings(base_url=url, model="scripted", price=Price(prompt=0, completion=0))
        scorer = VlmConfig(judge=settings, mode=Mode.LOGIT, image_side=64)
        generic = scorer.model_copy(update={"generic": True})
        pick = PickConfig(per_edit_type=per_edit_type, pool_per_edit_type=drawn, scorer=generic, seed=seed)
        triplets = execute(PickTriplets(store, pick, edits)).version
        label = LabelConfig(raters="simulated", simulated=raters, seed=seed)
        labels = execute(CollectLabels(store, label, triplets)).version
        config = CalibrateConfig(scorer=scorer, bank=dict(stand_in_bank()), seed=seed)
        found = summary(execute(CalibrateScorer(store, config, labels)).version)
        return {"seed": seed, **found, "requests": server.books.requests}


def _swapped(case: Case, edit: Edit) -> EditTriplet:
    triplet = triplet_of(case, edit)
    assert triplet.edited is not None
    return replace(triplet, source=triplet.edited)


def summary(scorer: Version) -> dict[str, Any]:
    """What a calibration came to."""
    statistics = scorer.manifest.statistics
    kept = Counter(_KINDS.get(text, "useful") for texts in statistics["questions"].values() for text in texts)
    held_out, improvement = statistics["held_out"], statistics["improvement"]
    return {
        "kept": {kind: kept[kind] for kind in ("useful", "useless", "harmful")},
        "pearson": {judge: held_out[judge]["pearson"][0] for judge in held_out},
        "mae": {judge: held_out[judge]["mae"][0] for judge in held_out},
        "people": statistics["people"]["pearson"][0],
        "improvement": [improvement[name] for name in ("difference", "low", "high")],
        "badge": statistics["badge"],
        "probes_failed": statistics["probes_failed"],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--per-edit-type", type=int, default=100, help="triplets that are rated (%(default)s)")
    parser.add_argument("--raters", type=int, default=3, help="simulated ones (%(default)s)")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "none")
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            runs.append(calibrate(Path(folder), seed, arguments.per_edit_type, arguments.raters))
            print(json.dumps(runs[-1]), flush=True)
    offered = Counter(_KINDS.get(q.text, "useful") for questions in stand_in_bank().values() for q in questions)
    told = {
        "judge": "scripted",
        "raters": "simulated",
        "seeds": len(runs),
        "agreement_rose": sum(run["improvement"][1] > 0 for run in runs),
        **{f"kept_{kind}": fmean(run["kept"][kind] for run in runs) for kind in ("useful", "useless", "harmful")},
        **{f"offered_{kind}": offered[kind] for kind in ("useful", "useless", "harmful")},
        **{f"pearson_{j}": round(fmean(run["pearson"][j] for run in runs), 3) for j in runs[0]["pearson"]},
        **{f"mae_{j}": round(fmean(run["mae"][j] for run in runs), 3) for j in runs[0]["mae"]},
        "pearson_between_raters": round(fmean(run["people"] for run in runs), 3),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
