"""Whether commits hold, and how fast they are: `python -m perf.commits`.

Processes commit versions of one artifact at the same time, on the local disk and on a real S3 server; processes are
killed at random moments of commits; a proxy spoils every fifth request to the S3 server. Afterwards every version is
read and compared with its name, and every commit that was acknowledged is looked for. The last line is one JSON object
of figures. Processes that all want the next number of one artifact get in each other's way: the S3 server, SeaweedFS,
lets those who create the same object wait, up to a second each, and all but one must try the next number.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.faulty_proxy import faulty_proxy
from perf.s3_server import BUCKET, S3Server, s3_server
from perf.writers import ARTIFACT, Acknowledged, Place, commit_one, processes, start_writer
from storage.files import StoreError
from storage.store import Store
from storage.verify import verify

FAULT_SHARE = 0.2
HANG_SECONDS = 1.0
KILLED_BYTES = 2_000_000
"""Of the table in a commit that is killed, so that it takes a while."""


def commit_at_once(place: Place, num_processes: int, count: int) -> tuple[float, list[Acknowledged]]:
    """Let processes commit at the same time. Returns: seconds, and what was acknowledged."""
    start = processes.Event()
    writers = [start_writer(place, number, count, start=start) for number in range(num_processes)]
    started = time.perf_counter()
    start.set()
    acknowledged = [told for writer in writers for told in writer.acknowledged()]
    return time.perf_counter() - started, acknowledged


def kill_often(place: Place, kills: int, seed: int = 0) -> list[Acknowledged]:
    """Kill processes that commit, at random moments of their third or fourth. Returns: what was acknowledged."""
    moments, acknowledged = random.Random(seed), []
    for kill in range(kills):
        writer = start_writer(place, kill, None, KILLED_BYTES)
        told = writer.acknowledged()
        acknowledged.append(next(told))
        started = time.perf_counter()
        acknowledged.append(next(told))
        time.sleep(moments.random() * 2 * (time.perf_counter() - started))
        writer.process.kill()
        acknowledged += told
    return acknowledged


def commit_through_faults(server: S3Server, place: Place, count: int) -> tuple[list[Acknowledged], Counter[str]]:
    """Commit while requests are spoiled. Returns: what was acknowledged, and how the commits and requests ended."""
    acknowledged: list[Acknowledged] = []
    counts: Counter[str] = Counter()
    with faulty_proxy(server.endpoint, FAULT_SHARE, hang_seconds=HANG_SECONDS) as (endpoint, proxy):
        store = Place(place.url, server.behind(endpoint).options).open()
        for number in range(count):
            try:
                acknowledged.append((commit_one(store, f"faults-{number}").number, f"faults-{number}"))
            except Exception as error:
                # One clear error names the store.
                clear = isinstance(error, StoreError) and place.url in str(error)
                counts["refused" if clear else "unrecovered"] += 1
                print(f"  {error!r}", flush=True)
        counts["requests"], counts["faults"] = proxy.requests, proxy.faults.total()
        print(f"  {dict(proxy.faults)}", flush=True)
    return acknowledged, counts


def examine(store: Store, acknowledged: Sequence[Acknowledged]) -> Counter[str]:
    """Look at every version. Returns: how many there are, are torn, and were acknowledged and are not there."""
    versions = store.versions(ARTIFACT)
    damages = verify(versions)
    for damage in damages:
        print(f"  torn: {damage}", flush=True)
    torn = {damage.version for damage in damages}
    found = {version.number: version.manifest.key for version in versions if str(version) not in torn}
    lost = [told for told in acknowledged if found.get(told[0]) != told[1] and f"{ARTIFACT}@v{told[0]}" not in torn]
    return Counter(versions=len(versions), torn=len(torn), lost=len(lost))


def measure(folder: Path, server: S3Server, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything. Returns: the figures."""
    figures: dict[str, Any] = {"processes": arguments.processes}
    looked: Counter[str] = Counter()

    def on(kind: str, at_once: Place, killed: Place, count: int, kills: int) -> None:
        seconds, told = commit_at_once(at_once, arguments.processes, count)
        looked.update(examine(at_once.open(), told))
        figures[f"{kind}versions_per_second"] = round(len(told) / seconds, 2)
        print(f"{at_once.url}: {arguments.processes} processes, {len(told)} versions in {seconds:.2f} s", flush=True)
        told = kill_often(killed, kills)
        found = examine(killed.open(), told)
        looked.update(found)
        figures[f"{kind}kills"] = kills
        print(f"{killed.url}: {kills} kills, {found['versions']} versions, {len(told)} acknowledged", flush=True)

    on("", Place(f"{folder}/at-once"), Place(f"{folder}/killed"), arguments.commits, arguments.kills)
    at_once, killed, faulty = (
        Place(f"s3://{BUCKET}/{name}", server.options) for name in ("at-once", "killed", "faulty")
    )
    on("s3_", at_once, killed, arguments.s3_commits, arguments.s3_kills)
    told, counts = commit_through_faults(server, faulty, arguments.faulty_commits)
    looked.update(examine(faulty.open(), told))
    print(f"{faulty.url}: {counts['faults']} faults in {counts['requests']} requests, {len(told)} versions", flush=True)
    return figures | {
        "versions": looked["versions"],
        "torn": looked["torn"],
        "lost": looked["lost"],
        "faults": counts["faults"],
        "faulty_requests": counts["requests"],
        "faulty_commits": len(told),
        "refused": counts["refused"],
        "unrecovered": counts["unrecovered"],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8, help="that commit at the same time (%(default)s)")
    parser.add_argument("--commits", type=int, default=50, help="of each process on the disk (%(default)s)")
    parser.add_argument("--kills", type=int, default=50, help="on the disk (%(default)s)")
    parser.add_argument("--s3-commits", type=int, default=3, help="of each process on S3 (%(default)s)")
    parser.add_argument("--s3-kills", type=int, default=10, help="on S3 (%(default)s)")
    parser.add_argument("--faulty-commits", type=int, default=40, help="through the proxy (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name) / "s3") as server:
        figures = measure(Path(name), server, arguments)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
