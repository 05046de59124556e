"""Small data sets by hand, and a real model that counts what it encodes."""

from functools import cached_property

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask

from storage.records import Case, EditType, Request, canonical_json
from storage.store import Store, Version
from tasks.build_realpref import REALPREF
from tasks.encode_cases import EncodeCases, EncodeConfig
from tasks.images import png
from tests.storage.samples import manifest_of

TYPES = list(EditType)
WORDS = ("red", "the", "cup", "make", "left", "unheard")


def row(number, height=64, width=64, **changes):
    """A hard case whose image and instruction show its number; instructions differ in length."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    source = png(np.kron(pixels, np.ones((16, 16, 1), np.uint8))[:height, :width])
    instruction = f"{' '.join(WORDS[: number % 6 + 1])} {number}"
    edit_type = TYPES[number % 2]
    rle = coco_mask.encode(np.asfortranarray(np.eye(height, width, k=number % 8, dtype=np.uint8)))
    cells = {
        "case_id": Case.id_of(source, instruction, edit_type),
        "edit_type": edit_type,
        "instruction": instruction,
        "request": canonical_json(Request(colour="red").to_dict()).decode(),
        "category": "cup",
        "source": {"bytes": source, "path": None},
        "width": width,
        "height": height,
        "mask": canonical_json({"size": [height, width], "counts": rle["counts"].decode()}).decode(),
        "edited": {"bytes": source[::-1], "path": None},
        "score": 2.0,
        "difficulty": 0.1 * (number % 10),
    }
    return cells | changes


def commit_realpref(store: Store, *files, key="k") -> Version:
    """A data set of some files of rows."""
    tables = (store.add_table(pa.Table.from_pylist(list(rows), schema=REALPREF)) for rows in files)
    return store.commit(
        manifest_of(store, key, artifact="realpref", stage="build-realpref", tables={"train": [*tables]})
    )


class CountingModel:
    """A model that remembers what it was asked to encode."""

    def __init__(self, model, fails=(), dies_after=None):
        self.model, self.fails, self.dies_after = model, fails, dies_after
        self.asked, self.batches = [], []

    def shape_of(self, height, width):
        return self.model.shape_of(height, width)

    def encode(self, sources, instructions):
        if set(instructions) & set(self.fails):
            raise ValueError("no words for it")
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise RuntimeError("out of memory")
        self.asked += instructions
        self.batches.append(len(sources))
        return self.model.encode(sources, instructions)


class CountedEncodings(EncodeCases):
    """The real stage, with a model that counts. Without one it must need none."""

    def __init__(self, realpref, model=None, fingerprint="miniature", **config):
        super().__init__(realpref.store, EncodeConfig(**config), realpref)
        self.stand_in, self.named = model, fingerprint

    @cached_property
    def model(self):
        assert self.stand_in is not None, "a model was asked for"
        return self.stand_in

    @cached_property
    def fingerprint(self):
        return self.named
