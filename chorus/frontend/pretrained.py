"""Loading models and processors of transformers, by a hub id or from a folder, for the stages that analyse pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from chorus.errors import InputError
from chorus.frontend.stages import Runtime

if TYPE_CHECKING:
    import torch


def load_pretrained(model: str, runtime: Runtime, model_class: str, processor_class: str) -> tuple[Any, Any]:
    """A model of transformers, ready on ``runtime.device`` with its dtype, and its processor.

    ``model_class`` and ``processor_class`` are names in transformers. InputError where the model cannot be loaded, is
    of another class or lacks weights; ImportError, naming what to install, without the library.
    """
    transformers = import_transformers(runtime.kind)
    where = location(model, runtime.kind, "config.json")
    with _quietly_naming(model, runtime.kind):
        config = transformers.AutoConfig.from_pretrained(where)
        expected = getattr(transformers, model_class).config_class.model_type
        if config.model_type != expected:
            raise InputError(f"--{runtime.kind}: expected a model of type {expected!r}, got {model!r} of {config.model_type!r}")
        processor = getattr(transformers, processor_class).from_pretrained(where)
        made, info = getattr(transformers, model_class).from_pretrained(
            where, dtype=dtype_of(runtime), output_loading_info=True
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
        raise ImportError(f'{kind}: {error}; transformers comes with pip install "chorus-hoi[frontend]"') from error
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


@contextlib.contextmanager
def naming(model: str, kind: str) -> Iterator[None]:
    """Turns errors while a model is loaded into an InputError that names the model."""
    try:
        yield
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:  # the hub's clients, safetensors and pickle each raise exceptions of their own
        raise InputError(
            f"--{kind}: expected a model that can be loaded, got {model!r}: {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def _quietly_naming(model: str, kind: str) -> Iterator[None]:
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
