"""Prompts from a server that speaks OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, Ollama and others."""

from __future__ import annotations

import json
import os
import threading
from typing import Any
from urllib.parse import urlsplit

from chorus.errors import InputError
from chorus.frontend.prompting.asking import Answer, Asking, Question
from chorus.frontend.stage_info import FRONTEND_EXTRA
from chorus.frontend.stages import Runtime
from chorus.texts import shortened

_LONGEST_WAIT = 120.0  # seconds that the SDK waits at most before it repeats a request: a server's Retry-After
_SLACK = 1.0  # seconds for the SDK to notice its own time limit before the limit here ends


class Server(Asking):
    """A model on a server.

    The SDK repeats requests that fail temporarily (no connection, too slow, HTTP 408, 409, 429, 5xx), waiting longer each time
    or as long as the server says. A question takes no longer than the bounds of all requests and waits together, even if a
    server sends its answer byte by byte.
    """

    def __init__(
        self,
        model: str,
        question: Question,
        retries: int = 3,
        *,
        base_url: str | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(question, retries)
        try:
            import openai
        except ImportError as error:
            raise ImportError(f'the stage "openai" needs the openai package: {FRONTEND_EXTRA}') from error
        self._openai = openai
        url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
            raise InputError(f"--set base_url: expected http://HOST:PORT/v1 or the like, got {url!r}")
        key = os.environ.get("OPENAI_API_KEY")
        if url is None and not key:
            raise InputError("OPENAI_API_KEY: expected OpenAI's key in this environment variable, or --set base_url=SERVER")
        self.model, self.timeout, self.temperature, self.seed = model, timeout, temperature, seed
        # Local servers want no key; the SDK wants some.
        self._settings: dict[str, Any] = {"base_url": url, "api_key": key or "none", "timeout": timeout, "max_retries": retries}
        self.url = url or "https://api.openai.com/v1"

    def facts(self) -> dict[str, Any]:
        parts = urlsplit(self.url)  # without user name, password and query, which may be secret
        host = parts.netloc.rpartition("@")[2]
        return {
            "stage": "openai",
            "model": self.model,
            "base_url": f"{parts.scheme}://{host}{parts.path}",
            "temperature": self.temperature,
            "seed": self.seed,
        }

    def answer(self, question: str, turn: int) -> Answer:
        asked: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": question}]}
        if self.temperature is not None:
            asked["temperature"] = self.temperature
        if self.seed is not None:
            asked["seed"] = self.seed + turn
        return self._read(self._post(asked))

    def _post(self, asked: dict[str, Any]) -> str:
        """The body of the server's answer to a request. InputError where none came, for whatever reason."""
        came: list[str | Exception] = []
        client = self._openai.OpenAI(**self._settings)

        def post() -> None:
            try:
                came.append(client.chat.completions.with_raw_response.create(**asked).text)
            except Exception as error:
                came.append(error)

        # The SDK's limit is for each read, so that a server which sends a byte now and then would block for ever. The daemon
        # thread ends with the process at the latest; closing the client closes its connection.
        longest = (self.retries + 1) * self.timeout + self.retries * _LONGEST_WAIT + _SLACK
        thread = threading.Thread(target=post, daemon=True, name="chorus-prompts")
        thread.start()
        try:
            thread.join(longest)
        finally:
            client.close()
        if not came:
            raise InputError(f"{self._who()}: expected a whole answer within {longest:g} s, got none")
        if isinstance(came[0], Exception):
            raise self._explained(came[0]) from came[0]
        return came[0]

    def _read(self, body: str) -> Answer:
        """The answer in the body of a chat completion. InputError for a body that is none."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise InputError(f"{self._who()}: expected a chat completion in JSON, got {shortened(body)!r}") from None
        try:
            choice = value["choices"][0]
            message = choice["message"]
            content, refusal = message.get("content") or "", message.get("refusal") or ""
            if isinstance(content, list):  # of parts, as some servers have it
                content = "\n".join(part["text"] for part in content if part.get("type") == "text")
            if not isinstance(content, str):
                raise TypeError
            return Answer(content, choice.get("finish_reason") == "length", str(refusal))
        except (LookupError, TypeError, AttributeError):
            raise InputError(f"{self._who()}: expected a chat completion with choices, got {shortened(body)!r}") from None

    def _who(self) -> str:
        facts = self.facts()
        return f"prompts: {facts['model']} at {facts['base_url']}"

    def _explained(self, error: Exception) -> Exception:
        """The SDK's error as an InputError with advice; any other exception as it is."""
        sdk, tries = self._openai, f"after {self.retries + 1} tries" if self.retries else "at the only try"
        if isinstance(error, sdk.APITimeoutError):
            return InputError(f"{self._who()}: expected an answer within {self.timeout:g} s (timeout), got none {tries}")
        if isinstance(error, sdk.APIConnectionError):
            return InputError(f"{self._who()}: expected a server, got {error.__cause__ or error} {tries}")
        if isinstance(error, sdk.APIStatusError):
            said = f"HTTP {error.status_code}: {shortened(error.response.text)!r}"
            advice = {
                401: "the key in OPENAI_API_KEY is missing or wrong",
                403: "the key in OPENAI_API_KEY has no right to this",
                404: "is the model's name right, and does base_url end in /v1?",
                429: f"too many requests, or no credit, {tries}",
            }.get(error.status_code, tries if error.status_code >= 500 else "the server rejects the request")
            return InputError(f"{self._who()}: expected an answer, got {said} ({advice})")
        if isinstance(error, sdk.OpenAIError):
            return InputError(f"{self._who()}: {error}")
        return error


def server(model: str, runtime: Runtime) -> Server:
    """The stage ``openai=MODEL``."""
    has = runtime.options
    return Server(
        model,
        Question.of(runtime),
        runtime.whole("retries", 3, 0, 100),
        base_url=has.get("base_url"),
        temperature=runtime.number("temperature", 1.0, 0.0, 2.0) if "temperature" in has else None,
        seed=runtime.whole("seed", 0, 0, 2**31 - 1000) if "seed" in has else None,
        timeout=runtime.number("timeout", 60.0, 0.01, 3600.0),
    )


def check(model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for options out of bounds, an address that is none, and without a key; no server is asked."""
    server(model, runtime)
