"""A version told in Markdown: where it comes from, what is in it, what changed. Made from manifests alone."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from storage.store import Version
from tasks.images import data_uri


def version_page(version: Version, pictures: Sequence[tuple[str, bytes]], run_url: str | None, reused: bool) -> str:
    """The page of a version.

    Args:
        pictures: captioned PNG pictures.
        run_url: where the runs of the orchestrator are shown, with `{id}` for the run; None without one.
        reused: whether this run found the version instead of making it.
    """
    manifest = version.manifest
    made = f"made by {manifest.stage} (code {manifest.stage_version}) at {version.ref.created_at}"
    if run_url and version.ref.flow_run_id:
        made += f" in [this run]({run_url.format(id=version.ref.flow_run_id)})"
    parts = [
        f"# {version}",
        f"{'**Reused**: nothing changed since it was ' if reused else ''}{made}, {version.ref.seconds:.1f} s.",
        "## Where it comes from",
        mermaid(version, run_url),
        parents_table(version, run_url),
        "## What is in it",
        tables_table(version),
        statistics_list(manifest.statistics),
    ]
    for caption, png in pictures:
        parts.append(f"### {_plain(caption)}\n\n![{_plain(caption)}]({data_uri(png)})")
    return "\n\n".join(part for part in parts if part) + "\n"


def mermaid(version: Version, run_url: str | None = None) -> str:
    """The ancestors as a graph from top to bottom; a node leads to the run that made it."""
    lines = ["```mermaid", "graph TD"]
    versions = list(reversed(version.store.ancestors(version)))
    for node in versions:
        rows = sum(node.manifest.rows(table) for table in node.manifest.tables)
        lines.append(f'    {_node(node)}["{node}<br/>{node.manifest.stage}, {rows} rows"]')
    for node in versions:
        for parent in node.manifest.parents.values():
            lines.append(f"    {parent.artifact}_{parent.version} --> {_node(node)}")
    for node in versions:
        if run_url and node.ref.flow_run_id:
            lines.append(f'    click {_node(node)} "{run_url.format(id=node.ref.flow_run_id)}"')
    lines += [f"    style {_node(version)} stroke-width:3px", "```"]
    return "\n".join(lines)


def parents_table(version: Version, run_url: str | None = None) -> str:
    """The direct parents."""
    if not version.manifest.parents:
        return ""
    rows = ["| role | version | manifest |", "|---|---|---|"]
    for role, parent in version.manifest.parents.items():
        name = f"{parent.artifact}@v{parent.version}"
        run = version.store.version(parent.artifact, parent.version).ref.flow_run_id
        if run_url and run:
            name = f"[{name}]({run_url.format(id=run)})"
        rows.append(f"| {role} | {name} | `{parent.manifest[:12]}` |")
    return "\n".join(rows)


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
        else:
            parts.append(f"- **{_plain(name)}**: {_cell(value)}")
    return "\n\n".join(parts)


def _node(version: Version) -> str:
    return f"{version.artifact}_{version.number}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_plain(key)} {_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(_cell(item) for item in value)
    return "" if value is None else _plain(value)


def _plain(value: Any) -> str:
    """Text that Markdown and HTML leave alone."""
    return html.escape(str(value)).replace("|", "\\|").replace("\n", " ").replace("`", "'").replace("[", "\\[")
