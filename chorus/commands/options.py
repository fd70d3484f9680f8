"""Options that several commands take, and types for their values: numbers within bounds, places to write to.

Everything that can be known to be wrong before the work is refused here, while the command line is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Callback = TypeVar("_Callback", bound=Callable[..., Any])

SEED = click.IntRange(0, 2**62 - 1)
"""A random seed. Images of a run have seeds of their own, seed plus number, and all must fit 64 bits."""

MOST = 2**31 - 1
"""Bound of counts of images and the like, which must fit 32 bits with a sign."""

_FORCE = "chorus.force"
_OUTPUTS = "chorus.outputs"


class Count(click.IntRange):
    """How many: an integer from ``low`` to ``MOST``."""

    def __init__(self, low: int = 1) -> None:
        super().__init__(low, MOST)


class Number(click.FloatRange):
    """A number within bounds, as ``click.FloatRange``; not a number and infinities are refused, unless ``infinite``."""

    name = "number"

    def __init__(self, min: float | None = None, max: float | None = None, *, infinite: bool = False, **how: bool) -> None:
        super().__init__(min, max, **how)
        self.infinite = infinite

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or click's BadParameter."""
        number = super().convert(value, param, ctx)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            self.fail(f"expected a finite number, got {value!r}", param, ctx)
        return number


class Numbers(click.ParamType[tuple[Any, ...]]):
    """Numbers with commas between them, each as ``kind`` has it; an empty text is none of them."""

    name = "numbers"

    def __init__(self, kind: click.IntRange | Number) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The numbers, or click's BadParameter."""
        if not isinstance(value, str):
            return tuple(value)
        words = [word.strip() for word in value.split(",") if word.strip()]
        convert: Callable[..., Any] = self.kind.convert  # of texts; its own type is that of the numbers
        try:
            return tuple(convert(word, param, ctx) for word in words)
        except click.BadParameter as error:
            self.fail(f"expected numbers with commas between them, got {value!r}: {error.message}", param, ctx)


class InputPath(click.ParamType[Path]):
    """A file or folder to read, checked when the command line is read.

    urls  whether it may be a URL, as of a store, which is looked for later
    """

    name = "path"

    def __init__(self, urls: bool = False) -> None:
        self.urls = urls

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; InputError where there is none."""
        from chorus.errors import InputError, is_url

        path = Path(value)
        if is_url(str(value)):
            if not self.urls:
                raise InputError(f"{_name(param)}: expected a file or folder on this machine, got the URL {str(value)!r}")
            return path  # which has lost a slash that `chorus.store.urls.place_of` knows of
        if ctx is not None and not ctx.resilient_parsing and not path.exists():
            raise InputError(f"{_name(param)}: expected a file or folder that exists, got {str(path)!r}")
        return path


class OutputFile(click.ParamType[Path]):
    """A file to write. It is checked when the command line is read, before minutes of work, that it can be written there.

    suffixes  endings that the name may have, such as (".png",); none given: any
    replace   whether a file that exists is replaced without --force: for views of a result, not for results
    """

    name = "file"

    def __init__(self, *suffixes: str, replace: bool = False) -> None:
        self.suffixes = suffixes
        self.replace = replace

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; InputError for one that cannot be written, and for a file that exists, without --force."""
        from chorus.files import check_output_file

        path = _local(value, param)
        if ctx is not None and not ctx.resilient_parsing:
            name = _name(param)
            check_output_file(name, path, self.suffixes, replace=self.replace or ctx.meta.get(_FORCE, False))
            _check_different(name, path, ctx)
        return path


