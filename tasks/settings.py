"""Settings: frozen, checked, and clear about which of them decide a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_PASSING = {"decides_the_result": False}


def passing(default: Any, description: str, **limits: Any) -> Any:
    """A field that says how work is done, such as a time-out: with another value the same comes out."""
    return Field(default, description=description, json_schema_extra=dict(_PASSING), **limits)


class Settings(BaseModel):
    """What a user sets. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def deciding(self) -> dict[str, Any]:
        """The settings that decide a result, as JSON."""
        whole = self.model_dump(mode="json")
        return {
            name: _deciding(getattr(self, name), whole[name])
            for name, field in type(self).model_fields.items()
            if field.json_schema_extra != _PASSING
        }


def _deciding(value: Any, dumped: Any) -> Any:
    if isinstance(value, Settings):
        return value.deciding()
    if isinstance(value, Mapping):
        return {key: _deciding(one, dumped[key]) if key in dumped else None for key, one in value.items()}
    return dumped
