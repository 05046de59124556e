"""Which adapter goes on which model: versions of `adapter`, each of which remembers what it was trained on."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from storage.store import LATEST, Store, Version, VersionNotFoundError
from tasks.editing.models import fingerprint_of_model
from tasks.editing.settings import DiffusersModel, EditorConfig, ModelConfig, ModelEditorConfig

ARTIFACT = "adapter"
WEIGHTS = "weights"
"""The table of an adapter's version with its file."""


def pinned(config: EditorConfig, store: Store) -> EditorConfig:
    """The same with the version that its adapter's tag means now: it may come to mean another while a stage runs."""
    if config.kind != "model" or config.adapter is None:
        return config
    return config.model_copy(update={"adapter": str(find_adapter(config.adapter, store))})


def find_adapter(spec: str, store: Store) -> Version:
    """An adapter by name. Raises: VersionNotFoundError that lists the adapters that there are."""
    try:
        version = store.resolve(spec)
        if WEIGHTS in version.manifest.tables:
            return version
        told = f"{version} has no weights to put on a model"
    except VersionNotFoundError:
        told = f"{spec}: there is no such version"
    raise VersionNotFoundError(f"{told}; adapters in {store.url}: {_adapters(store)}")


def adapter_of(config: ModelEditorConfig, store: Store) -> Version | None:
    """The adapter that goes on a model, if any. Raises: VersionNotFoundError, ValueError for one of another model."""
    if config.adapter is None:
        return None
    version = find_adapter(config.adapter, store)
    trained_on = version.manifest.fingerprints.get("editor")
    found = fingerprint_of_model(config.model)
    if trained_on not in (found, fingerprint_of_model(_as_trained(config.model, version))):
        raise ValueError(
            f"{version} was trained on another model than {_name_of(config.model)}: on {trained_on}"
            f"{_told_of(version)}, and this one is {found}"
        )
    return version


def _as_trained(model: ModelConfig, adapter: Version) -> ModelConfig:
    """These weights at the sizes and with the guidance that an adapter was trained with.

    A fingerprint tells weights and settings in one. An adapter belongs to the weights alone: it may well be used at
    another size than it was trained at.
    """
    trained: dict[str, Any] = adapter.manifest.config.get("model", {}).get("settings", {})
    if model.kind != "diffusers":
        return model
    known = {name: value for name, value in trained.items() if name in asdict(model.settings)}
    here = {"model": model.settings.model, "revision": model.settings.revision}
    return DiffusersModel(settings=replace(model.settings, **{**known, **here}))


def _name_of(model: ModelConfig) -> str:
    return model.settings.model if model.kind == "diffusers" else f"the {model.kind}"


def _told_of(adapter: Version) -> str:
    """What an adapter's manifest says of its model, where it does."""
    model: dict[str, Any] = adapter.manifest.config.get("model", {})
    name = model.get("settings", {}).get("model") or model.get("kind")
    return f" ({name})" if name else ""


def _adapters(store: Store) -> str:
    numbers = store.numbers(ARTIFACT)
    latest = store.latest(ARTIFACT)
    names = [f"{ARTIFACT}@v{n}{f' ({LATEST})' if latest and latest.number == n else ''}" for n in numbers]
    return ", ".join(names) or "none, python -m flows.post_train makes one"