class OutputFolder(click.ParamType[Path]):
    """A folder to write files into, checked as ``OutputFile``; made by the command where it does not exist.

    result  a file that an earlier result in the folder has, and that is not replaced without --force; none given: the command
            goes on with what it finds in the folder
    """

    name = "folder"

    def __init__(self, result: str = "") -> None:
        self.result = result

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; InputError for one that cannot be written, and for one with an earlier result, without --force."""
        from chorus.files import check_output_folder

        path = _local(value, param)
        if ctx is not None and not ctx.resilient_parsing:
            name = _name(param)
            check_output_folder(name, path, self.result, replace=not self.result or ctx.meta.get(_FORCE, False))
            _check_different(name, path, ctx)
        return path


class OutputStore(click.ParamType[Path]):
    """A store to make or to add to, checked as ``OutputFile``.

    new  whether it must not exist
    """

    name = "store"

    def __init__(self, new: bool = False) -> None:
        self.new = new

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; InputError for one that is neither a store, nor an empty folder, nor a new name in a folder."""
        from chorus.errors import InputError
        from chorus.store.writer import check_output_store

        path = _local(value, param)
        if ctx is not None and not ctx.resilient_parsing:
            check_output_store(_name(param), path)
            if self.new and path.exists() and any(path.iterdir()):
                raise InputError(f"{_name(param)}: expected a new name, got {str(path)!r}, which exists")
        return path


class Canonicalization(click.ParamType[str]):
    """The name of a canonicalization, or auto; whether the body has its joint is found out later."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name; InputError for one that no canonicalization has."""
        from chorus.canonicalization import AUTO, check_name

        return check_name(value, also=(AUTO,))


class _Share(click.ParamType[Any]):
    """i/n, read as a ``chorus.ranks.Share``."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from chorus.errors import InputError
        from chorus.ranks import Share

        if not isinstance(value, str):
            return value
        try:
            return Share.parse(value)
        except InputError as error:
            self.fail(str(error).removeprefix("share: "), param, ctx)


share_option = click.option(
    "--share",
    type=_Share(),
    default="1/1",
    metavar="I/N",
    help="Do the I-th of N shares of the work (about as much each): for job arrays.  [default: all of it]",
)
"""A command's function gets it as ``share``, a ``chorus.ranks.Share``."""
INPUT = InputPath()
"""A file or folder to read."""
STORE = InputPath(urls=True)
"""A store to read: a folder, a zip file, a URL."""
PICTURE = OutputFile(".png", ".pdf", ".svg", replace=True)
"""A picture to draw, in the format of its ending."""
MESH = OutputFile(".glb", ".ply", ".obj", replace=True)
"""A surface to write, in the format of its ending."""


def _name(param: click.Parameter | None) -> str:
    """What the user calls a parameter: the longest of an option's names, an argument's metavar."""
    if param is None:
        return "output"
    return max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name.strip("[].")


def _local(value: Any, param: click.Parameter | None) -> Path:
    """The path of something to write; InputError for a URL."""
    from chorus.errors import InputError, is_url

    if is_url(str(value)):
        raise InputError(f"{_name(param)}: expected a place on this machine, got the URL {str(value)!r}: URLs are only read")
    return Path(value)


def _check_different(name: str, path: Path, ctx: click.Context) -> None:
    """InputError where two options of a command name one file, of which the second would replace the first."""
    from chorus.errors import InputError

    outputs: dict[Path, str] = ctx.meta.setdefault(_OUTPUTS, {})
    other = outputs.setdefault(path.absolute(), name)
    if other != name:
        raise InputError(f"{name}: expected another file than that of {other}, got {str(path)!r}")


def _remember_force(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_FORCE] = value


def forced() -> bool:
    """Whether the command that runs was given --force."""
    return bool(click.get_current_context().meta.get(_FORCE, False))


force_option = click.option(
    "--force",
    is_flag=True,
    is_eager=True,  # read before the outputs, which ask for it
    expose_value=False,
    callback=_remember_force,
    help="Replace results that exist (pictures and meshes are replaced without it).",
)


