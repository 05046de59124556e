"""The sizes of the pipeline: one complete configuration of all stages each."""

from __future__ import annotations

from dataclasses import replace

from tasks.build_realpref import BuildConfig
from tasks.collect_cases import CollectConfig
from tasks.edit_baseline import EditConfig
from tasks.editing.catalogue import EditorConfig
from tasks.hp_scorer.catalogue import ScorerConfig
from tasks.post_training.job import PostTrainConfig
from tasks.rate_edits import RateConfig
from tasks.run_benchmark import BenchmarkConfig
from tasks.stage import StageConfig
from training import config as training


class PipelineConfig(StageConfig):
    """The configuration of every stage."""

    collect: CollectConfig
    edit: EditConfig
    rate: RateConfig
    build: BuildConfig
    train: PostTrainConfig
    benchmark: BenchmarkConfig


def miniature(seed: int = 0, iterations: int = 100) -> PipelineConfig:
    """The default run, minutes on two cores: everything really happens, on procedural scenes."""
    scorer = ScorerConfig()
    return PipelineConfig(
        collect=CollectConfig(train_per_edit_type=200, bench_per_edit_type=60, cases_per_image=2, seed=seed),
        edit=EditConfig(seed=seed),
        rate=RateConfig(scorer=scorer),
        build=BuildConfig(),
        train=PostTrainConfig(scorer=scorer, grpo=replace(training.miniature(iterations), seed=seed)),
        benchmark=BenchmarkConfig(scorer=scorer, seed=seed + 1),
    )


def photographs(seed: int = 0) -> PipelineConfig:
    """The data side on real photographs: a classical editor, the stand-in judge without a recogniser."""
    scorer = ScorerConfig(knows="nothing")
    return miniature(seed).model_copy(
        update={
            "collect": CollectConfig(train_per_edit_type=40, bench_per_edit_type=10, cases_per_image=8, seed=seed),
            "edit": EditConfig(seed=seed, editor=EditorConfig(kind="classical")),
            "rate": RateConfig(scorer=scorer),
        }
    )
