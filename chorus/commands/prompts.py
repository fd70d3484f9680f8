"""``chorus prompts``: the prompts of a category, ahead of a run or for a look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus.commands.console import err, out, print_json, wrote
from chorus.commands.options import OutputFile, force_option, json_option


@click.command("prompts", short_help="Sentences about a person and an object, to make images from.")
@click.argument("category")
@click.option(
    "--source",
    "--prompts",
    "source",
    default="builtin",
    show_default=True,
    metavar="builtin|openai=MODEL|local=MODEL|file=PATH|module:Class",
    help="Where they come from: the project's lists, a server, a language model on this machine (hub id or folder), a file.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    help="At most this many; default: Table 3's number for the category, else 10; of a file all.",
)
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="An option of the source (repeatable).")
@click.option("--device", default="cpu", show_default=True, help="For local: cpu, cuda, cuda:1, ...")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "float16", "bfloat16"]))
@click.option("-o", "--output", type=OutputFile(), help="Write them as JSON, which file=PATH reads again.")
@click.option("--views", is_flag=True, help="Show each prompt with its 22 view augmentations, as image models are given them.")
@force_option
@json_option()
def prompts_command(
    category: str,
    source: str,
    count: int | None,
    assignments: tuple[str, ...],
    device: str,
    dtype: str,
    output: Path | None,
    views: bool,
    as_json: bool,
) -> None:
    """Sentences about a person and an object of CATEGORY, to make images from.

    The question and the 22 view augmentations are the paper's.
    """
    from chorus.files import write_json
    from chorus.frontend.prompting import VIEWS, category_name, usual_count
    from chorus.frontend.registry import make
    from chorus.frontend.stages import ImageRequest, Runtime, dropped_prompts, prompt_provenance

    name = category_name(category)
    stage = make("prompts", source, Runtime(device, dtype, options=_options(assignments)))
    prompts = stage.prompts(name, usual_count(name, source) if count is None else count)
    content: dict[str, Any] = {"category": name, "prompts": prompts, "source": prompt_provenance(stage, source)}
    if output is not None:
        write_json(output, content)
    texts = [ImageRequest("", prompt, view).text for prompt in prompts for view in VIEWS]
    if as_json:
        shown = {**content, "dropped": [vars(item) for item in dropped_prompts(stage)]}
        print_json({**shown, **({"views": VIEWS, "texts": texts} if views else {}), **({"wrote": output} if output else {})})
        return
    for item in dropped_prompts(stage):
        err.print(f"dropped: {item.text[:120]!r}: {item.reason}")
    out.print("\n".join(texts if views else prompts))
    if output is not None:
        wrote(output)


def _options(assignments: tuple[str, ...]) -> dict[str, str]:
    """The source's options from NAME=VALUE, or prompts.NAME=VALUE as in `chorus synthesize`. InputError for other texts."""
    from chorus.errors import InputError

    options = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.removeprefix("prompts.")
        if not equals or not name:
            raise InputError(f"--set: expected NAME=VALUE, got {text!r}")
        options[name] = value
    return options
