"""The command line reference, from the commands that Typer runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from rapipe.cli import app
from website.markdown import plain

INTRODUCTION = """# Command line reference

What `rapipe COMMAND --help` says of each command. A mistake is one sentence and exit code 2.
`rapipe --install-completion` lets the shell complete commands and options.
"""


def write(out: Path) -> None:
    """Write `command-line.md` into a folder."""
    parts = [INTRODUCTION, *(_section(name, command) for name, command in commands().items())]
    (out / "command-line.md").write_text("\n\n".join(parts) + "\n")


def commands() -> dict[str, Any]:
    """Typer's commands by what is typed, such as `rapipe store info`; `rapipe` itself first."""
    return dict(_commands("rapipe", typer.main.get_command(app)))


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    for word, part in inner.items():
        yield from _commands(f"{name} {word}", part)


def options(command: Any) -> set[str]:
    """The options of a command, such as `--json`."""
    parameters = command.get_params(typer.Context(command))
    return {name for parameter in parameters for name in parameter.opts if name.startswith("-")}


def _section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    lines = [f"## {name}", "", plain(command.help or ""), "", "```", usage, "```", ""]
    rows = [
        record
        for parameter in command.get_params(context)
        if parameter.name != "help" and (record := parameter.get_help_record(context))
    ]
    if rows:
        lines += ["| argument or option | meaning |", "|---|---|"]
        lines += [f"| {plain(spelled)} | {plain(words)} |" for spelled, words in rows]
    return "\n".join(lines)
