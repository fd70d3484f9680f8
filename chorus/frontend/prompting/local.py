"""Prompts from a text-generation model on this machine."""

from __future__ import annotations

from typing import Any

from chorus.errors import InputError
from chorus.frontend.pretrained import quietly_naming, reach
from chorus.frontend.prompting.asking import Answer, Asking, Question
from chorus.frontend.stage_info import FRONTEND_EXTRA
from chorus.frontend.stages import Runtime


class LocalModel(Asking):
    """A causal language model of transformers. The same seed gives the same prompts on the same machine.

    Weights are read from safetensors, or from pickles with weights alone; code that comes with a model is not run.
    """

    def __init__(
        self,
        model: str,
        question: Question,
        retries: int = 3,
        *,
        temperature: float = 0.7,
        seed: int = 0,
        max_tokens: int = 1024,
        device: str = "cpu",
        dtype: str = "float32",
        revision: str | None = None,
    ) -> None:
        super().__init__(question, retries)
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise ImportError(f'the stage "local" needs transformers: {FRONTEND_EXTRA}') from error
        self._torch = torch
        self.model, self.temperature, self.seed, self.max_tokens = model, temperature, seed, max_tokens
        self._device, self._dtype, self._revision = device, dtype, revision
        place = reach(model, "prompts", "config.json", revision)
        try:
            with quietly_naming(model, "prompts"):
                self._tokenizer: Any = AutoTokenizer.from_pretrained(place, revision=revision)
                loaded: Any = AutoModelForCausalLM.from_pretrained(place, revision=revision, dtype=getattr(torch, dtype))
        except InputError as error:
            first = str(error.__cause__ or error).strip().split("\n")[0]
            raise InputError(f"--prompts local: expected a language model and its tokenizer, got {model!r}: {first}") from error
        try:
            self._model: Any = loaded.to(device).eval()
        except (RuntimeError, AssertionError) as error:  # AssertionError: "Torch not compiled with CUDA enabled"
            raise InputError(f"device: expected one that holds the model, got {device!r}: {error}") from error
        words, rows = len(self._tokenizer), self._model.get_input_embeddings().num_embeddings
        if words > rows:
            raise InputError(f"--prompts local: expected a tokenizer of at most the model's {rows} tokens, got one of {words}")

    def facts(self) -> dict[str, Any]:
        return {
            "stage": "local",
            "model": self.model,
            **({} if self._revision is None else {"revision": self._revision}),
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "device": self._device,
            "dtype": self._dtype,
        }

    def answer(self, question: str, turn: int) -> Answer:
        torch, tokenizer = self._torch, self._tokenizer
        if tokenizer.chat_template:
            prefix = ""
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:  # such a model continues a text rather than answers: begin the list for it
            prefix = "1."
            asked = tokenizer(f"{question}\n\n{prefix}", return_tensors="pt")
        ids = asked["input_ids"].to(self._device)
        room = self._room(ids.shape[1])
        ends = self._model.generation_config.eos_token_id
        ends = ends if ends is not None else tokenizer.eos_token_id
        drawn = {"do_sample": True, "temperature": self.temperature} if self.temperature > 0 else {"do_sample": False}
        cuda = [torch.device(self._device)] if torch.device(self._device).type == "cuda" else []
        with torch.random.fork_rng(cuda), torch.inference_mode():  # the caller's random numbers stay as they are
            torch.manual_seed(self.seed + turn)
            made = self._model.generate(
                input_ids=ids,
                attention_mask=asked["attention_mask"].to(self._device),
                max_new_tokens=room,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
                **drawn,
            )
        new = made[0, ids.shape[1] :]
        stops = ends if isinstance(ends, list) else [ends]
        ended = len(new) > 0 and int(new[-1]) in stops
        return Answer(prefix + tokenizer.decode(new, skip_special_tokens=True), cut=not ended)

    def _room(self, asked: int) -> int:
        """The most tokens that an answer may have. InputError where a question of ``asked`` tokens leaves none."""
        most = getattr(self._model.config, "max_position_embeddings", None)
        room = self.max_tokens if most is None else min(self.max_tokens, int(most) - asked)
        if room < 1:
            raise InputError(f"--prompts local: expected a question of less than the model's {most} tokens, got {asked}")
        return room


def local(model: str, runtime: Runtime) -> LocalModel:
    """The stage ``local=MODEL``."""
    question, settings = _settings(runtime)
    return LocalModel(model, question, **settings, device=runtime.device, dtype=runtime.dtype)


def check(_model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for options out of bounds; no model is loaded."""
    _settings(runtime)


def _settings(runtime: Runtime) -> tuple[Question, dict[str, Any]]:
    """The question, and the other arguments of ``LocalModel`` that are options."""
    return Question.of(runtime), {
        "retries": runtime.whole("retries", 3, 0, 100),
        "temperature": runtime.number("temperature", 0.7, 0.0, 2.0),
        "seed": runtime.whole("seed", 0, 0, 2**31 - 1000),
        "max_tokens": runtime.whole("max_tokens", 1024, 1, 100_000),
        "revision": runtime.options.get("revision"),
    }
