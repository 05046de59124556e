"""Trackers: what is written can be read, steps done again are not seen twice, and none of it stops a training."""

import importlib
import logging
import resource
import signal
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.images import png
from tasks.post_training.trackers import Trackers, check_installed, without_secrets

STAND_IN = '''
"""W&B's functions, kept in memory: a package that is really imported."""
runs = []
broken = False

class Image:
    def __init__(self, value):
        self.shape = value.shape

class Run:
    def __init__(self, **known):
        self.known, self.rows, self.finished = known, [], False
    def log(self, values, step):
        if broken:
            raise ConnectionError("no route to host")
        self.rows.append((step, values))
    def finish(self):
        self.finished = True

def init(**known):
    if broken:
        raise ConnectionError("no route to host")
    runs.append(Run(**known))
    return runs[-1]
'''


@pytest.fixture(params=["wandb", "trackio"])
def service(request, tmp_path, monkeypatch):
    """A package of the name, with the functions that both have."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / f"{request.param}.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(packages)
    importlib.invalidate_caches()
    yield importlib.import_module(request.param)
    del sys.modules[request.param]


def read(folder):
    """As TensorBoard reads it."""
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def shown(folder, name):
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def test_numbers_and_pictures_are_in_tensorboards_files(tmp_path):
    trackers = Trackers(tmp_path / "tensorboard")
    trackers.log(0, {"score": 2.5, "by_edit_type/swap": 1.5})
    picture = np.zeros((8, 12, 3), np.uint8)
    trackers.images(0, {"samples": picture, "sheet": png(picture)})
    trackers.close()
    assert shown(tmp_path / "tensorboard", "score") == [(0, 2.5)]
    assert shown(tmp_path / "tensorboard", "by_edit_type/swap") == [(0, 1.5)]
    for name in ("samples", "sheet"):
        (image,) = read(tmp_path / "tensorboard").Images(name)
        assert (image.step, image.height, image.width) == (0, 8, 12)


def test_numbers_are_on_the_disk_at_once(tmp_path):
    """A training is killed, not closed."""
    trackers = Trackers(tmp_path)
    trackers.log(3, {"score": 1.0})
    assert shown(tmp_path, "score") == [(3, 1.0)]
    trackers.close()


def test_steps_that_are_done_again_are_shown_once(tmp_path):
    """Killed after step 5, continued from the checkpoint before step 4, all within one second."""
    for steps in (range(6), range(4, 8)):
        trackers = Trackers(tmp_path, first_step=steps[0])
        for step in steps:
            trackers.log(step, {"score": step + steps[0]})
        trackers.close()
    assert len(list(tmp_path.glob("events.*"))) == 2, "the second must not write over the first"
    assert shown(tmp_path, "score") == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 8), (5, 9), (6, 10), (7, 11)]


def test_a_service_is_told_everything_once(tmp_path, service):
    kind = service.__name__
    for steps in (range(6), range(4, 8)):
        trackers = Trackers(tmp_path / "tensorboard", (kind,), "tiny on realpref@v1", steps[0], {"rate": 0.1})
        for step in steps:
            trackers.log(step, {"score": step})
            trackers.images(step, {"samples": np.zeros((4, 6, 3), np.uint8)})
        trackers.close()
    first, second = service.runs
    assert first.finished
    assert second.finished
    assert first.known == second.known, "the same run goes on"
    assert first.known["project"] == "hp-edit"
    assert first.known["config"] == {"rate": 0.1}
    assert first.known["resume"] == "allow"
    assert "tiny on realpref@v1" in first.known["name"]
    for what, of in (("score", lambda value: value), ("samples", lambda image: image.shape)):
        told = [(step, of(values[what])) for run in (first, second) for step, values in run.rows if what in values]
        assert told == [(step, step if what == "score" else (4, 6, 3)) for step in range(8)]


def test_another_run_is_another_run(tmp_path, service):
    kind = service.__name__
    for name in ("a", "b"):
        trackers = Trackers(tmp_path / name / "tensorboard", (kind,), "same name")
        trackers.log(0, {"score": 1.0})
        trackers.close()
    first, second = (run.known for run in service.runs)
    assert first != second
    assert [len(run.rows) for run in service.runs] == [1, 1]


def test_a_service_that_fails_is_logged_once_and_stops_nothing(tmp_path, service, caplog):
    kind = service.__name__
    trackers = Trackers(tmp_path, (kind,), "run")
    service.broken = True
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            trackers.log(step, {"score": 1.0})
        service.broken = False
        trackers.log(5, {"score": 2.0})
        trackers.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"{kind} does not get everything; training goes on without: ConnectionError('no route to host')"
    ]
    assert service.runs[0].rows == [(5, {"score": 2.0})]
    assert len(shown(tmp_path, "score")) == 6, "the others get everything"


def test_a_service_that_cannot_even_begin_stops_nothing(tmp_path, service, caplog):
    service.broken = True
    trackers = Trackers(tmp_path, (service.__name__,), "run")
    trackers.log(0, {"score": 1.0})
    trackers.close()
    assert len(caplog.records) == 1
    assert shown(tmp_path, "score") == [(0, 1.0)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the writer's thread
@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are made as on Linux")
def test_a_full_disk_stops_nothing(tmp_path, caplog):
    """tensorboardX blocked for good here, which is why it is not used."""
    trackers = Trackers(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        for step in range(50):
            trackers.images(step, {"samples": np.random.default_rng(step).integers(0, 256, (64, 64, 3), np.uint8)})
        trackers.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    (record,) = caplog.records
    assert "tensorboard does not get everything" in record.getMessage()


def test_a_tracker_that_is_not_installed_is_said_before_anything_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="the tracker wandb is not installed: `pip install wandb`"):
        check_installed("wandb")
    with pytest.raises(ValueError, match="trackio"):
        Trackers(tmp_path / "run", ("trackio",), "run")
    assert not (tmp_path / "run").exists()


def test_no_secret_leaves():
    settings = {
        "rate": 0.1,
        "api_key": "sk-1",
        "judge": {"hf_token": "hf-1", "max_text_tokens": 512, "token_size": 16, "url": "https://me:pw@host/v1"},
        "stores": ["s3://bucket/x", {"secret": "s", "password": None}],
        "lora_targets": ("to_q", "to_k"),
    }
    assert without_secrets(settings) == {
        "rate": 0.1,
        "api_key": "(left out)",
        "judge": {"hf_token": "(left out)", "max_text_tokens": 512, "token_size": 16, "url": "https://host/v1"},
        "stores": ["s3://bucket/x", {"secret": "(left out)", "password": None}],
        "lora_targets": ["to_q", "to_k"],
    }
