"""The command `ringfence`: one group; each subcommand is a module here, loaded when called."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["main"]

# name -> (the extra it needs, one line for --help); `command` of the module so named is run
COMMANDS: dict[str, tuple[str, str]] = {
    "graph": ("cli", "Draw what a container provides, and what asks for what."),
    "migrate": ("migrate", "Move a code base from the two older context classes onto ringfence."),
    "torture": ("torture", "Try to mix up the users of your own application."),
}


def main() -> None:
    """Run the command; says which extra is missing, if one is."""
    try:
        import click
    except ImportError:
        sys.exit("ringfence: the command needs the extra `cli`: pip install 'ringfence[cli]'")

    from .. import __version__

    class Missing(click.ClickException):
        """What a command needs is not installed; 1 would say that it found something."""

        exit_code = 2

    class Lazy(click.Group):
        """Imports a subcommand when it is called: each brings dependencies of its own."""

        def list_commands(self, ctx: click.Context) -> list[str]:
            return sorted(COMMANDS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            if cmd_name not in COMMANDS:
                return None
            extra, _ = COMMANDS[cmd_name]
            try:
                command: Any = importlib.import_module(f".{cmd_name}", __name__).command
            except ImportError as error:
                raise Missing(
                    f"`ringfence {cmd_name}` needs the extra `{extra}`: "
                    f"pip install 'ringfence[{extra}]' ({error})"
                ) from None
            return command  # type: ignore[no-any-return]

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            """Without importing them all."""
            with formatter.section("Commands"):
                formatter.write_dl(
                    [(name, COMMANDS[name][1]) for name in sorted(COMMANDS)] or [("", "")]
                )

    @click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, prog_name="ringfence")
    def ringfence() -> None:
        """Run many users in one async process without mixing them up."""

    ringfence(prog_name="ringfence")
