"""How ``--help`` looks: one line for each option, so that a command's help fits a screen."""

from __future__ import annotations

import argparse
import re

_WIDEST_OPTION = 28
_GROUP = re.compile(r"\n\n(?=[\w ]+:\n  -)")
"""The empty line before a group of options."""


class HelpText(argparse.RawDescriptionHelpFormatter):
    """argparse's formatter with ``-t, --tag REF`` written once, and groups that stand close together."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_WIDEST_OPTION)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def format_help(self) -> str:
        """The whole text."""
        head, *groups = _GROUP.split(super().format_help())
        return "\n".join([f"{head}\n", *groups]) if groups else head


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    words: str,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    """A command whose help is its description, its options and an example.

    ``words`` are its name and what it takes, as in ``build CONTEXT``.
    """
    name, _, operands = words.partition(" ")
    command = commands.add_parser(
        name,
        usage=f"asyncbuild {name} [options] {operands}",
        help=summary,
        description=description,
        epilog=example,
        formatter_class=HelpText,
        allow_abbrev=False,
        add_help=False,
    )
    command.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    return command
