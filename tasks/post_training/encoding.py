"""Cases to encodings: batches of one shape, rows of the artifact `encodings`, and their tensors as bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from safetensors.torch import load, save

from storage.records import EditType, Encoding
from tasks.images import decode
from training.editors.interface import Condition, Pixels, Shape, TrainableEditor, condition_of
from training.lanes import one_thread_per_operation


def encode(
    model: TrainableEditor, editor: str, cases: Sequence[Mapping[str, Any]], some: Sequence[int], batch_size: int
) -> Generator[tuple[int, Encoding], None, None]:
    """The encodings of some cases with their positions, as they come; what cannot be encoded is a row with its reason.

    Args:
        editor: the model's fingerprint.
        cases: rows of a data set.
        batch_size: so many of one shape are encoded at a time, in an order that the cases alone decide.
    """
    waiting: dict[Shape, list[tuple[int, Pixels]]] = {}
    for position in some:
        try:
            source, shape = _prepared(model, cases[position]["source"]["bytes"])
        except ValueError as error:
            yield position, _row(cases[position], editor, failure=str(error))
            continue
        batch = waiting.setdefault(shape, [])
        batch.append((position, source))
        if len(batch) == batch_size:
            yield from _encode_batch(model, editor, cases, waiting.pop(shape))
    for batch in waiting.values():
        yield from _encode_batch(model, editor, cases, batch)


def _prepared(model: TrainableEditor, image: bytes) -> tuple[Pixels, Shape]:
    """A decoded image and the shape of its case. Raises: ValueError with the reason, and after a colon the detail."""
    try:
        source = decode(image)
    except ValueError as error:
        raise ValueError(f"unreadable image: {error}") from error
    try:
        return source, model.shape_of(*source.shape[:2])
    except ValueError as error:
        raise ValueError(f"unfit size: {error}") from error


def _encode_batch(
    model: TrainableEditor, editor: str, cases: Sequence[Mapping[str, Any]], batch: Sequence[tuple[int, Pixels]]
) -> Iterator[tuple[int, Encoding]]:
    positions, sources = zip(*batch, strict=True)
    try:
        conditions = encoded(model, sources, [cases[position]["instruction"] for position in positions])
    except ValueError as error:
        if len(batch) == 1:
            yield positions[0], _row(cases[positions[0]], editor, failure=f"not encoded: {error}")
            return
        for one in batch:  # the others are not to fail with it
            yield from _encode_batch(model, editor, cases, [one])
        return
    for position, condition in zip(positions, conditions, strict=True):
        yield position, _row(cases[position], editor, shape_to_dict(condition.shape), pack(condition))


def _row(
    case: Mapping[str, Any],
    editor: str,
    shape: Mapping[str, Any] | None = None,
    tensors: bytes | None = None,
    failure: str = "",
) -> Encoding:
    return Encoding(
        encoding_id=Encoding.id_of(case["case_id"], editor),
        case_id=case["case_id"],
        edit_type=EditType(case["edit_type"]),
        shape=shape or {},
        tensors=tensors,
        failure=failure,
        editor=editor,
    )


_ONE_AT_A_TIME = threading.Lock()
"""Where shards are worked on in threads, they share the model, and a tokenizer refuses the second of two threads."""


def encoded(model: TrainableEditor, sources: Sequence[Pixels], instructions: Sequence[str]) -> list[Condition]:
    """Cases of one shape, encoded together: one condition each, on the CPU, its texts without padding."""
    # The number of threads is part of how sums are rounded.
    with _ONE_AT_A_TIME, torch.no_grad(), one_thread_per_operation():
        batch = model.encode(sources, instructions).to("cpu")
    return [_trimmed(batch.take([i])) for i in range(len(batch))]


def _trimmed(condition: Condition) -> Condition:
    negative = None if condition.negative is None else condition.negative.trimmed()
    return replace(condition, text=condition.text.trimmed(), negative=negative)


def pack(condition: Condition) -> bytes:
    """The tensors of a condition as a safetensors file, in the dtypes that they have; equal ones give equal bytes."""
    return save({name: tensor.contiguous() for name, tensor in condition.tensors().items()})


def unpack(shape: Shape, data: bytes) -> Condition:
    """The inverse of `pack`."""
    return condition_of(shape, load(data))


def shape_to_dict(shape: Shape) -> dict[str, Any]:
    """A shape as a row has it."""
    return {"target": list(shape.target), "sources": [list(grid) for grid in shape.sources]}


@cache
def shape_of_json(text: str) -> Shape:
    """The inverse of `shape_to_dict`, from JSON."""
    told = json.loads(text)
    rows, columns = told["target"]
    return Shape((rows, columns), tuple((rows, columns) for rows, columns in told["sources"]))
