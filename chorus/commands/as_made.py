"""Options that an occupancy brings with it: what it was made with, for commands that ask again for the same images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from chorus.field import CanonicalField
    from chorus.occupancy.counts import Occupancy

_PARAMETERS = {"prompt": "prompts", "filter": "filter_name"}
"""Arguments whose parameter of the command has another name."""


def given(ctx: click.Context, name: str) -> bool:
    """Whether an argument was given on the command line."""
    return ctx.get_parameter_source(_PARAMETERS.get(name, name)) is not click.core.ParameterSource.DEFAULT


def take_selection(ctx: click.Context, occupancy: Occupancy, how: dict[str, Any], names: Iterable[str], what: str) -> None:
    """Set those of ``how``'s arguments with these names that were not given to what the occupancy was made with.

    what  what errors call the occupancy; InputError for one that does not say which images it was made from, or several times
    """
    from chorus.occupancy.merging import selection_of

    was = {**selection_of(occupancy, what), "scheme": occupancy.scheme.name, "weighting": occupancy.weighting}
    for name in names:
        if not given(ctx, name) and was[name] is not None:
            how[name] = was[name]


def own_field(ctx: click.Context, occupancy: Occupancy, body: Any, what: str) -> CanonicalField:
    """The occupancy's field around a body; MismatchError where another resolution was asked for."""
    from chorus.errors import MismatchError
    from chorus.field import CanonicalField

    p, asked = occupancy.parameters, ctx.params["resolution"]
    if given(ctx, "resolution") and asked != p.resolution:
        raise MismatchError(f"{what}: expected the occupancy's resolution, {p.resolution}, got {asked}")
    return CanonicalField.from_parameters(body, p)


def asked_canonicalization(ctx: click.Context) -> str | None:
    """The canonicalization that was asked for; None: none was."""
    from chorus.canonicalization import NONE

    name: str | None = NONE if ctx.params["no_canonicalize"] else ctx.params["canonicalization"]
    return name
