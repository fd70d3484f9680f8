"""``chorus prompts``: the prompts of a category, ahead of a run or for a look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus.commands.console import err, out, print_json, wrote
from chorus.commands.options import Count, OutputFile, force_option, json_option
from chorus.commands.stage_options import assigned_options


@click.command("prompts", short_help="Sentences about a person and an object, for images.")
@click.argument("category")
@click.option(
    "--prompts",
    "source",
    default="builtin",
    show_default=True,
    metavar="builtin|openai=MODEL|local=MODEL|file=PATH|module:Class",
    help="Where they come from: the project's lists, a server, a language model on this machine (hub id or folder), a file.",
)
@click.option("--source", "earlier_name", hidden=True)
@click.option(
    "--count",
    type=Count(),
    help="At most this many; default: as many as the paper has for the category, else 10; of a file all.",
)
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="An option of the source (repeatable).")
@click.option("--device", default="cpu", show_default=True, help="For local: cpu, cuda, cuda:1, ...")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "float16", "bfloat16"]))
@click.option("-o", "--output", type=OutputFile(), help="Write them as JSON, which file=PATH reads again.")
@click.option(
    "--views",
    is_flag=True,
    help="Show each sentence with its 22 additions, such as 'side view', as image models are given them.",
)
@force_option
@json_option()
def prompts_command(
    category: str,
    source: str,
    earlier_name: str | None,
    count: int | None,
    assignments: tuple[str, ...],
    device: str,
    dtype: str,
    output: Path | None,
    views: bool,
    as_json: bool,
) -> None:
    """Sentences about a person and an object of CATEGORY, to make images from.

    A language model is asked the paper's question. With --views each sentence is shown with the paper's 22 additions, such as
    "side view", that make for images from all sides.
    """
    from chorus.files import write_json
    from chorus.frontend.devices import resolve
    from chorus.frontend.preparing import make_stages
    from chorus.frontend.prompting import VIEWS, category_name, usual_count
    from chorus.frontend.stages import ImageRequest, Runtime, dropped_prompts, prompt_provenance

    name = category_name(category)
    where, precision = resolve(device, dtype)
    source, options = earlier_name or source, assigned_options(assignments, "prompts")
    stage = make_stages({"prompts": source}, options, Runtime(where, precision), name)["prompts"]
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
