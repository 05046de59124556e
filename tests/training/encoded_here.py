"""Conditions without an artifact: a real editor encodes them when they are first asked for."""

from collections.abc import Sequence

import torch

from training.editors.interface import Condition, Pixels, TrainableEditor


class EncodedHere:
    """Conditions that the editor encodes when they are first asked for."""

    def __init__(self, editor: TrainableEditor, cases: dict[str, tuple[Pixels, str]]) -> None:
        """Of sources and instructions by case."""
        self.editor = editor
        self.cases = cases
        self._encoded: dict[str, Condition] = {}

    def __call__(self, case_ids: Sequence[str]) -> list[Condition]:
        for case_id in case_ids:
            if case_id not in self._encoded:
                source, instruction = self.cases[case_id]
                with torch.no_grad():
                    self._encoded[case_id] = self.editor.encode([source], [instruction])
        return [self._encoded[case_id] for case_id in case_ids]
