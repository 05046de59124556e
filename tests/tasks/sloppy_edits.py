"""Edits of every quality, for the tests of calibration: an editor that works now carefully and now not."""

import numpy as np

from storage.records import EditType, identity
from tasks.editing.interface import EditFailure
from tasks.miniature.scenes import make_scene, render, to_bytes
from tasks.miniature.sloppiness import KINDS, render_sloppy

STRENGTHS = (0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class SloppyEditor:
    """Knows the scenes of a miniature world, and what each edit should be; how it comes out is drawn from the case."""

    def __init__(self, world_seed, count, edit_types=tuple(EditType)):
        """Of the scenes 0 to count - 1 of a world; other edit types than those given it refuses."""
        scenes = [make_scene(world_seed, index) for index in range(count)]
        self.scenes = {to_bytes(render(scene)).tobytes(): scene for scene in scenes}
        self.edit_types = edit_types
        self.fingerprint = identity("sloppy", world_seed, edit_types)
        self.asked = []

    def edit(self, tasks):
        self.asked += [task.case_id for task in tasks]
        return [self._edited(task) if task.edit_type in self.edit_types else EditFailure("would not") for task in tasks]

    def _edited(self, task):
        chance = np.random.default_rng(int(identity("sloppy", task.case_id), 16))
        if chance.uniform() < 0.1:
            return task.source
        kind, strength = chance.choice(KINDS[task.edit_type]), chance.choice(STRENGTHS)
        scene = self.scenes[task.source.tobytes()]
        return to_bytes(render_sloppy(scene, task.edit_type, task.request, str(kind), float(strength)))
