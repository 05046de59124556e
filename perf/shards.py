"""How fast shards are written and read, against bare pyarrow: `python -m perf.shards`.

The same tables, one of images and a narrow one of scores, are written by `Store.add_table` and by `pq.write_table` to a
file, and read by `Store.read_table` and by `pq.read_table`, taking turns; the figures are medians of the ratios of one
turn each. A ratio of 1 is as fast as bare pyarrow, 0.5 half as fast.

Bare pyarrow writes a file under its final name: no hash names it, a kill half way leaves half a file, and when it
returns the file is in the machine's memory, not on its disk. It writes no checksums and looks for none: a damaged file
is read as if nothing were wrong with it. `add_table` writes checksums of pages, hashes the file, waits until the disk
has it and only then gives it its name; `read_table` compares the CRC-32. What each of these takes is measured, too.
`write_ratio_durable` is against pyarrow that waits for the disk as well, `write_ratio_hasty` is of an `add_table` that
does not, and those with `cpu` compare the processor's time instead of the clock's: in a second thread, on a core that
is free, hashing costs no time. The last figure is how fast `datasets.load_dataset` gives the rows of a published data
set with its images decoded. Two ratios are of a real S3 server. The last line is one JSON object of figures.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from perf.s3_server import BUCKET, s3_server
from storage.manifest import DataFile, Manifest, sha256_of
from storage.parquet import to_parquet
from storage.records import identity
from storage.schemas import EDITS, IMAGE, SCORES, with_image_features
from storage.store import Store, Version
from tasks.build_realpref import REALPREF

Times = dict[str, list[float]]
SIDE = 256
_TEXT = 200
"""Characters of a reply or a mask."""


def make_table(schema: pa.Schema, rows: int) -> pa.Table:
    """Rows as long as real ones; every image is another one, a JPEG of about 60 kB."""
    rng = np.random.default_rng(0)

    def cell(field: pa.Field, number: int) -> Any:
        if field.type == IMAGE:
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=80)
            return {"bytes": buffer.getvalue(), "path": None}
        if field.type == pa.string():
            if field.name in ("mask", "raw_reply"):
                return rng.bytes(_TEXT // 2).hex()
            return identity(field.name, number) if field.name.endswith("_id") else field.name
        return {pa.float64(): number / rows, pa.bool_(): number % 2 == 0}.get(field.type, number)

    cells = [{field.name: cell(field, number) for field in schema} for number in range(rows)]
    return pa.Table.from_pylist(cells, schema=with_image_features(schema))


class Turns:
    """Times of things that take turns, so that what else the machine does falls on all of them."""

    def __init__(self) -> None:
        self.wall: Times = {}
        self.cpu: Times = {}

    def time(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do one thing once."""
        cpu, wall = time.process_time(), time.perf_counter()
        result = function(*arguments)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        return result

    def ratio(self, bare: str, ours: str, names: Sequence[str], cpu: bool = False) -> float:
        """How fast ours is, where bare is 1, with these tables together; of the same turn each."""
        times = self.cpu if cpu else self.wall
        sums = [[sum(turn) for turn in zip(*(times[f"{who} {n}"] for n in names), strict=True)] for who in (bare, ours)]
        return round(median(b / o for b, o in zip(*sums, strict=True)), 3)

    def milliseconds(self, name: str) -> float:
        """The median."""
        return round(1e3 * median(self.wall[name]), 2)


def write_in_turns(folder: Path, tables: dict[str, pa.Table], rounds: int) -> Turns:
    """Write the tables again and again, always to new places."""
    turns = Turns()
    for _ in tqdm(range(rounds), desc="write", leave=False):
        folder.mkdir()
        for name, table in tables.items():
            turns.time(f"bare {name}", pq.write_table, table, folder / f"{name}.bare")
            turns.time(f"ours {name}", Store(f"{folder}/ours").add_table, table)
            turns.time(f"durable {name}", _write_durably, table, folder / f"{name}.durable")
            with patch("os.fsync"):
                turns.time(f"hasty {name}", Store(f"{folder}/hasty").add_table, table)
            data = turns.time(f"encode {name}", to_parquet, table)
            turns.time(f"hash {name}", sha256_of, data)
            turns.time(f"write {name}", (folder / name).write_bytes, data)
            turns.time(f"fsync {name}", _fsync, folder / name)
        shutil.rmtree(folder)
    return turns


