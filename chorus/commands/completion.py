"""``chorus completion``: the lines that make a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion", short_help="Have your shell complete commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete chorus's commands and options on Tab.

    \b
    For this shell:   eval "$(chorus completion bash)"       (zsh likewise)
    For all to come:  chorus completion bash >> ~/.bashrc
    With fish:        chorus completion fish > ~/.config/fish/completions/chorus.fish
    """
    made = get_completion_class(shell)
    assert made is not None  # click has all three
    click.echo(made(ctx.find_root().command, {}, "chorus", "_CHORUS_COMPLETE").source())
