"""How much of a judge's server the client uses, and what becomes of edits when it fails: `python -m perf.rating`.

A local server behind the real OpenAI protocol answers a known number of requests a second, each after a latency, and
refuses what waits too long (429). HP-Scorer rates edits of 512 x 512 pixels through it. `capacity_used` is the rate of
good answers, from the first request to the last answer, over the server's. Then the server spoils 30 % of the requests
in every way (429, 500, hang, reset, garbage): `unaccounted` edits ended neither as scored nor as a typed failure, and
`paid_twice` ones got two good answers. The judge is scripted: it rates nothing, it answers. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter

import numpy as np

from perf.judge_server import JudgeServer, judge_server
from storage.records import EditType, Request
from tasks.hp_scorer.catalogue import rubrics_of
from tasks.hp_scorer.contract import EditTriplet, Judgement, Outcome
from tasks.hp_scorer.settings import Mode, ServerSettings, VlmConfig
from tasks.hp_scorer.vlm_scorer import VlmScorer

SIDE = 512


def make_triplets(count: int) -> list[EditTriplet]:
    """Edits that are all different, of noise: a compressed size like that of photographs, at the upper end."""
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.ones((SIDE, SIDE), bool)

    def triplet(number: int) -> EditTriplet:
        edited = source.copy()
        edited[:64, :64] = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        return EditTriplet(
            case_id=str(number),
            edit_type=EditType.REMOVAL,
            instruction="remove the cup",
            request=Request(),
            category="cup",
            source=source,
            mask=mask,
            edited=edited,
        )

    return [triplet(number) for number in range(count)]


def rate(url: str, triplets: list[EditTriplet], concurrency: int, timeout: float, tries: int) -> list[Judgement]:
    """Rate through a server."""
    server = ServerSettings(
        base_url=url, model="scripted", concurrency=concurrency, timeout_seconds=timeout, tries=tries
    )
    config = VlmConfig(judge=server, mode=Mode.LOGIT, image_side=SIDE, image_quality=90)
    return VlmScorer(config, rubrics_of(config)).score(triplets)


def used(server: JudgeServer, per_second: float) -> float:
    """The share of a server's capacity that gave good answers."""
    books = server.books
    return sum(books.delivered.values()) / (books.last - books.first) / per_second


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=600, help="in each of the two runs (%(default)s)")
    parser.add_argument("--per-second", type=float, default=25.0, help="what the server can (%(default)s)")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds (%(default)s)")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "none-needed")
    triplets = make_triplets(arguments.edits)
    with judge_server(
        lambda body: "4", per_second=arguments.per_second, latency_seconds=arguments.latency, queue=32
    ) as (url, server):
        judgements = rate(url, triplets, concurrency=128, timeout=30.0, tries=12)
        refused = server.books.requests - sum(server.books.delivered.values())
        figures = {
            "capacity_used": round(used(server, arguments.per_second), 4),
            "capacity_per_second": arguments.per_second,
            "latency_seconds": arguments.latency,
            "image_pixels": SIDE,
            "edits": arguments.edits,
            "scored": sum(one.outcome is Outcome.SCORED for one in judgements),
            "requests_refused": refused,
        }
    print(figures, flush=True)
    with judge_server(
        lambda body: "4", per_second=10 * arguments.per_second, latency_seconds=0.05, queue=256, faults=0.3
    ) as (url, server):
        judgements = rate(url, triplets, concurrency=32, timeout=2.0, tries=8)
        outcomes = Counter(one.outcome.value for one in judgements)
        figures |= {
            "faults": sum(server.books.faults.values()),
            "fault_kinds": dict(sorted(server.books.faults.items())),
            "outcomes": dict(sorted(outcomes.items())),
            "unaccounted": len(triplets) - sum(outcomes.values()),
            "paid_twice": sum(count - 1 for count in server.books.delivered.values()),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
