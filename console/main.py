"""The one command, ``cloister``. Trust zone: the member's own machine.

Command modules are imported to be mounted: nothing heavy may stand at their top, or ``cloister --help`` is slow.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click
import typer
from typer.core import TyperGroup

from console.output import ExitCode, Failure, print_failure

# One module of console.commands for each, in the order in which --help lists them.
_COMMANDS = (
    "demo",
    "member",
    "charter",
    "plan",
    "app",
    "site_policy",
    "coordinator",
    "aggregator",
    "worker",
    "privacy",
    "data",
    "run",
    "model",
    "keys",
    "attest",
    "collateral",
    "measure",
    "tee",
    "doctor",
)
# Rooms above the console add commands of their own under this group of entry points: "simulate" is one.
_GROUP = "cloister.commands"


_TYPER_STOPPED = 130  # what typer makes of Ctrl-C when it is not in standalone mode


class _Shell(TyperGroup):
    """The outermost group: errors of usage become exit code 2, and JSON where JSON was asked for."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run one command and leave the process with its exit code."""
        arguments = list(sys.argv[1:] if args is None else args)
        options |= {"standalone_mode": False, "prog_name": "cloister"}
        json_output = "--json" in arguments
        try:
            code = super().main(arguments, *rest, **options)
        except click.exceptions.NoArgsIsHelpError:
            sys.exit(ExitCode.USAGE)  # the help is all there is to say
        except click.UsageError as error:
            sys.exit(_usage(error, json_output=json_output))
        except (click.Abort, KeyboardInterrupt):
            sys.exit(_stopped(json_output=json_output))
        if code == _TYPER_STOPPED:
            sys.exit(_stopped(json_output=json_output))
        sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _stopped(*, json_output: bool) -> int:
    failure = Failure("CLI-004", "stopped", "Nothing was written after this point.", ExitCode.FAILURE)
    print_failure(failure, json_output=json_output)
    return int(ExitCode.FAILURE)


def _usage(error: click.UsageError, *, json_output: bool) -> int:
    command = error.ctx.command_path if error.ctx is not None else "cloister"
    failure = Failure("CLI-002", error.format_message(), f"See `{command} --help`.", ExitCode.USAGE)
    print_failure(failure, json_output=json_output)
    return int(ExitCode.USAGE)


def build_app() -> typer.Typer:
    """The typer application with every command that is installed here."""
    app = typer.Typer(
        name="cloister",
        cls=_Shell,
        help="Train one model across organisations that may not show each other their data.",
        epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 policy, 4 attestation, 5 integrity, 6 unreachable, 7 timeout.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # a pretty traceback prints local variables, and those may be keys
    )
    for name in _COMMANDS:
        _mount(app, name)
    for point in sorted(entry_points(group=_GROUP), key=lambda point: point.name):
        _mount_installed(app, point)
    return app


def _mount_installed(app: typer.Typer, point: EntryPoint) -> None:
    """Mount a typer application that an installed package offers; none takes the place of a command of ours.

    Its package may be told as installed and be left out all the same: then it is not offered, as with our own.
    """
    if point.name.replace("-", "_") in _COMMANDS:
        return
    try:
        offered = point.load()
    except ModuleNotFoundError:
        return
    app.add_typer(offered, name=point.name)


def _mount(app: typer.Typer, name: str) -> None:
    """Mount ``app`` or ``command`` of one module. Images leave out what they do not need; then it is not offered."""
    path = f"console.commands.{name}"
    if importlib.util.find_spec(path) is None:
        return
    module = importlib.import_module(path)
    shown = name.replace("_", "-")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=shown)
    else:
        app.command(name=shown)(module.command)


def main() -> None:
    """Entry point of the ``cloister`` command."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core writes to stderr what our own errors say in words
    build_app()()
