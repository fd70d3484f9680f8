"""Loading models and processors of transformers, by a hub id or from a folder, for the stages that analyse pictures."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from chorus.errors import InputError
from chorus.frontend.stage_info import FRONTEND_EXTRA
from chorus.frontend.stages import Runtime

if TYPE_CHECKING:
    import torch


_PATIENCE = 10.0
"""Seconds that the hub has for an answer."""


def load_pretrained(model: str, runtime: Runtime, model_class: str, processor_class: str) -> tuple[Any, Any]:
    """A model of transformers, ready on ``runtime.device`` with its dtype, and its processor.

    ``model_class`` and ``processor_class`` are names in transformers. InputError where the model cannot be loaded, is
    of another class or lacks weights; ImportError, naming what to install, without the library. The option ``revision`` says
    which commit, tag or branch of a model of the hub is taken.
    """
    transformers = import_transformers(runtime.kind)
    revision = runtime.options.get("revision")
    where = reach(model, runtime.kind, "config.json", revision)
    with quietly_naming(model, runtime.kind):
        config = transformers.AutoConfig.from_pretrained(where, revision=revision)
        expected = getattr(transformers, model_class).config_class.model_type
        if config.model_type != expected:
            raise InputError(f"--{runtime.kind}: expected a model of type {expected!r}, got {model!r} of {config.model_type!r}")
        processor = getattr(transformers, processor_class).from_pretrained(where, revision=revision)
        made, info = getattr(transformers, model_class).from_pretrained(
            where, revision=revision, dtype=dtype_of(runtime), output_loading_info=True
        )
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers fills what is missing with random numbers and only warns.
        raise InputError(
            f"--{runtime.kind}: expected all weights of {model_class} in {model!r}, {len(missing)} are missing, as {missing[0]}"
        )
    try:
        return made.to(runtime.device).eval(), processor
    except (RuntimeError, AssertionError) as error:  # AssertionError: "Torch not compiled with CUDA enabled"
        raise InputError(f"device: expected one that holds the model, got {runtime.device!r}: {error}") from error


def import_transformers(kind: str) -> Any:
    """The module ``transformers``. ImportError, naming what to install, where it is missing."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{kind}: {error}; transformers comes with {FRONTEND_EXTRA}") from error
    return transformers


def dtype_of(runtime: Runtime) -> torch.dtype:
    """The torch dtype of ``runtime.dtype``. InputError for an unknown one."""
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if runtime.dtype not in known:
        raise InputError(f"dtype: expected {' or '.join(known)}, got {runtime.dtype!r}")
    return known[runtime.dtype]


def location(model: str, kind: str, index: str) -> str:
    """The model as the libraries take it: a hub id, or a folder that holds the file ``index``.

    InputError for a text that is meant as a folder and names none, before the hub is asked.
    """
    path = os.path.expanduser(model)
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, index)):
            raise InputError(f"--{kind}: expected a folder that holds {index}, got {model!r}")
        return path
    if os.path.isfile(path) or model.startswith((".", "~")) or os.path.isabs(path) or model.count("/") > 1:
        raise InputError(f"--{kind}: expected a hub id, or a folder that save_pretrained wrote; got {model!r}")
    return model


def local_config(model: str, index: str = "config.json") -> dict[str, Any]:
    """What the file ``index`` of a model's folder says; nothing for a hub id. InputError for a file that is no JSON object."""
    path = os.path.join(os.path.expanduser(model), index)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a model's configuration in JSON, got {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a model's configuration, a JSON object, got a {type(content).__name__}")
    return content


def split_models(text: str, count: int, kind: str) -> list[str]:
    """The ``count`` hub ids or folders that a text names, separated by commas. InputError for another number of them."""
    parts = [part.strip() for part in text.split(",")] if count > 1 else [text]
    if len(parts) != count or not all(parts):
        raise InputError(f"--{kind}: expected {count} models, separated by commas, got {text!r}")
    return parts


