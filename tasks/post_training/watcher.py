"""What a training leaves behind for people while it goes on: metrics, pictures, and word to the trackers."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import psutil

from tasks.images import contact_sheet
from tasks.post_training.job import Job
from tasks.post_training.reading import write_whole
from tasks.post_training.score_journal import ScoreJournal
from tasks.post_training.sources import TrainingSources
from tasks.post_training.trackers import Trackers
from training.loop import Iteration
from training.state import History

logger = logging.getLogger(__name__)


class Watcher:
    """Writes down what each iteration has to show."""

    def __init__(
        self,
        job: Job,
        sources: TrainingSources,
        journal: ScoreJournal,
        history: History,
        ordered_by: psutil.Process | None,
    ) -> None:
        """Of a run that goes on after `history`, the metrics of the iterations that its checkpoint knows.

        Args:
            journal: of the reward.
            ordered_by: the process that ordered the training; None: nobody has to wait for it.
        """
        self.job = job
        self.sources = sources
        self.journal = journal
        self.stop = threading.Event()
        """Set where the run is to be saved and to stop after the running iteration."""
        signal.signal(signal.SIGTERM, lambda *_: self.stop.set())
        self.ordered_by = ordered_by
        # Iterations after the checkpoint are done again, so the lines are those of the checkpoint.
        job.metrics.write_text("".join(_line(row) + "\n" for row in history))
        settings = job.config.model_dump(mode="json")
        self.trackers = Trackers(job.tensorboard, job.config.running.trackers, job.name, len(history), settings)

    def __call__(self, iteration: Iteration) -> bool:
        """Returns: whether the run is to stop."""
        metrics, step = iteration.metrics, iteration.metrics.iteration
        outcomes = self.journal.take_outcomes()
        with self.job.metrics.open("a") as file:
            file.write(_line(asdict(metrics) | {"outcomes": outcomes}) + "\n")
        self.trackers.log(step, dict(_flat(asdict(metrics) | {"outcomes": outcomes})))
        if step % self.job.config.running.pictures_every == 0:
            sheet = self._sheet(iteration)
            write_whole(self.job.pictures, sheet)
            self.trackers.images(step, {"samples": sheet})
        if self.ordered_by is not None and not self.ordered_by.is_running():
            logger.warning("the process that ordered this training is gone: it stops, and the next one goes on")
            self.stop.set()
        return self.stop.is_set()

    def close(self) -> None:
        """Write out what the trackers still hold."""
        self.trackers.close()

    def _sheet(self, iteration: Iteration) -> bytes:
        """The source and its samples, with their scores."""
        group = iteration.groups[0]
        triplet = self.sources[group.case_id]
        scores = " ".join("-" if math.isnan(score) else f"{score:.1f}" for score in group.scores)
        title = f"iteration {iteration.metrics.iteration}: {triplet.instruction} ({scores})"
        return contact_sheet([(title, [triplet.source, *iteration.pictures])])


def _line(row: dict[str, Any]) -> str:
    """As JSON that every reader takes: what is not there is null."""
    return json.dumps(_without_nan(row))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inside) for name, inside in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: dict[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}/")
        elif math.isfinite(value):
            yield f"{before}{name}", float(value)
