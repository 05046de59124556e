"""Flow collect-cases."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from tasks.arguments import file_argument
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.miniature.coco import write_coco
from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments


class Source(BaseModel):
    """Where the images come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str | None = Field(
        None, description="A folder with images/ and annotations/instances.json; none: the miniature world."
    )
    world: int = Field(0, description="The miniature world's seed.")
    scenes: int = Field(1600, ge=1, description="How many scenes of the miniature world.")

    def prepare(self, scratch: str) -> Path:
        """The folder, made first where it is the miniature world's."""
        if self.folder is not None:
            return Path(self.folder)
        return write_coco(Path(scratch), self.world, self.scenes)


def photographs_argument(text: str) -> str:
    """The type of an argument that is a folder of photographs."""
    file_argument(str(Path(text) / "annotations" / "instances.json"))
    return text


@flow(name="collect-cases", flow_run_name="collect-cases")
def collect_cases(
    source: Source = Source(), config: CollectConfig = CollectConfig(), options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Make cases from annotated images: balanced over categories and edit types, train and bench apart."""
    return run_stage(CollectCases(options.open_store(), config, source.prepare(options.scratch)), options)


if __name__ == "__main__":
    _, config, options = version_arguments(__doc__, CollectConfig())
    collect_cases(config=config, options=options)
