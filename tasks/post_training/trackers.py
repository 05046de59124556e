"""Metrics and pictures of a training, for those who watch: TensorBoard's files always, W&B or trackio where wanted.

Libraries do the work. Not accelerate's trackers: they log through a logger that raises until accelerate has set up
its own idea of the processes, and the one for trackio takes no pictures.

A run that goes on after a kill does some steps again, to the same numbers. TensorBoard is told to forget what came
after; the services, which cannot, are not told those steps twice.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.images import decode

logger = logging.getLogger(__name__)

Kind = Literal["wandb", "trackio"]
PROJECT = "hp-edit"
Picture = NDArray[np.uint8] | bytes
"""(H, W, 3), or an image file."""
_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|credentials?|authorization)$")
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


class _Backend(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def images(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """Tells every tracker. None of them can stop a training: the first error of each is logged, and it goes on."""

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[Kind] = (),
        name: str = "",
        first_step: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin, or go on.

        Args:
            folder: of TensorBoard's files and of what is remembered of the services; the run's own. Beside it W&B puts
                a folder of its own.
            name: of the run, for people.
            first_step: the first that will be logged; steps from it on that were logged before are done again.
            settings: of the run, for the services to show. Values of keys and passwords are left out.

        Raises: ValueError where the package of a configured tracker is missing.
        """
        for kind in kinds:
            check_installed(kind)
        folder.mkdir(parents=True, exist_ok=True)
        memory = _Memory(folder / "trackers.json")
        self._warned: set[str] = set()
        self._backends: dict[str, _Backend] = {}
        self._guard("tensorboard", self._begin, "tensorboard", partial(_TensorBoard, folder, first_step))
        for kind in kinds:
            told = without_secrets(settings or {})
            self._guard(kind, self._begin, kind, partial(_Service, kind, name, memory, folder.parent, told))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; a slash in a name makes groups."""
        for kind, backend in self._backends.items():
            self._guard(kind, backend.log, step, values)

    def images(self, step: int, pictures: Mapping[str, Picture]) -> None:
        """Pictures of a step, by name."""
        for kind, backend in self._backends.items():
            self._guard(kind, _show, backend, step, pictures)

    def close(self) -> None:
        """Write out what is waiting."""
        for kind, backend in self._backends.items():
            self._guard(kind, backend.close)
        self._backends.clear()

    def _begin(self, kind: str, make: Callable[[], _Backend]) -> None:
        self._backends[kind] = make()

    def _guard(self, kind: str, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:  # whatever a service, its network or a full disk do: the training is worth more
            if kind not in self._warned:
                self._warned.add(kind)
                logger.warning("%s does not get everything; training goes on without: %r", kind, error)


def check_installed(kind: Kind) -> None:
    """Raises: ValueError that says how to install it, where a tracker's package is missing."""
    if importlib.util.find_spec(kind) is None:
        raise ValueError(f"the tracker {kind} is not installed: `pip install {kind}`, or take it off the trackers")


class _TensorBoard:
    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imports torch, which readers of this module may lack

        self.writer = SummaryWriter(folder, purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # somebody is watching, and the process may be killed

    def images(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        for name, picture in pictures.items():
            self.writer.add_image(name, picture, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _Service:
    """W&B, or trackio, which has the same functions."""

    def __init__(self, kind: Kind, name: str, memory: _Memory, folder: Path, settings: Mapping[str, Any]) -> None:
        self.kind, self.memory = kind, memory
        self.package = importlib.import_module(kind)
        self.told = memory.last_step(kind)
        """Steps up to this one were logged before this process began."""
        # trackio finds a run again by its name, W&B by its id.
        known: dict[str, Any] = {"name": f"{name} {memory.run_id}"} if kind == "trackio" else {}
        if kind == "wandb":
            known = {"name": name, "id": memory.run_id, "dir": str(folder)}
        self.run = self.package.init(project=PROJECT, resume="allow", config=dict(settings), **known)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self.told:
            self.run.log(dict(values), step=step)
            self.memory.remember(self.kind, step)

    def images(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        if step > self.told:
            self.run.log({name: self.package.Image(picture) for name, picture in pictures.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


class _Memory:
    """What a later process must know of this one: under which id the run is known, and up to which step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        state = json.loads(path.read_text()) if path.exists() else {}
        self.run_id: str = state.get("run_id") or uuid.uuid4().hex[:12]
        self.steps: dict[str, int] = state.get("steps", {})

    def last_step(self, kind: str) -> int:
        """-1 where there is none."""
        return self.steps.get(kind, -1)

    def remember(self, kind: str, step: int) -> None:
        self.steps[kind] = max(step, self.last_step(kind))
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"run_id": self.run_id, "steps": self.steps}))
        unfinished.replace(self.path)


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the values that look like secrets: by their names, and users and passwords in addresses."""
    return {
        str(name): "(left out)" if value and _SECRET.search(str(name).lower()) else _cleaned(value)
        for name, value in settings.items()
    }


def _cleaned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_secrets(value)
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return _USER_IN_ADDRESS.sub("", value) if isinstance(value, str) else value


def _show(backend: _Backend, step: int, pictures: Mapping[str, Picture]) -> None:
    pixels = {name: decode(picture) if isinstance(picture, bytes) else picture for name, picture in pictures.items()}
    backend.images(step, pixels)
