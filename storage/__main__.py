"""Versions of artifacts on the command line: `python -m storage --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from storage.compact import compact
from storage.diff import diff_lines
from storage.doctor import examine
from storage.export import export
from storage.gc import GRACE_HOURS, Retention, collect_garbage, plan_gc
from storage.lineage import tree_lines
from storage.store import REJECTED, Store, Version, VersionNotFoundError
from storage.verify import verify

DEFAULT_STORE = "runs/store"
RUN_PAGE = "/v2/runs/flow-run/{id}"


def list_versions(store: Store, arguments: argparse.Namespace) -> int:
    """What there is."""
    artifacts = [arguments.artifact] if arguments.artifact else store.artifacts()
    print(f"{'version':24s}{'rows':>9s}{'MB':>10s}  {'made at':26s}{'stage':18s}tags")
    for artifact in artifacts:
        tags, rejections = store.tags(artifact), store.rejections(artifact)
        for version in _versions(store, artifact):
            files = set(version.manifest.files())
            own = sorted(name for name, tag in tags.items() if tag.version == version.number and name != REJECTED)
            own += [REJECTED] if version.number in rejections else []
            own += ["(checkpoint)"] if version.ref.checkpoint else []
            print(
                f"{version!s:24s}{version.manifest.num_rows():9d}{sum(f.size for f in files) / 1e6:10.1f}  "
                f"{version.ref.created_at:26s}{version.manifest.stage:18s}{' '.join(own)}"
            )
    return 0


def show(store: Store, arguments: argparse.Namespace) -> int:
    """One version: who made it, from what, what is in it."""
    version = store.resolve(arguments.version)
    manifest, ref = version.manifest, version.ref
    print(f"{version}  manifest {ref.manifest}")
    print(f"made by {manifest.stage} (code {manifest.stage_version}) at {ref.created_at}, {ref.seconds:.1f} s", end="")
    print("" if ref.done is None else f", {ref.done} items worked on, the others taken over")
    if ref.flow_run_id:
        api = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
        print(f"flow run {ref.flow_run_id}" + (f"  {api}{RUN_PAGE.format(id=ref.flow_run_id)}" if api else ""))
    if rejection := store.rejection(version):
        print("rejected: " + "; ".join(rejection.reasons))
    for role, parent in manifest.parents.items():
        print(f"from {role}: {parent.artifact}@v{parent.version}")
    for name, files in manifest.tables.items():
        print(
            f"table {name}: {manifest.rows(name)} rows, {len(files)} files, {sum(f.size for f in files) / 1e6:.1f} MB"
        )
    print(json.dumps({"config": manifest.config, "fingerprints": manifest.fingerprints}, indent=1, sort_keys=True))
    print(json.dumps({"statistics": manifest.statistics}, indent=1, sort_keys=True))
    return 0


def tree(store: Store, arguments: argparse.Namespace) -> int:
    """Ancestors of a version, or its descendants."""
    print("\n".join(tree_lines(store.resolve(arguments.version), up=not arguments.down)))
    return 0


def diff(store: Store, arguments: argparse.Namespace) -> int:
    """What is different between two versions."""
    print("\n".join(diff_lines(store.resolve(arguments.one), store.resolve(arguments.two))))
    return 0


def tag(store: Store, arguments: argparse.Namespace) -> int:
    """Let a name mean a version; `latest` accepts one that was rejected."""
    version = store.resolve(arguments.version)
    store.tag(version, arguments.name, arguments.reason)
    print(f"{version.artifact}@{arguments.name} is {version}")
    return 0


def verify_versions(store: Store, arguments: argparse.Namespace) -> int:
    """Whether files are what they were."""
    specs = arguments.versions or store.artifacts()
    versions: list[Version] = []
    for spec in specs:
        versions += [store.resolve(spec)] if "@" in spec else _versions(store, spec)
    with tqdm(unit="B", unit_scale=True, desc="verify") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        damages = verify(versions, arguments.quick, progress)
    for damage in damages:
        print(damage)
    print(f"{len(versions)} versions, {len(damages)} damages")
    return 1 if damages else 0


def _versions(store: Store, artifact: str) -> list[Version]:
    """All of an artifact. Raises: VersionNotFoundError where there is none, as after a slip of the pen."""
    return store.versions(artifact) or [store.resolve(artifact)]


def gc(store: Store, arguments: argparse.Namespace) -> int:
    """What could be removed; with --delete, remove it."""
    plan = plan_gc(store, Retention(keep_newest=arguments.keep_newest, grace_hours=arguments.grace_hours))
    print("\n".join(plan.lines()))
    if arguments.delete:
        collect_garbage(store, plan)
        print("removed")
    elif plan.paths:
        print("nothing was removed: say --delete")
    return 0


def export_version(store: Store, arguments: argparse.Namespace) -> int:
    """A version as a plain folder."""
    version = store.resolve(arguments.version)
    total = sum(file.size for file in version.manifest.files())
    with tqdm(total=total, unit="B", unit_scale=True, desc="export") as bar:
        card = export(version, arguments.folder, bar.update)
    print(card)
    return 0


def compact_version(store: Store, arguments: argparse.Namespace) -> int:
    """Rewrite a version into full files; the rows stay."""
    old = store.resolve(arguments.version)
    new = compact(old, arguments.rows_per_file)
    for one in (old, new):
        print(f"{one}: {len(one.manifest.files())} files")
    return 0


def doctor(store: Store, arguments: argparse.Namespace) -> int:
    """Whether this store's filesystem can be trusted with commits."""
    findings = []
    for finding in examine(store):
        print(finding, flush=True)
        findings.append(finding)
    return 0 if all(finding.ok for finding in findings) else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m storage", description=__doc__)
    top.add_argument(
        "--store",
        default=os.environ.get("HP_EDIT_STORE", DEFAULT_STORE),
        help="a folder or an fsspec address (HP_EDIT_STORE, else %(default)s); credentials come by the environment",
    )
    commands = top.add_subparsers(required=True, metavar="command")

    def command(name: str, function: Callable[[Store, argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        made.set_defaults(function=function)
        return made

    command("list", list_versions).add_argument("artifact", nargs="?", help="only this one")
    command("show", show).add_argument("version", help="cases, cases@v3 or cases@<tag>")
    trees = command("tree", tree)
    trees.add_argument("version")
    direction = trees.add_mutually_exclusive_group()
    direction.add_argument("--up", action="store_true", help="what it was made from (the default)")
    direction.add_argument("--down", action="store_true", help="what was made from it")
    diffs = command("diff", diff)
    diffs.add_argument("one")
    diffs.add_argument("two")
    tags = command("tag", tag)
    tags.add_argument("version")
    tags.add_argument("name")
    tags.add_argument("--reason", action="append", default=[], help="kept with the tag")
    verifies = command("verify", verify_versions)
    verifies.add_argument("versions", nargs="*", help="versions, or artifacts for all of theirs (everything)")
    verifies.add_argument("--quick", action="store_true", help="only names and sizes")
    collects = command("gc", gc)
    collects.add_argument("--keep-newest", type=int, help="of each artifact, beside tagged ones and what they need")
    collects.add_argument("--grace-hours", type=float, default=GRACE_HOURS, help="nothing younger goes (%(default)s)")
    collects.add_argument("--delete", action="store_true", help="do it; without this it is only told")
    exports = command("export", export_version)
    exports.add_argument("version")
    exports.add_argument("folder", type=Path)
    compacts = command("compact", compact_version)
    compacts.add_argument("version")
    compacts.add_argument("--rows-per-file", type=int, default=256)
    command("doctor", doctor)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run one command. Returns: 0, or 1 where something is wrong with the store, or 2 for a mistaken command."""
    arguments = parser().parse_args(words)
    try:
        if arguments.store.startswith("remote-file-system/"):
            raise ValueError(
                f"{arguments.store} is a Prefect block, which only flows open: give --store its address (s3://...), "
                "and credentials by the environment"
            )
        return int(arguments.function(Store(arguments.store), arguments))
    except (VersionNotFoundError, ValueError, OSError, KeyError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
