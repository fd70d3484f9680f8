"""What commands with ``--share`` have in common, where each share keeps its results beside the output of the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chorus.commands.console import out, print_json, wrote

if TYPE_CHECKING:
    from chorus.ranks import Share


def check_share(share: Share, output: Path | None, **others: object) -> None:
    """InputError for a share without ``output``, and for one with others of the options, which need all results."""
    from chorus.errors import InputError

    if share.whole:
        return
    if output is None:
        raise InputError("share: expected -o FILE, beside which the results of every share are kept, got none")
    if any(others.values()):
        names = " and ".join(f"no --{name}" for name in others)
        raise InputError(f"share: expected {names}, which the command without --share makes of all results")


def tell_share(share: Share, scored: tuple[int, str], kept: int, kept_in: Path | None, as_json: bool) -> None:
    """Print what a share has scored now, where it is kept, and what to do next.

    scored  how much, and in words      kept  how much with what it had scored before      kept_in  the file
    """
    written = [kept_in] if kept and kept_in is not None else []
    if as_json:
        print_json({"share": str(share), "scored": scored[0], "kept": kept, "wrote": written})
        return
    out.print(f"share {share}: scored {scored[1]}; {kept:,} kept")
    out.print("after all shares, the same command without --share takes what they have kept and writes the result")
    wrote(*written)
