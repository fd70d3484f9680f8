"""Prompts from built-in lists, servers, local language models and files; the views of A.1, the counts of Table 3."""

from __future__ import annotations

from chorus.frontend.prompting.table3 import PRESETS, VIEWS, Preset, category_name, preset, usual_count
from chorus.frontend.stage_info import FRONTEND_EXTRA, REVISION, StageInfo

__all__ = ["PRESETS", "STAGES", "VIEWS", "Preset", "category_name", "preset", "usual_count"]

_ASKING = (
    ("template", "a text file with the question; {m} stands for the number, {category} for the category, {subject} as below"),
    ("subject", 'what the question says of subjects: "category" (is person; the default) or "word" (is "A person")'),
    ("retries", "how often at most to ask again for what is missing, and to repeat a request that failed; default 3"),
)

STAGES: tuple[StageInfo, ...] = (
    StageInfo(
        kind="prompts",
        name="builtin",
        made_by="chorus.frontend.prompting.fixed:builtin",
        what="the project's own lists for the 24 categories of Table 3",
        model=None,
        licence="Apache-2.0, part of the project",
        weights="none",
        checked_by="chorus.frontend.prompting.fixed:check_builtin",
    ),
    StageInfo(
        kind="prompts",
        name="openai",
        made_by="chorus.frontend.prompting.servers:server",
        what="the question of A.1 to any server with OpenAI's chat completions, local ones included",
        model="",
        licence="openai SDK Apache-2.0; the model's and the server's own terms",
        weights="the model goes by its name on the server",
        needs=FRONTEND_EXTRA,
        requires=("openai",),
        checked_by="chorus.frontend.prompting.servers:check",
        options=(
            ("base_url", "the server, as in http://localhost:8000/v1; default: $OPENAI_BASE_URL, else OpenAI"),
            ("temperature", "0 .. 2; default: the server's"),
            ("seed", "passed on to servers that take one; default: none"),
            ("timeout", "seconds that a request may take; default 60"),
            *_ASKING,
        ),
    ),
    StageInfo(
        kind="prompts",
        name="local",
        made_by="chorus.frontend.prompting.local:local",
        what="the question of A.1 to a text-generation model of transformers, with its chat template if it has one",
        model="",
        licence="transformers Apache-2.0; the model's own licence",
        weights="a hub id or a folder with a causal language model and its tokenizer",
        needs=FRONTEND_EXTRA,
        requires=("transformers",),
        hub=("config.json",),
        checked_by="chorus.frontend.prompting.local:check",
        options=(
            ("temperature", "0 .. 2; 0 takes the likeliest word each time; default 0.7"),
            ("seed", "of the sampling of words; default 0"),
            ("max_tokens", "the most tokens that an answer may have; default 1024"),
            REVISION,
            *_ASKING,
        ),
    ),
    StageInfo(
        kind="prompts",
        name="file",
        made_by="chorus.frontend.prompting.fixed:file",
        what="prompts of a file: what `chorus prompts -o` writes, a JSON list, or text with a prompt a line",
        model="",
        local=True,
        licence="yours",
        weights="a file .json or .txt",
        checked_by="chorus.frontend.prompting.fixed:check_file",
    ),
)