def split_revisions(runtime: Runtime, count: int) -> list[str | None]:
    """The revision of each of a stage's ``count`` models by the option ``revision``; None for the hub's main branch.

    Of several models the revisions are separated by commas, and an empty one is None. InputError for another number of them.
    """
    text = runtime.options.get("revision")
    if text is None:
        return [None] * count
    parts = [part.strip() for part in text.split(",")] if count > 1 else [text.strip()]
    if len(parts) != count or not any(parts):
        expected = "a commit, tag or branch" if count == 1 else f"{count} revisions, one a model, separated by commas"
        raise InputError(f"{runtime.option_name('revision')}: expected {expected}, got {text!r}")
    return [part or None for part in parts]


def each_model(text: str, runtime: Runtime, count: int) -> list[tuple[str, Runtime]]:
    """The ``count`` models that a text names, each with a runtime whose option ``revision`` is its own.

    InputError as of ``split_models`` and ``split_revisions``.
    """
    found = []
    for model, revision in zip(split_models(text, count, runtime.kind), split_revisions(runtime, count), strict=True):
        others = {name: value for name, value in runtime.options.items() if name != "revision"}
        options = others if revision is None else {**others, "revision": revision}
        found.append((model, replace(runtime, options=options)))
    return found


class HubUnreachableError(InputError):
    """The hub cannot be asked for ``model``, and this machine does not hold it."""

    def __init__(self, text: str, model: str) -> None:
        super().__init__(text)
        self.model = model


def reach(model: str, kind: str, index: str, revision: str | None = None) -> str:
    """``location``, after a hub id was looked up: a model's folder in the hub's cache where the hub cannot be asked.

    The hub's own clients repeat what fails for half a minute, and then say that a file is missing. Here it is asked once.
    InputError, saying what to do, where the model is neither on the hub nor on this machine; HubUnreachableError, which is one,
    where the hub could not be asked. Nothing is downloaded.
    """
    place = location(model, kind, index)
    if os.path.isdir(place):
        return place
    try:
        _ask_hub(place, kind, revision)
    except ConnectionError as error:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(place, index, revision=revision)
        if isinstance(cached, str):
            return os.path.dirname(cached)
        raise HubUnreachableError(
            f"--{kind}: expected {model!r} from the Hugging Face hub, which cannot be reached ({error}); without a network "
            f"name a folder with the model, which save_pretrained wrote, as in --{kind} NAME=FOLDER",
            model,
        ) from error
    return place


@lru_cache(maxsize=64)
def _ask_hub(model: str, kind: str, revision: str | None) -> None:
    """Ask whether the hub has a model. InputError where it cannot be had, ConnectionError where the hub cannot be reached.

    A model that is there is asked for once a process.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(model, revision=revision, timeout=_PATIENCE)
    except GatedRepoError as error:
        terms = f"whose terms must be accepted at https://huggingface.co/{model}, and `hf auth login` done"
        raise InputError(f"--{kind}: expected a model that you may use, got {model!r}, {terms}") from error
    except RevisionNotFoundError as error:
        raise InputError(f"--set {kind}.revision: expected one that {model!r} has, got {revision!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"--{kind}: expected the id of a model on the Hugging Face hub, or a folder with one; got {model!r}"
        ) from error
    except Exception as error:  # of the network, in the exceptions of whatever client the library uses
        raise ConnectionError(" ".join(str(error).split())[:200] or type(error).__name__) from error


@contextlib.contextmanager
def naming(model: str, kind: str) -> Iterator[None]:
    """Turns errors while a model is loaded into an InputError that names the model."""
    try:
        with warnings.catch_warnings():  # of what the libraries deprecate in one another
            warnings.simplefilter("ignore")
            yield
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:  # the hub's clients, safetensors and pickle each raise exceptions of their own
        raise InputError(
            f"--{kind}: expected a model that can be loaded, got {model!r}: {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def quietly_naming(model: str, kind: str) -> Iterator[None]:
    """``naming``, with the progress bars and warnings of transformers switched off."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with naming(model, kind):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
