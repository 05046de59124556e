"""A version told in Markdown: where it comes from, what is in it, what changed. Made from manifests alone."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from storage.diff import changed_values
from storage.lineage import ancestors, parents_of
from storage.store import Version
from tasks.images import data_uri


def version_page(version: Version, pictures: Sequence[tuple[str, bytes]], ui: str | None, reused: bool) -> str:
    """The page of a version.

    Args:
        pictures: captioned PNG pictures.
        ui: the address of the Prefect UI; None without one.
        reused: whether this run found the version instead of making it.
    """
    manifest, ref = version.manifest, version.ref
    made = f"made by {manifest.stage} (code {manifest.stage_version}) at {ref.created_at}"
    if ui and ref.flow_run_id:
        made += f" in [this run]({run_page(ui, ref.flow_run_id)})"
    worked = "" if ref.done is None else f" {ref.done} items were worked on; the others were taken over."
    rejection = version.store.rejection(version)
    parts = [
        f"# {version}",
        f"{'**Reused**: nothing changed since it was ' if reused else ''}{made}, {ref.seconds:.1f} s.{worked}",
        f"**Rejected**, latest stays: {_plain('; '.join(rejection.reasons))}" if rejection else "",
        "## Where it comes from",
        mermaid(version, ui),
        parents_table(version, ui),
        "## What is in it",
        tables_table(version),
        statistics_list(manifest.statistics),
        differences(version),
    ]
    for caption, png in pictures:
        parts.append(f"### {_plain(caption)}\n\n![{_plain(caption)}]({data_uri(png)})")
    return "\n\n".join(part for part in parts if part) + "\n"


def run_summary(versions: Sequence[tuple[Version, bool]], ui: str | None) -> str:
    """The page of a run of several stages: what went into each, what came out, what was left out and why.

    Args:
        versions: what the stages ended with, in order, and whether it stood already.
    """
    rows = ["| stage | went in | came out | rows | worked on | left out |", "|---|---|---|---|---:|---|"]
    for version, reused in versions:
        manifest = version.manifest
        went_in = ", ".join(_linked(parent, ui) for parent in parents_of(version).values())
        worked = "nothing changed" if reused else str(version.ref.done if version.ref.done is not None else "")
        left_out = {**manifest.statistics.get("left_out", {}), **manifest.statistics.get("dropped", {})}
        rows.append(
            f"| {manifest.stage} | {went_in} | {_linked(version, ui)} | {rows_told(version)} | {worked} "
            f"| {_cell(left_out)} |"
        )
    return "\n".join([*rows, "", mermaid(versions[-1][0], ui)]) + "\n"


def _linked(version: Version, ui: str | None) -> str:
    """A version's name, leading to its artifact's page."""
    return f"[{version}]({artifact_page(ui, version.artifact)})" if ui else str(version)


def rows_told(version: Version) -> str:
    """The rows of each table, or of the only one."""
    rows = {name: version.manifest.rows(name) for name in version.manifest.tables}
    rows = {name: count for name, count in rows.items() if count}
    return (
        ", ".join(f"{name} {count}" for name, count in rows.items()) if len(rows) > 1 else f"{sum(rows.values())} rows"
    )


def run_page(ui: str, flow_run_id: str) -> str:
    """Where the Prefect UI shows a run."""
    return f"{ui}/v2/runs/flow-run/{flow_run_id}"


def artifact_page(ui: str, artifact: str) -> str:
    """Where the Prefect UI shows the history of an artifact."""
    return f"{ui}/v2/artifacts/key/{artifact}"


def mermaid(version: Version, ui: str | None = None) -> str:
    """The ancestors as a graph from top to bottom; a node leads to the run that made it."""
    lines = ["```mermaid", "graph TD"]
    versions = list(reversed(ancestors(version)))
    for node in versions:
        lines.append(f'    {_node(node)}["{node}<br/>{node.manifest.stage}<br/>{rows_told(node)}"]')
    for node in versions:
        for parent in node.manifest.parents.values():
            lines.append(f"    {parent.artifact}_{parent.version} --> {_node(node)}")
    for node in versions:
        if ui and node.ref.flow_run_id:
            lines.append(f'    click {_node(node)} "{run_page(ui, node.ref.flow_run_id)}"')
    lines += [f"    style {_node(version)} stroke-width:3px", "```"]
    return "\n".join(lines)


def parents_table(version: Version, ui: str | None = None) -> str:
    """The versions that went in, with links to the runs that made them."""
    if not version.manifest.parents:
        return ""
    rows = ["| went in as | version | rows | made by | manifest |", "|---|---|---|---|---|"]
    for role, parent in parents_of(version).items():
        name, made_by = str(parent), parent.manifest.stage
        if ui:
            name = f"[{name}]({artifact_page(ui, parent.artifact)})"
            if parent.ref.flow_run_id:
                made_by = f"[{made_by}]({run_page(ui, parent.ref.flow_run_id)})"
        rows.append(f"| {role} | {name} | {rows_told(parent)} | {made_by} | `{parent.ref.manifest[:12]}` |")
    return "\n".join(rows)


def differences(version: Version) -> str:
    """What is different from the version before: rows, configuration, and what the stage measures of itself."""
    store, artifact = version.store, version.artifact
    earlier = (store.version(artifact, n) for n in reversed(store.numbers(artifact)) if n < version.number)
    before = next((one for one in earlier if not one.ref.checkpoint), None)
    if before is None:
        return ""
    one, two = before.manifest, version.manifest
    changes = [f"rows of {t}: {one.rows(t)} -> {two.rows(t)}" for t in two.tables if one.rows(t) != two.rows(t)]
    for what in ("config", "fingerprints"):
        changes += [f"{what} {change}" for change in changed_values(getattr(one, what), getattr(two, what))]
    changes += changed_values(one.statistics.get("measures", {}), two.statistics.get("measures", {}))
    lines = [f"- {_plain(change)}" for change in changes] or ["- nothing of rows, configuration and measures"]
    return "\n".join([f"## What changed since {before}", "", *lines])


def tables_table(version: Version) -> str:
    """Rows, files and bytes of each table."""
    rows = ["| table | rows | files | MB |", "|---|---:|---:|---:|"]
    for name, files in version.manifest.tables.items():
        size = sum(file.size for file in files) / 1e6
        rows.append(f"| {name} | {version.manifest.rows(name)} | {len(files)} | {size:.2f} |")
    return "\n".join(rows)


def statistics_list(statistics: Mapping[str, Any]) -> str:
    """Statistics as tables where they are tables, else as lines."""
    parts = []
    for name, value in statistics.items():
        if isinstance(value, Mapping) and value and all(isinstance(row, Mapping) for row in value.values()):
            columns = list(dict.fromkeys(column for row in value.values() for column in row))
            rows = [f"| {_plain(name)} | " + " | ".join(map(_plain, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
            rows += [
                f"| {_plain(key)} | " + " | ".join(_cell(row.get(column)) for column in columns) + " |"
                for key, row in value.items()
            ]
            parts.append("\n".join(rows))
        elif isinstance(value, Mapping) and value and all(_is_words(item) for item in value.values()):
            rows = [f"| {_plain(name)} | |", "|---|---|"]
            rows += [f"| {_plain(key)} | {_cell(item)} |" for key, item in value.items()]
            parts.append("\n".join(rows))
        else:
            parts.append(f"- **{_plain(name)}**: {_cell(value)}")
    return "\n\n".join(parts)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _node(version: Version) -> str:
    return f"{version.artifact}_{version.number}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_plain(key)} {_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        words = any(isinstance(item, str) for item in value)
        return ("; " if words else " ").join(_cell(item) for item in value)
    return "" if value is None else _plain(value)


def _plain(value: Any) -> str:
    """Text that Markdown and HTML leave alone."""
    return html.escape(str(value)).replace("|", "\\|").replace("\n", " ").replace("`", "'").replace("[", "\\[")