def _write_durably(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path)
    _fsync(path)


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_in_turns(folder: Path, tables: dict[str, pa.Table], rounds: int) -> Turns:
    """Read the tables again and again; they lie in the machine's memory."""
    turns, store = Turns(), Store(f"{folder}/store")
    files: dict[str, DataFile] = {}
    for name, table in tables.items():
        files[name] = store.add_table(table)
        pq.write_table(table, folder / f"{name}.parquet")
    for _ in tqdm(range(rounds), desc="read", leave=False):
        for name, file in files.items():
            path, some = folder / f"{name}.parquet", tables[name].column_names[:2]
            turns.time(f"bare {name}", pq.read_table, path)
            turns.time(f"ours {name}", store.read_table, file)
            turns.time(f"bare columns of {name}", partial(pq.read_table, columns=some), path)
            turns.time(f"ours columns of {name}", store.read_table, file, some)
    return turns


def on_s3(tables: dict[str, pa.Table], rounds: int) -> dict[str, float]:
    """The same two ratios on a real S3 server, with one filesystem for both. Returns: the figures."""
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as server:
        for turn in tqdm(range(rounds), desc="S3", leave=False):
            store = Store(f"s3://{BUCKET}/{turn}", **server.options)
            for name, table in tables.items():
                path = f"{BUCKET}/{turn}/{name}.parquet"
                turns.time(f"bare write {name}", partial(pq.write_table, filesystem=store.fs), table, path)
                file = turns.time(f"ours write {name}", store.add_table, table)
                turns.time(f"bare read {name}", partial(pq.read_table, filesystem=store.fs), path)
                turns.time(f"ours read {name}", store.read_table, file)
    return {f"s3_{what}_ratio": turns.ratio(f"bare {what}", f"ours {what}", list(tables)) for what in ("write", "read")}


def publish(store: Store, table: pa.Table, num_files: int) -> Version:
    """A version of a data set, of several files."""
    rows = table.num_rows // num_files
    files = tuple(store.add_table(table.slice(number * rows, rows)) for number in range(num_files))
    manifest = Manifest(
        artifact="realpref", stage="perf", stage_version=1, key="perf", config={}, tables={"train": files}
    )
    return store.commit(manifest)


def load_with_datasets(version: Version, cache: Path) -> float:
    """Load the train table as others do and decode every image. Returns: rows per second, preparation included."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    import datasets

    datasets.disable_progress_bars()
    started = time.perf_counter()
    rows = datasets.load_dataset("parquet", data_files=version.paths("train"), split="train", cache_dir=str(cache))
    for row in rows:
        if row["source"].size != (SIDE, SIDE) or row["edited"].size != (SIDE, SIDE):
            raise ValueError(f"{row['case_id']}: an image of {row['source'].size}")
    return float(len(rows)) / (time.perf_counter() - started)


def measure(folder: Path, rows: int, rounds: int, s3_rounds: int) -> dict[str, Any]:
    """Everything. Returns: the figures."""
    tables = {"images": make_table(EDITS, rows), "scores": make_table(SCORES, rows)}
    megabytes = {name: round(to_parquet(table).size / 1e6, 3) for name, table in tables.items()}
    print(f"{rows} rows per table, {megabytes} MB", flush=True)
    writing = write_in_turns(folder / "written", tables, rounds)
    reading = read_in_turns(folder, tables, rounds)
    for turns, what in ((writing, "write"), (reading, "read")):
        for name in turns.wall:
            print(f"{what:6s}{name:26s}{turns.milliseconds(name):9.2f} ms", flush=True)
    version = publish(Store(str(folder / "lake")), make_table(REALPREF, rows), 2)
    per_second = load_with_datasets(version, folder / "cache")
    figures: dict[str, Any] = {"rows": rows, "megabytes": megabytes}
    for turns, what in ((writing, "write"), (reading, "read")):
        figures |= {
            f"{what}_ratio": turns.ratio("bare", "ours", list(tables)),
            f"{what}_cpu_ratio": turns.ratio("bare", "ours", list(tables), cpu=True),
            f"{what}_ratio_images": turns.ratio("bare", "ours", ["images"]),
            f"{what}_ratio_scores": turns.ratio("bare", "ours", ["scores"]),
            f"{what}_image_rows_per_second": round(1e3 * rows / turns.milliseconds("ours images")),
        }
    return figures | {
        "write_ratio_durable": writing.ratio("durable", "ours", list(tables)),
        "write_ratio_hasty": writing.ratio("bare", "hasty", list(tables)),
        "read_ratio_columns": reading.ratio("bare columns of", "ours columns of", list(tables)),
        "image_milliseconds": {
            name: writing.milliseconds(f"{name} images")
            for name in ("bare", "durable", "ours", "encode", "hash", "write", "fsync")
        },
        "load_dataset_rows_per_second": round(per_second, 1),
        **(on_s3(tables, s3_rounds) if s3_rounds else {}),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="of a table (%(default)s)")
    parser.add_argument("--rounds", type=int, default=25, help="turns (%(default)s)")
    parser.add_argument("--s3-rounds", type=int, default=10, help="turns on a real S3 server (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), arguments.rows, arguments.rounds, arguments.s3_rounds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
