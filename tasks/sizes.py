"""The sizes of the pipeline: one complete configuration of all stages each."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field, model_validator

from tasks.build_realpref import BuildConfig
from tasks.calibrate_scorer import CalibrateConfig
from tasks.collect_cases import CollectConfig
from tasks.collect_labels import LabelConfig
from tasks.edit_baseline import EditConfig
from tasks.editing.settings import ClassicalEditorConfig, DiffusersModel, ModelEditorConfig
from tasks.encode_cases import EncodeConfig
from tasks.hp_scorer.settings import MeasuredConfig, Mode, ServerSettings, VlmConfig
from tasks.pick_triplets import PickConfig
from tasks.post_training.job import PostTrainConfig, Running
from tasks.rate_edits import RateConfig
from tasks.run_benchmark import BenchmarkConfig
from tasks.stage import StageConfig
from training import config as training
from training.editors.settings import DiffusersSettings

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
    evaluate: CalibrateConfig | None = Field(None, description="Of the judge of the benchmark, if it is another.")
    encode: EncodeConfig = EncodeConfig()
    train: PostTrainConfig
    benchmark: BenchmarkConfig

    @model_validator(mode="after")
    def _check_models(self) -> PipelineConfig:
        models = {"train": self.train.model, "encode": self.encode.model, "benchmark": self.benchmark.editor.model}
        if len({model.model_dump_json() for model in models.values()}) > 1:
            told = "; ".join(f"{stage}: {model.model_dump()}" for stage, model in models.items())
            raise ValueError(f"the model that is trained, that encodes and that is compared must be one, here {told}")
        return self


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


QWEN_IMAGE_EDIT_2509 = DiffusersModel(settings=DiffusersSettings(model="Qwen/Qwen-Image-Edit-2509"))
"""The paper's base [P], drawing at 512 x 512 after a condition no larger [ours]."""
QWEN3_VL_32B = VlmConfig(
    judge=ServerSettings(model="Qwen/Qwen3-VL-32B-Instruct", base_url="http://127.0.0.1:8000/v1"), mode=Mode.LOGIT
)
"""The paper's judge for filtering and as the reward [P], behind a server of one's own [ours]; the score is the mean
over the digits' probabilities [ours]: in whole points many groups would have no spread."""
GPT_4O = VlmConfig(judge=ServerSettings(model="gpt-4o-2024-11-20"), mode=Mode.COT)
"""The paper's judge for evaluation [P]; which snapshot is not stated. OpenAI retires it on 2027-01-14: `migrate-judge`
is for what comes after."""


PROCESSES = 8
"""Of training, one GPU each: a machine of eight [ours]. The 16 groups of an update are split over them evenly."""


def paper(seed: int = 0, processes: int = PROCESSES) -> PipelineConfig:
    """The paper's run. [P]: stated by it; [N]: by a reading note of it; [ours]: stated nowhere, our choice.

    Args:
        processes: of training, one GPU each. Raises: ValidationError where they cannot share the groups of an update.
    """
    editor = ModelEditorConfig(model=QWEN_IMAGE_EDIT_2509)  # 40 steps [ours], the model's own example
    return PipelineConfig(
        # RealPref-50K holds 55,795 cases [N] and RealPref-Bench 1,638, some 205 of each of eight edit types [N]. How
        # many were rated to get there is not stated; at a third left by the filter [ours] it takes 20,000 of each type.
        collect=CollectConfig(train_per_edit_type=20_000, bench_per_edit_type=205, bench_share=0.05, seed=seed),
        edit=EditConfig(editor=editor, seed=seed),
        # 50 to 100 triplets of each edit type [P], chosen out of 300 [ours], rated by five people [P].
        pick=PickConfig(
            per_edit_type=100,
            pool_per_edit_type=300,
            scorer=QWEN3_VL_32B.model_copy(update={"generic": True}),
            seed=seed,
        ),
        label=LabelConfig(raters="people"),
        calibrate=CalibrateConfig(scorer=QWEN3_VL_32B, seed=seed),
        evaluate=CalibrateConfig(scorer=GPT_4O, seed=seed),
        rate=RateConfig(scorer=QWEN3_VL_32B),
        build=BuildConfig(),  # full scores are dropped [P]
        encode=EncodeConfig(model=QWEN_IMAGE_EDIT_2509),
        train=PostTrainConfig(
            model=QWEN_IMAGE_EDIT_2509,
            scorer=QWEN3_VL_32B,
            grpo=replace(training.paper(), seed=seed),
            # Without, the activations of 16 samples at three steps take several GPUs' memory.
            running=Running(processes=processes, activation_checkpointing=True),
        ),
        benchmark=BenchmarkConfig(editor=editor, scorer=GPT_4O, referee=False, seed=seed + 1),
    )


def photographs(seed: int = 0) -> DataConfig:
    """The data side on real photographs: a classical editor, and the stand-in judge without a recogniser."""
    return DataConfig(
        collect=CollectConfig(train_per_edit_type=40, bench_per_edit_type=10, cases_per_image=8, seed=seed),
        edit=EditConfig(seed=seed, editor=ClassicalEditorConfig()),
        rate=RateConfig(scorer=MeasuredConfig(knows="nothing")),
        build=BuildConfig(),
    )
