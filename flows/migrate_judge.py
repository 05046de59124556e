"""Flow migrate-judge: a calibration for another judge, before the old one is gone.

`python -m flows.migrate_judge scorer@latest --old-config OLD.json --new-config NEW.json`; each file holds the settings
of a judge, such as `{"kind": "vlm", "mode": "logit", "judge": {"where": "server", "model": "gpt-4o-2024-11-20"}}`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prefect import flow
from pydantic import TypeAdapter, ValidationError

from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig, VlmConfig
from tasks.migrate_judge import MigrateConfig, MigrateJudge
from tasks.prefect_stage import ArtifactRef, RunOptions, add_run_options, run_options, run_stage
from tasks.sizes import CONTINUOUS


@flow(name="migrate-judge", flow_run_name="migrate-judge")
def migrate_judge(
    scorer: str = "scorer@latest",
    triplets: str = "",
    config: MigrateConfig = MigrateConfig(old=CONTINUOUS, scorer=MeasuredConfig()),
    options: RunOptions = RunOptions(),
) -> ArtifactRef:
    """Bring another judge onto the scale of the one that was calibrated, and report what that changes.

    Both score the same triplets: those that people rated, unless others are named.
    """
    store = options.open_store()
    named = store.resolve(triplets) if triplets else None
    return run_stage(MigrateJudge(store, config, store.resolve(scorer), named), options)


def read_judge(path: Path) -> MeasuredConfig | VlmConfig:
    """A judge's settings from a JSON file. Raises: ValueError that names the file."""
    judges: TypeAdapter[MeasuredConfig | VlmConfig] = TypeAdapter(ScorerConfig)
    try:
        return judges.validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {error}") from error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scorer", nargs="?", default="scorer@latest", help="a version for the old judge (%(default)s)")
    parser.add_argument("--triplets", default="", help="a version (those that people rated)")
    parser.add_argument("--old-config", required=True, type=Path, metavar="FILE", help="the old judge's settings, JSON")
    parser.add_argument("--new-config", required=True, type=Path, metavar="FILE", help="the new judge's settings, JSON")
    parser.add_argument("--old-is-gone", action="store_true", help="ask the old judge nothing; use what it said before")
    add_run_options(parser)
    arguments = parser.parse_args()
    try:
        old, new = read_judge(arguments.old_config), read_judge(arguments.new_config)
    except ValueError as error:
        parser.error(str(error))
    config = MigrateConfig(old=old, scorer=new, ask_old=not arguments.old_is_gone)
    migrate_judge(arguments.scorer, arguments.triplets, config, run_options(arguments))


if __name__ == "__main__":
    main()
