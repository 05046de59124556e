"""Settings on a command line, as JSON or in a file of it. What is wrong with them is told by field."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

Read = TypeVar("Read")
Config = TypeVar("Config", bound=BaseModel)


def json_argument(adapter: TypeAdapter[Read]) -> Callable[[str], Read]:
    """The type of an argument that is JSON, which begins with a brace, or the name of a file of it, after @ or not.

    Returns: reads it. Raises: argparse.ArgumentTypeError that names the file and the fields that are wrong.
    """

    def read(text: str) -> Read:
        if text.lstrip().startswith("{"):
            return checked(text, "")
        path = Path(text.removeprefix("@"))
        try:
            return checked(path.read_bytes(), f"{path}: ")
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is neither JSON nor a file: {error.strerror}") from error

    def checked(content: str | bytes, where: str) -> Read:
        try:
            return adapter.validate_json(content)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(where + faults(error)) from error

    return read


def file_argument(text: str) -> str:
    """The type of an argument that is a file. Raises: argparse.ArgumentTypeError where there is none."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return text


def faults(error: ValidationError) -> str:
    """What is wrong, as `field: message`."""
    told = ((".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors())
    return "; ".join(f"{field}: {message}" if field else message for field, message in told)


def add_config(parser: argparse.ArgumentParser, default: BaseModel, parts: Mapping[str, TypeAdapter[Any]] = {}) -> None:
    """The option `--config`.

    Args:
        parts: fields of the configuration that have an option of their own, and what they are.
    """
    for name, adapter in parts.items():
        parser.add_argument(
            f"--{name}", type=json_argument(adapter), metavar="JSON", help=f"the field {name} of --config"
        )
    parser.add_argument(
        "--config",
        type=json_argument(TypeAdapter(type(default))),
        default=default,
        metavar="JSON",
        help=f"{type(default).__name__}: JSON, or a file of it (the miniature's)",
    )


def config_of(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    default: Config,
    parts: Mapping[str, TypeAdapter[Any]] = {},
) -> Config:
    """What `--config` and the options of its parts say together; that both name a field is a mistaken command."""
    config: Config = arguments.config
    told = {name: value for name in parts if (value := getattr(arguments, name)) is not None}
    for name in told:
        if config is not default and name in config.model_fields_set:
            parser.error(f"argument --{name}: --config has a field {name}, too; name it once")
    return config.model_copy(update=told)