def json_option(help: str = "Print the result as JSON.") -> Callable[[_Callback], _Callback]:
    """The option ``--json``; a command's function gets it as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=help)


filter_option = click.option(
    "--filter",
    "filter_name",
    default="store",
    show_default=True,
    metavar="NAME|PATH",
    help="Which complete images count: store (the store's filter, if it has one), none, paper, soft, or a filter's file.",
)
canonicalization_option = click.option(
    "--canonicalization",
    type=Canonicalization(),
    help="What carries a voxel: lbs (the default), lbs-nearest, none, joint:NAME (such as joint:right_hand), per-voxel (each "
    "its own joint, found from the images), or auto: of all but per-voxel the one that foretells held-out masks best.",
)
no_canonicalize_option = click.option(
    "--no-canonicalize", is_flag=True, help="The ablation: every voxel rigid with the pelvis, as --canonicalization none."
)


def canonical_field(
    body_path: Path | None, resolution: int, canonicalization: str | None, no_canonicalize: bool = False
) -> tuple[Any, str | None]:
    """The field that two options ask for, and what must yet be derived of it from images: auto, per-voxel or None.

    Raises click.UsageError where they contradict each other, InputError for a joint that the body does not have.
    """
    from chorus.body.model import load_body
    from chorus.canonicalization import AUTO, LBS, NONE, PER_VOXEL
    from chorus.field import CanonicalField

    if no_canonicalize and canonicalization not in (None, NONE):
        raise click.UsageError(
            f"--no-canonicalize is --canonicalization {NONE}: give one of them, not also --canonicalization {canonicalization}"
        )
    name = NONE if no_canonicalize else canonicalization or LBS
    body = load_body(body_path)
    if name in (AUTO, PER_VOXEL):
        return CanonicalField(body, resolution), name
    return CanonicalField(body, resolution, canonicalization=name), None


body_option = click.option(
    "--body",
    "body_path",
    type=INPUT,
    help="A body file (SMPL .pkl or .npz); default: the built-in mannequin.",
)
joined_prompt_option = click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="Only images of this prompt, or pattern with *; '*': of any (repeatable).  [default: the occupancy's own]",
)
"""For commands that join an occupancy with a store; a command's function gets it as ``prompts``."""
joined_part_option = click.option(
    "--part",
    help="Only images whose object touches these body parts; '*': whatever it touches.  [default: the occupancy's own]",
)
"""For commands that join an occupancy with a store."""
parts_option = click.option(
    "--parts",
    type=INPUT,
    help="A JSON file {part: [vertices or joints]}, instead of the 12 parts of the body.",
)
epsilon_option = click.option(
    "--epsilon",
    default=0.13,
    show_default=True,
    type=Number(min=0, min_open=True),
    help="Radius of the parts' regions, metres.",
)
fold_option = click.option(
    "--fold",
    "folds",
    multiple=True,
    type=click.IntRange(0, 9),
    help="Only images of this fold, 0 to 9 by a hash of their key (repeatable).",
)


class _PoseError(click.ParamType[str]):
    """NAME:SCALE of a recorded pose's error, checked and kept as text."""

    name = "name:scale"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from chorus.errors import InputError
        from chorus.simulate.pose_errors import PoseError

        try:
            return str(PoseError.parse(value))
        except InputError as error:
            self.fail(str(error).removeprefix("pose_error: "), param, ctx)


def record_options(function: _Callback) -> _Callback:
    """``--pose-error`` and ``--shapes``: what is wrong in the record of simulated images."""
    for option in (
        click.option(
            "--shapes",
            "shape_spread",
            default=0.0,
            show_default=True,
            type=Number(0, 5),
            help="People of varied builds (sigma of the shape coefficients), recorded as the template.",
        ),
        click.option(
            "--pose-error",
            "pose_errors",
            multiple=True,
            type=_PoseError(),
            help="Record wrong poses (repeatable): axis, chain, tilt with radians; swap, flip with a share.",
        ),
    ):
        function = option(function)
    return function
