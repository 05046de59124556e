"""Triplets and ratings for other tools: `python -m tasks.rating.export triplets@latest --to tasks.json`.

Triplets become tasks for Label Studio, with the labelling interface beside them (tasks.xml). Labels become a CSV, or
Label Studio's tasks with annotations (`labels@latest --to ratings.json`). What comes back is taken by
`python -m flows.collect_labels triplets@latest --ratings FILE`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from storage.files import DamagedFileError
from storage.store import Version, VersionNotFoundError
from tasks.calibration.label_files import write_csv
from tasks.calibration.label_studio import (
    LABELING_CONFIG,
    EditToLabel,
    write_label_studio,
    write_label_studio_ratings,
)
from tasks.calibration.ratings import Rating
from tasks.rating.__main__ import add_store_option, read_items
from tasks.stores import open_store


def export(version: Version, path: Path) -> list[Path]:
    """Write a version of `triplets` or `labels` as the path's suffix says. Returns: what was written.

    Raises: ValueError where that artifact cannot become such a file.
    """
    match version.artifact, path.suffix.lower():
        case "triplets", ".json":
            path.write_text(write_label_studio(_edits(version)), encoding="utf-8")
            interface = path.with_suffix(".xml")
            interface.write_text(LABELING_CONFIG, encoding="utf-8")
            return [path, interface]
        case "labels", ".csv":
            path.write_text(write_csv(_ratings(version)), encoding="utf-8", newline="")
        case "labels", ".json":
            parent = version.manifest.parents["triplets"]
            triplets = version.store.version(parent.artifact, parent.version)
            path.write_text(write_label_studio_ratings(_ratings(version), _edits(triplets)), encoding="utf-8")
        case artifact, suffix:
            raise ValueError(f"{artifact} to {suffix or 'no suffix'}: triplets become .json, labels .json or .csv")
    return [path]


def _edits(triplets: Version) -> list[EditToLabel]:
    return [EditToLabel(**asdict(item)) for item in read_items(triplets)[0]]


def _ratings(labels: Version) -> list[Rating]:
    rows = labels.table("labels", ["edit_id", "rater", "score", "rated_at"]).to_pylist()
    return [Rating(**row) for row in rows]


def main(words: Sequence[str] | None = None) -> int:
    """The command line. Returns: 0, or 2 where there is nothing to write."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.rating.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", help="of triplets or of labels, such as labels@latest")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="its suffix says what it becomes")
    add_store_option(parser)
    arguments = parser.parse_args(words)
    try:
        written = export(open_store(arguments.store).resolve(arguments.version), arguments.to)
    except (VersionNotFoundError, DamagedFileError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
