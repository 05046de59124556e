"""Make the miniature editor: `python -m tasks.miniature.pretrain`. Continues where it was stopped.

Supervised flow matching on triplets of mixed quality, as real editing data are: the editor learns the clean and the
sloppy manner alike, and which of them people prefer is left for post-training to find out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from storage.records import EditType
from tasks.collection.instructions import words
from tasks.miniature.editor import WEIGHTS
from tasks.miniature.examples import Example, make_example
from tasks.miniature.sprites import CATEGORIES
from tasks.miniature.world import world_fingerprint
from tasks.post_training.checkpoints import FolderSink
from training.editors.miniature import MiniatureConfig, MiniatureEditor
from training.lanes import default_lanes
from training.supervised import SupervisedConfig, train_supervised

PRETRAINING_SEED = 1_000_003
"""The world that the editor learns from; no run evaluates on it."""

EASY = (EditType.BOKEH, EditType.RELIGHT, EditType.STYLE)
"""What changes the look of things, and need not draw anything new, is seen less often."""
EASY_SHARE = 0.5


def make_pool(count: int, processes: int) -> list[Example]:
    """Examples 0 to count - 1 of the pre-training world."""
    chunks = [range(start, min(start + 512, count)) for start in range(0, count, 512)]
    pool: list[Example] = []
    with ProcessPoolExecutor(processes) as executor, tqdm(total=count, desc="examples", unit="") as progress:
        for made in executor.map(_make_chunk, chunks):
            pool += made
            progress.update(len(made))
    return pool


def _make_chunk(indices: range) -> list[Example]:
    return [make_example(PRETRAINING_SEED, index) for index in indices]


def batches(pool: Sequence[Example], batch_size: int, seed: int, first_step: int) -> Iterator[list[Example]]:
    """Endless batches, each a pure function of (seed, step)."""
    shares = np.array([EASY_SHARE if example.edit_type in EASY else 1.0 for example in pool])
    shares /= shares.sum()
    step = first_step
    while True:
        chosen = np.random.default_rng([seed, step]).choice(len(pool), size=batch_size, p=shares)
        yield [pool[i] for i in chosen]
        step += 1


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the editor is written (%(default)s)")
    # Another world is another training: its checkpoints must not be taken for this one's.
    work = Path("runs") / f"pretrain-{world_fingerprint()}"
    parser.add_argument("--work", type=Path, default=work, help="checkpoints (%(default)s)")
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--examples", type=int, default=65_536, help="size of the pool")
    parser.add_argument("--lanes", type=int, default=default_lanes(), help="threads (%(default)s)")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    editor = MiniatureEditor(MiniatureConfig(words=words(CATEGORIES)))
    editor.to("cuda" if torch.cuda.is_available() else "cpu")
    parameters = editor.parameters()
    print(f"{sum(p.numel() for p in parameters) / 1e6:.1f} M parameters")
    config = SupervisedConfig(steps=arguments.steps, bfloat16=True)
    pool = make_pool(arguments.examples, arguments.lanes)
    sink = FolderSink(arguments.work)
    saved = sink.load()
    with tqdm(total=config.steps, initial=saved.step if saved else 0, desc="pre-training", unit="step") as progress:

        def show(step: int, loss: float) -> None:
            progress.update()
            progress.set_postfix(loss=f"{loss:.4f}", refresh=False)

        train_supervised(
            editor,
            parameters,
            lambda step: batches(pool, arguments.batch_size, config.seed, step),
            config,
            sink,
            show,
            arguments.lanes,
        )
    shutil.rmtree(arguments.out, ignore_errors=True)
    editor.to("cpu").save_pretrained(arguments.out)
    (arguments.out / "world.json").write_text(json.dumps({"fingerprint": world_fingerprint()}) + "\n")
    size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    print(f"wrote {arguments.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
