"""Stage encode-cases: source and instruction of every case to train on, encoded once.

A training process then loads no text encoder, which for the large models is larger than what is trained.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.parquet import starts_of, to_parquet
from storage.records import Encoding
from storage.schemas import ENCODINGS, to_table
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.editing.models import fingerprint_of_model, load_model
from tasks.editing.settings import MiniatureModel, ModelConfig
from tasks.limits import Limit
from tasks.rows import Kind, Rows
from tasks.settings import passing
from tasks.stage import GatedConfig, Progress, Result, Shard, Stage, check_rows, join_tables, sum_counts

if TYPE_CHECKING:
    from training.editors.interface import TrainableEditor

ROWS = Kind("encodings", "encodings", Encoding, ENCODINGS, "encoding_id", good=("failure", ""), maker="editor")
"""An encoding that failed is tried again when its shard is worked on again."""
INDEX = pa.schema(
    [
        ("case_id", pa.string()),
        ("shape", pa.string()),
        ("start", pa.int64()),
        ("size", pa.int64()),
        ("crc32", pa.int64()),
        ("failure", pa.string()),
    ]
)
"""Where in the file of encodings each row's tensors lie, so that one case can be read alone."""
LIMITS = {"coverage": Limit(at_least=0.95)}
"""More failures than this mean that the model and the data set do not fit each other."""
_COLUMNS = ("case_id", "edit_type", "instruction", "source")


class EncodeConfig(GatedConfig):
    """With which model to encode."""

    model: ModelConfig = MiniatureModel()
    batch_size: int = passing(
        1,
        "Cases of one shape at a time. More is faster on a GPU, and may change the last bits of what a large model "
        "computes: alone, a case is encoded to the same bytes in whatever company and order.",
        ge=1,
    )
    limits: dict[str, Limit] = passing(LIMITS, "Within which a version becomes `latest`.")


class EncodeCases(Stage):
    """Encodings of the cases of a data set; one output file per input file, row by row, and an index beside it."""

    name = "encode-cases"
    artifact = "encodings"
    code_version = 1

    def __init__(self, store: Store, config: EncodeConfig, realpref: Version) -> None:
        """Encodings of what `realpref` has to train on."""
        super().__init__(store, config, {"realpref": realpref})
        self.config: EncodeConfig = config

    @cached_property
    def model(self) -> TrainableEditor:
        """Made on first use: a night without new cases loads no model."""
        return load_model(self.config.model)

    @cached_property
    def fingerprint(self) -> str:
        """The model's."""
        return fingerprint_of_model(self.config.model)

    @cached_property
    def rows(self) -> Rows[Encoding]:
        """The encodings that there are already."""
        return Rows(self.store, ROWS, self.name, [self.fingerprint])

    def fingerprints(self) -> dict[str, str]:
        return {"editor": self.fingerprint}

    def shards(self) -> list[Shard]:
        files = self.inputs["realpref"].files("train")
        return [
            Shard(f"encodings-{i:05d}", file.rows or 0, self.fingerprint, {"train": file})
            for i, file in enumerate(files)
        ]

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        cases = self.store.read_table(shard.files["train"], _COLUMNS).to_pylist()
        filled = self.rows.fill(
            self.key_of(shard),
            [Encoding.id_of(case["case_id"], self.fingerprint) for case in cases],
            lambda some: self._encoded(cases, some),
            progress,
            self.refresh,
        )
        rows, partition = filled.rows, shard.files["train"].partition
        table = to_table(rows, ENCODINGS)
        starts = starts_of(to_parquet(table), "tensors", [row.tensors for row in rows])
        shapes = table["shape"].to_pylist()
        index = [_index_row(*row) for row in zip(rows, shapes, starts, strict=True)]
        encoded = [row for row in rows if not row.failure]
        # A reason may go on with a detail after a colon; only the reason is counted by.
        outcomes = Counter(f"failed: {row.failure.split(':')[0]}" if row.failure else "encoded" for row in rows)
        return ShardResult(
            tables={
                "encodings": (self.store.add_table(table, partition),),
                "index": (self.store.add_table(pa.Table.from_pylist(index, schema=INDEX), partition),),
            },
            counts={
                "outcomes": dict(outcomes),
                "shapes": dict(Counter(_grids(row.shape) for row in encoded)),
                "bytes": sum(len(row.tensors or b"") for row in encoded),
            },
            done=len(filled.made),
            failed=filled.failed,
        )

    def _encoded(
        self, cases: Sequence[Mapping[str, Any]], some: Sequence[int]
    ) -> Generator[tuple[int, Encoding], None, None]:
        """The encodings of some cases with their positions."""
        from tasks.post_training.encoding import encode

        if some:  # else no model is needed
            yield from encode(self.model, self.fingerprint, cases, some, self.config.batch_size)

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        known = set() if self.refresh else self.rows.known_of("case_id", map(self.key_of, shards))
        cases = [
            case_id
            for shard in shards
            for case_id in self.store.read_table(shard.files["train"], ["case_id"])["case_id"].to_pylist()
        ]
        wanted = sum(case_id not in known for case_id in cases)
        seconds, size = self.rows.seconds_each(), self._bytes_each()
        pace = "hours unknown before the first run" if seconds is None else f"about {seconds * wanted / 3600:.2f} hours"
        space = "size unknown before the first run" if size is None else f"{size * len(cases) / 1e9:.3f} GB to write"
        yield f"{wanted:,} cases to encode, {len(cases) - wanted:,} are known already; {space}; {pace}"

    def _bytes_each(self) -> float | None:
        """Of a case in the latest version, if the same model made it."""
        latest = self.store.latest(self.artifact)
        if latest is None or latest.manifest.fingerprints != self.fingerprints():
            return None
        return float(latest.manifest.statistics["bytes"]["mean"])

    def finish(self, results: Sequence[ShardResult]) -> Result:
        check_rows("encodings of cases", self, results, ["encodings"])
        counts = sum_counts(results)
        outcomes, total = counts.get("outcomes", {}), counts.get("bytes", 0)
        cases, encoded = sum(outcomes.values()), outcomes.get("encoded", 0)
        statistics = {
            "counts": outcomes,
            "model": self.config.model.deciding(),
            "shapes": counts.get("shapes", {}),
            "bytes": {"total": total, "mean": round(total / encoded, 1) if encoded else 0.0},
        }
        # Of no cases at all, none is missing.
        return Result(join_tables(results), statistics, {"coverage": encoded / cases if cases else 1.0})


def _index_row(row: Encoding, shape: str, start: int | None) -> dict[str, Any]:
    """Where a row's tensors begin in its file, and how many bytes with which sum they are."""
    place = None if row.tensors is None else (len(row.tensors), zlib.crc32(row.tensors))
    size, crc32 = place or (None, None)
    cells = {"case_id": row.case_id, "shape": shape, "failure": row.failure}
    return cells | {"start": start, "size": size, "crc32": crc32}


def _grids(shape: Mapping[str, Any]) -> str:
    """A shape for people: rows and columns of tokens, of the target from the sources."""
    target, *sources = ("x".join(map(str, grid)) for grid in (shape["target"], *shape["sources"]))
    return f"{target} from {' and '.join(sources)}"
