"""`ringfence graph`: what a container provides and what asks for what, to read or to look at."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigurationError, ProviderError
from ..fence import Ringfence
from ..injection import Container, ProviderGraph
from ..injection.picture import as_svg
from ..injection.written import as_dot, as_mermaid, as_text

__all__ = ["command"]

REFUSED, COULD_NOT_RUN = 1, 2

FORMATS: dict[str, Callable[[ProviderGraph], str]] = {
    "text": as_text,
    "mermaid": as_mermaid,
    "dot": as_dot,
    "svg": as_svg,
}


@click.command("graph", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("address", metavar="WHERE")
@click.option(
    "--format", "format_name", type=click.Choice(list(FORMATS)), default="text", show_default=True,
    help="svg is a picture by itself; dot is Graphviz's.",
)  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Write it there, and not to stdout.")
def command(address: str, format_name: str, output: str | None) -> None:
    """
    Draw what the container at WHERE provides, by lifetime, and what asks for what.

    WHERE is `module:name` of a container, or of a fence that has one. Its module is imported,
    nothing is opened.

    \b
        ringfence graph app:container
        ringfence graph app:fence --format svg -o providers.svg

    Exit code: 0 if it was drawn, 1 if the graph is refused, 2 if it could not run.
    """
    try:
        drawn = FORMATS[format_name](_container(address).graph())
        _write(drawn, output)
    except ProviderError as error:
        click.echo(f"ringfence: {error}", err=True)
        sys.exit(REFUSED)
    except ConfigurationError as error:
        click.echo(f"ringfence: it could not run. {error.fact}\n{error.remedy}", err=True)
        sys.exit(COULD_NOT_RUN)


def _container(address: str) -> Container:
    found = _found(address)
    if isinstance(found, Ringfence):
        found = found.services
    if isinstance(found, Container):
        return found
    raise ConfigurationError(
        f"`{address}` is no container, and no fence that has one.",
        "Name what `Container()` or `Ringfence(services=...)` was assigned to.",
    )


def _found(address: str) -> Any:
    where, _, names = address.partition(":")
    if not where or not names:
        raise ConfigurationError(
            f"`{address}` does not name a container.", "Write it as `module:name`."
        )
    sys.path[:0] = [""] * ("" not in sys.path)  # as `python -m` does
    found = _imported(where)
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(
                f"`{where}` has no `{names}`.", "Name what it has: `module:name`."
            ) from None
    return found


def _imported(where: str) -> Any:
    try:
        return importlib.import_module(where)
    except Exception as error:
        if not isinstance(error, ImportError):  # it is there, and goes wrong: show where
            traceback.print_exc()
        raise ConfigurationError(
            f"The module `{where}` cannot be imported: {error}.",
            f"Start the command where `python -c 'import {where}'` works.",
        ) from error


def _write(drawn: str, output: str | None) -> None:
    if output is None:
        click.echo(drawn, nl=False)
        return
    try:
        Path(output).write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"`{output}` cannot be written: {error.strerror}.",
            "Name a file in a folder that is there.",
        ) from error
