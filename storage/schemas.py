"""Records as Arrow tables: the columns of every artifact, and the conversion both ways.

Image columns are Hugging Face image structs, so that `datasets`, the Hub's viewer and plain pyarrow all see images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import pyarrow as pa

from storage.records import Case, Edit, EditType, Encoding, Request, Score

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

CASES = pa.schema(
    [
        ("case_id", pa.string()),
        ("split", pa.string()),
        ("edit_type", pa.string()),
        ("instruction", pa.string()),
        ("request", pa.string()),
        ("category", pa.string()),
        ("source_id", pa.string()),
        ("source", IMAGE),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mask", pa.string()),
        ("licence", pa.string()),
        ("licence_url", pa.string()),
        ("origin_url", pa.string()),
    ]
)
EDITS = pa.schema(
    [
        ("edit_id", pa.string()),
        ("case_id", pa.string()),
        ("edit_type", pa.string()),
        ("edited", IMAGE),
        ("failure", pa.string()),
        ("editor", pa.string()),
        ("seed", pa.int64()),
    ]
)
ENCODINGS = pa.schema(
    [
        ("encoding_id", pa.string()),
        ("case_id", pa.string()),
        ("edit_type", pa.string()),
        ("shape", pa.string()),
        # Megabytes each: the 32-bit offsets of plain binary end at two gigabytes.
        ("tensors", pa.large_binary()),
        ("failure", pa.string()),
        ("editor", pa.string()),
    ]
)
SCORES = pa.schema(
    [
        ("score_id", pa.string()),
        ("edit_id", pa.string()),
        ("case_id", pa.string()),
        ("edit_type", pa.string()),
        ("outcome", pa.string()),
        ("score", pa.float64()),
        ("full", pa.bool_()),
        ("answers", pa.string()),
        ("raw_reply", pa.string()),
        ("scorer", pa.string()),
        ("attempt", pa.int32()),
        ("raw_score", pa.float64()),
        ("score_map", pa.string()),
        ("digit_mass", pa.float64()),
        ("spread", pa.float64()),
        ("judge", pa.string()),
        ("revision", pa.string()),
        ("model", pa.string()),
        ("parameters", pa.string()),
    ]
)
_JSON_COLUMNS = {"request", "mask", "answers", "parameters", "shape"}

Record = TypeVar("Record", Case, Edit, Encoding, Score)


def to_table(records: Iterable[Case | Edit | Encoding | Score], schema: pa.Schema) -> pa.Table:
    """Records to a table of the given schema, in order."""
    rows = [{f.name: _to_cell(f.name, getattr(record, f.name), schema) for f in fields(record)} for record in records]
    return pa.Table.from_pylist(rows, schema=with_image_features(schema))


def from_table(table: pa.Table, kind: type[Record]) -> Iterator[Record]:
    """The rows of a table as records. A column that older versions lack is as the record says by default."""
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    names = [f.name for f in fields(kind) if f.name in required or f.name in table.column_names]
    for batch in table.select(names).to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            yield kind(**{name: _from_cell(name, row[name]) for name in names})


def with_image_features(schema: pa.Schema) -> pa.Schema:
    """The schema with the metadata by which `datasets` decodes its image columns."""
    features = {
        column.name: {"_type": "Image"} if column.type == IMAGE else {"dtype": _dtype(column.type), "_type": "Value"}
        for column in schema
    }
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _dtype(kind: pa.DataType) -> str:
    return {"double": "float64"}.get(str(kind), str(kind))


def _to_cell(name: str, value: Any, schema: pa.Schema) -> Any:
    if schema.field(name).type == IMAGE:
        return None if value is None else {"bytes": value, "path": None}
    if isinstance(value, Request):
        value = value.to_dict()
    return json.dumps(value, sort_keys=True) if name in _JSON_COLUMNS else value


def _from_cell(name: str, value: Any) -> Any:
    if name == "edit_type":
        return EditType(value)
    if name == "request":
        return Request.from_dict(json.loads(value))
    if name in _JSON_COLUMNS:
        return json.loads(value)
    if name in ("source", "edited"):
        return None if value is None else value["bytes"]
    return value
