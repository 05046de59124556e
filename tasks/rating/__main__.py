"""Let people rate edits from 0 to 5 in their browser: `python -m tasks.rating triplets@latest --ratings FILE`.

Stop it with Ctrl+C and start it again whenever you like: every rating is on the disk before the page goes on.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from storage.files import DamagedFileError
from storage.store import Version, VersionNotFoundError
from tasks.rating.guard import names_of
from tasks.rating.order import counts
from tasks.rating.ratings import RatingBook, RatingItem
from tasks.rating.server import bind, rating_app, serve
from tasks.stores import open_store

DEFAULT_STORE = "runs/store"
TABLE = "triplets"
COLUMNS = ("edit_id", "edit_type", "instruction", "source", "edited")


def read_items(version: Version) -> tuple[list[RatingItem], Counter[str]]:
    """The items of a version of `triplets`, and how many rows cannot be shown, by reason."""
    items, left_out = [], Counter[str]()
    for part in version.parts(TABLE, COLUMNS):
        for row in part.to_pylist():
            images = {name: (row[name] or {}).get("bytes") for name in ("source", "edited")}
            if missing := [name for name, image in images.items() if not image]:
                left_out[f"no {' and no '.join(missing)} image"] += 1
                continue
            try:
                items.append(RatingItem(**{**row, **images}))
            except ValueError as error:
                left_out[str(error)] += 1
    return items, left_out


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m tasks.rating", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("triplets", nargs="?", default="triplets@latest", help="a version (%(default)s)")
    options.add_argument("--ratings", type=Path, required=True, help="the file that ratings are added to")
    options.add_argument("--port", type=int, default=8765, help="%(default)s; 0 takes any that is free")
    options.add_argument("--host", default="127.0.0.1", help="the address to listen at (%(default)s)")
    options.add_argument(
        "--name", action="append", default=[], help="a further name that browsers call this machine by, with --host"
    )
    options.add_argument("--seed", type=int, default=0, help="of the order in which each rater sees the edits")
    add_store_option(options)
    return options


def add_store_option(options: argparse.ArgumentParser) -> None:
    """Where the versions are."""
    options.add_argument(
        "--store",
        default=os.environ.get("HP_EDIT_STORE", DEFAULT_STORE),
        help="a folder or an fsspec address (HP_EDIT_STORE, else %(default)s)",
    )


def main(words: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns: 0, or 2 where there is nothing to serve."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    arguments = parser().parse_args(words)
    try:
        version = open_store(arguments.store).resolve(arguments.triplets)
        items, left_out = read_items(version)
        if not items:
            raise ValueError(f"{version} has nothing to rate; left out: {dict(left_out)}")
        command = ["python", "-m", "flows.collect_labels", str(version), "--ratings", str(arguments.ratings)]
        if arguments.store != DEFAULT_STORE:
            command += ["--store", arguments.store]
        book = RatingBook(arguments.ratings)
        names = names_of(arguments.host, arguments.name)
        app = rating_app(items, book, arguments.seed, names=names, next_command=shlex.join(command))
        listener = bind(arguments.host, arguments.port)
        told = _summary(version, items, left_out, book)
    except (VersionNotFoundError, DamagedFileError, ValueError, OSError, KeyError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
    host, port = listener.getsockname()[:2]
    print("\n".join(told))
    print(f"open    http://{f'[{host}]' if ':' in host else host}:{port}/")
    print("stop    Ctrl+C; what was rated is kept, and the same command goes on")
    print(f"then    {shlex.join(command)}", flush=True)
    serve(app, listener)
    return 0


def _summary(version: Version, items: Sequence[RatingItem], left_out: Counter[str], book: RatingBook) -> list[str]:
    types = Counter(item.edit_type for item in items)
    lines = [f"{len(items)} triplets of {version}: " + ", ".join(f"{n} {name}" for name, n in sorted(types.items()))]
    lines += [f"left out {n}: {reason}" for reason, n in left_out.items()]
    rated = {rater: sum(of_rater.values()) for rater, of_rater in counts(items, book.ratings()).items()}
    lines += [f"ratings {book.path}: " + (", ".join(f"{n} by {rater}" for rater, n in rated.items()) or "none yet")]
    lines += [f"passed over {n} lines of it: {reason}" for reason, n in book.not_understood.items()]
    return lines


if __name__ == "__main__":
    sys.exit(main())
