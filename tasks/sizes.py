"""The sizes of the pipeline: one complete configuration of all stages each."""

from __future__ import annotations

from dataclasses import replace

from tasks.build_realpref import BuildConfig
from tasks.calibrate_scorer import CalibrateConfig
from tasks.collect_cases import CollectConfig
from tasks.collect_labels import LabelConfig
from tasks.edit_baseline import EditConfig
from tasks.editing.catalogue import EditorConfig
from tasks.hp_scorer.settings import MeasuredConfig
from tasks.pick_triplets import PickConfig
from tasks.post_training.job import PostTrainConfig
from tasks.rate_edits import RateConfig
from tasks.run_benchmark import BenchmarkConfig
from tasks.stage import StageConfig
from training import config as training

CONTINUOUS = MeasuredConfig(mode="continuous")
"""In whole points, as in the paper, a third of the groups has eight equal rewards and teaches nothing."""


GENERIC = MeasuredConfig(mode="continuous", generic=True)
"""Asked by general criteria alone."""


class DataConfig(StageConfig):
    """The configuration of the data side."""

    collect: CollectConfig
    edit: EditConfig
    rate: RateConfig
    build: BuildConfig


class PipelineConfig(DataConfig):
    """The configuration of every stage."""

    pick: PickConfig
    label: LabelConfig
    calibrate: CalibrateConfig
    train: PostTrainConfig
    benchmark: BenchmarkConfig


def miniature_data(seed: int = 0) -> DataConfig:
    """The data side of the miniature."""
    return DataConfig(
        collect=CollectConfig(train_per_edit_type=200, bench_per_edit_type=60, cases_per_image=2, seed=seed),
        edit=EditConfig(seed=seed),
        rate=RateConfig(scorer=CONTINUOUS),
        build=BuildConfig(),
    )


def miniature(seed: int = 0, iterations: int = training.MINIATURE_ITERATIONS, people: bool = False) -> PipelineConfig:
    """The default run, minutes on two cores: everything really happens, on procedural scenes.

    Args:
        people: whether people rated the triplets; else simulated raters do.
    """
    return PipelineConfig(
        **dict(miniature_data(seed)),
        pick=PickConfig(per_edit_type=100, pool_per_edit_type=200, scorer=GENERIC, seed=seed),
        label=LabelConfig(raters="people" if people else "simulated", seed=seed),
        calibrate=CalibrateConfig(scorer=CONTINUOUS, seed=seed),
        train=PostTrainConfig(scorer=CONTINUOUS, grpo=replace(training.miniature(iterations), seed=seed)),
        # Other noise than the edits that were rated and filtered.
        benchmark=BenchmarkConfig(scorer=CONTINUOUS, seed=seed + 1),
    )


def photographs(seed: int = 0) -> DataConfig:
    """The data side on real photographs: a classical editor, and the stand-in judge without a recogniser."""
    return DataConfig(
        collect=CollectConfig(train_per_edit_type=40, bench_per_edit_type=10, cases_per_image=8, seed=seed),
        edit=EditConfig(seed=seed, editor=EditorConfig(kind="classical")),
        rate=RateConfig(scorer=MeasuredConfig(knows="nothing")),
        build=BuildConfig(),
    )
