"""An editor and a judge that cost nothing and count what they do: stand-ins, to test what the stages spend."""

from functools import cached_property

import numpy as np

from storage.records import EditType, identity
from tasks.edit_baseline import EditBaseline
from tasks.editing.interface import EditFailure
from tasks.hp_scorer.contract import Judgement, Outcome, Scorer, WhoJudges
from tasks.rate_edits import RateEdits


class CountingEditor:
    """Turns colours around, and remembers for which cases it was asked."""

    fingerprint = "turns-colours"

    def __init__(self, fails=()):
        self.asked, self.fails = [], set(fails)

    def edit(self, tasks):
        self.asked += [task.case_id for task in tasks]
        return [EditFailure("would not") if t.case_id in self.fails else 255 - t.source for t in tasks]


class CountingJudge(Scorer):
    """Scores by chance, from the content, and remembers what it was asked; rubrics are versions by edit type."""

    full_at = 5.0
    who = WhoJudges("chance", "", {})

    def __init__(self, rubrics=None, dies_after=None, always=None):
        self.rubrics = rubrics or {}
        self.dies_after, self.always = dies_after, always
        self.asked = []

    def fingerprint_of(self, edit_type):
        return identity("chance", edit_type, self.rubrics.get(edit_type, 1))

    @property
    def fingerprint(self):
        return identity(*(self.fingerprint_of(edit_type) for edit_type in EditType))

    def judgements(self, triplets, attempt=0):
        return ((position, self._judge(triplet)) for position, triplet in enumerate(triplets))

    def _judge(self, triplet):
        if triplet.edited is None:
            return Judgement(outcome=Outcome.IMAGE_ERROR, score=None)
        self.asked.append(triplet.case_id)
        if self.dies_after is not None and len(self.asked) > self.dies_after:
            return Judgement(outcome=Outcome.TIMEOUT, score=None, raw_reply="no answer")
        if self.always is not None:
            return Judgement(outcome=Outcome.SCORED, score=self.always)
        key = int(identity(triplet.case_id, self.fingerprint_of(triplet.edit_type)), 16)
        return Judgement(outcome=Outcome.SCORED, score=float(np.random.default_rng(key).integers(0, 6)))


class CountedEdits(EditBaseline):
    """The real stage with a stand-in for its editor."""

    def __init__(self, store, config, cases, editor=None):
        super().__init__(store, config, cases)
        self.stand_in = editor or CountingEditor()

    @cached_property
    def editor(self):
        return self.stand_in

    @cached_property
    def fingerprint(self):
        return self.stand_in.fingerprint


class CountedScores(RateEdits):
    """The real stage with a stand-in for its judge."""

    def __init__(self, store, config, edits, judge=None):
        super().__init__(store, config, edits)
        self.stand_in = judge or CountingJudge()

    @cached_property
    def scorer(self):
        return self.stand_in
