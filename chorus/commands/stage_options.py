"""``--set``: options of the front end's stages on a command line."""

from __future__ import annotations

from collections.abc import Sequence


def assigned_options(assignments: Sequence[str], kind: str = "") -> dict[str, str]:
    """ "KIND.NAME" -> VALUE from texts KIND.NAME=VALUE, as --set is given them, VALUE being anything.

    kind  of the stage that is meant by NAME=VALUE alone; "": none, all texts name one

    The last of several values for one name counts. InputError for texts without ``=`` or name.
    """
    from chorus.errors import InputError

    form = "NAME=VALUE" if kind else "KIND.NAME=VALUE"
    options: dict[str, str] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--set: expected {form}, got {text!r}")
        if kind and not name.startswith(f"{kind}."):
            name = f"{kind}.{name}"
        options[name] = value
    return options
