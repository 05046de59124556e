"""A version as a plain folder that needs none of this project: Parquet, a card, and where it came from.

The layout is the Hub's: `load_dataset(folder)` opens it, and uploaded as it is, the Hub's viewer shows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.lineage import ancestors, tree_lines
from storage.manifest import DataFile, are_rows, check_name
from storage.store import Version

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
"""What `load_lora_weights` looks for."""
_SPLITS = ("train", "validation", "test")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def export(version: Version, folder: Path, progress: Callable[[int], None] = lambda count: None) -> Path:
    """Write a version into a new or empty folder, the card last.

    Args:
        progress: told the number of bytes of each finished file.

    Returns: the card.
    Raises: FileExistsError for a folder with something in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, files in version.manifest.tables.items():
        filled = [file for file in files if file.rows != 0]  # readers refuse files without a row
        for file, path in zip(filled, paths_of(name, filled), strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(version.store.read_file(file, thorough=True))
            progress(file.size)
    (folder / "manifest.json").write_bytes(version.manifest_bytes())
    card = folder / "README.md"
    card.write_text("\n".join(card_lines(version)) + "\n", encoding="utf-8")
    return card


def paths_of(table: str, files: Sequence[DataFile]) -> list[str]:
    """Where the files of a table go in the folder; a table of rows in numbered files, as the Hub names them."""
    check_name(table)
    if not _is_rows(files):
        names = [
            ADAPTER_FILE if f.suffix == ".safetensors" and table == "weights" else f"{table}{f.suffix}" for f in files
        ]
        if len({*names}) < len(names):
            raise ValueError(f"{table}: several files of one kind, which would have one name in a folder")
        return names
    return [f"data/{table}/{table}-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]


def card_lines(version: Version) -> Iterator[str]:
    """The card: the header that the Hub reads, then what people read."""
    manifest = version.manifest
    tables = {name: files for name, files in manifest.tables.items() if _is_rows(files) and manifest.rows(name)}
    rows = sum(manifest.rows(name) for name in tables)
    licences = _licences(version)
    yield from ("---", f"pretty_name: {json.dumps(f'HP-Edit {version}')}")
    if licences:
        yield "license: other"
        yield "license_name: per-image"
    if version.artifact == "adapter":
        yield from ("library_name: diffusers", "tags: [lora, image-to-image, hp-edit]")
    else:
        yield from ("task_categories: [image-to-image]", "tags: [image-editing, human-preference, hp-edit]")
        yield f"size_categories: [{next((name for limit, name in _SIZES if rows < limit), 'n>1M')}]"
    if tables:
        yield "configs:"
        ordered = sorted(tables, key=lambda name: (name != "train", name not in _SPLITS, name))
        for name in ordered:
            split = name if name in _SPLITS else "train"
            yield f"- config_name: {json.dumps(name)}"
            yield "  data_files:"
            yield f"  - split: {split}"
            yield f"    path: data/{name}/*.parquet"
            if name == ordered[0]:
                yield "  default: true"
    yield from ("---", "", f"# HP-Edit: {version}", "")
    yield f"Made by the stage `{manifest.stage}` (code {manifest.stage_version}) at {version.ref.created_at}; "
    yield f"manifest `{version.ref.manifest}`."
    yield from ("", "| table | rows | files | MB |", "|---|---:|---:|---:|")
    for name, files in manifest.tables.items():
        yield f"| {name} | {manifest.rows(name)} | {len(files)} | {sum(f.size for f in files) / 1e6:.2f} |"
    if licences:
        yield from ("", "## Licences of the source images", "")
        yield "Each row names the licence and the origin of its source image; derived images keep them."
        yield from ("", "| licence | rows |", "|---|---:|", *(f"| {_code(k)} | {n} |" for k, n in licences.items()))
    yield from ("", "## Where it comes from", "", "```", *tree_lines(version), "```")
    yield from ("", "## Statistics", "", "```json", json.dumps(manifest.statistics, indent=1, sort_keys=True), "```")
    yield from ("", "## Configuration", "", "```json", json.dumps(_configs(version), indent=1, sort_keys=True), "```")


def _is_rows(files: Sequence[DataFile]) -> bool:
    return bool(files) and are_rows(files)


def _configs(version: Version) -> Mapping[str, Any]:
    """Of every stage that took part."""
    return {str(v): {"config": v.manifest.config, "stage": v.manifest.stage} for v in ancestors(version)}


def _licences(version: Version) -> dict[str, int]:
    """How many rows have each licence, over the tables that tell."""
    found: dict[str, int] = {}
    for files in version.manifest.tables.values():
        for file in (file for file in files if file.rows and _is_rows(files)):
            if not {"licence", "licence_url"} <= {*version.store.schema_of(file).names}:
                break
            for row in version.store.read_table(file, ["licence", "licence_url"]).to_pylist():
                name = f"{row['licence']} {row['licence_url']}".strip()
                found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def _code(text: str) -> str:
    """Text of strangers, harmless in a table: no markup, no links, no cells of its own."""
    words = re.sub(r"[`|\\]", " ", text).split()
    return f"`{' '.join(words) or 'none'}`"
