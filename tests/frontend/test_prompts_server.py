"""The stage "openai" against a server on this machine: good answers, slow ones, errors, rubbish, silence."""

from __future__ import annotations

import json
import socket
import sys

import pytest

from chorus.errors import InputError
from chorus.frontend.prompting.servers import Server
from chorus.frontend.registry import make
from chorus.frontend.stages import Runtime
from tests.frontend.servers import Act, Script, Servers, dripping, fails, gives, hangs_up, says, silent, url

RIDES, SITS, PUSHES = "A person rides a bicycle", "A person sits on a bicycle", "A person pushes a bicycle"


def source(script: Script | str, retries: int = 0, timeout: float = 20, **options: str) -> Server:
    base_url = script if isinstance(script, str) else url(script)
    given = {"base_url": base_url, "retries": str(retries), "timeout": str(timeout), **options}
    made = make("prompts", "openai=some/model", Runtime(options=given))
    assert isinstance(made, Server)
    return made


def test_a_good_answer(serve: Servers) -> None:
    script = serve(says(f"Sure!\n1. {RIDES}.\n2. {SITS}.\n3. A person rides a horse."))
    stage = source(script, temperature="0.5", seed="7")
    assert stage.prompts("bicycle", 2) == [RIDES, SITS]
    (asked,) = script.asked
    assert asked.path == "/v1/chat/completions"
    assert (asked.body["model"], asked.body["temperature"], asked.body["seed"]) == ("some/model", 0.5, 7)
    assert "at most 2 simple subject-verb-object" in asked.question
    assert "category is bicycle" in asked.question
    assert [item.reason for item in stage.dropped] == ["not a prompt", "without 'bicycle'"]
    record = stage.provenance()
    assert (record["stage"], record["model"], record["base_url"], record["asked"]) == ("openai", "some/model", url(script), 1)
    assert json.loads(json.dumps(record)) == record


def test_only_what_is_set_is_sent(serve: Servers) -> None:
    script = serve(says(RIDES))
    source(script).prompts("bicycle", 1)
    assert set(script.asked[0].body) == {"model", "messages"}


def test_the_key_and_the_address_from_the_environment(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    script = serve(says(RIDES))
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setenv("OPENAI_BASE_URL", url(script))
    stage = make("prompts", "openai=m", Runtime(options={"retries": "0"}))
    assert stage.prompts("bicycle", 1) == [RIDES]
    assert script.asked[0].key == "Bearer secret-key"
    assert "secret" not in json.dumps(stage.provenance())
    secret = url(script).replace("//", "//name:password@") + "?token=secret"
    assert source(secret).provenance()["base_url"] == url(script)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(InputError, match="OPENAI_API_KEY: expected"):
        make("prompts", "openai=m", Runtime())


def test_asks_again_for_what_is_missing(serve: Servers) -> None:
    script = serve(says(f"{RIDES}\n{RIDES}"), says(""), says(f"- {RIDES}\n- {SITS}"), says(PUSHES))
    stage = source(script, retries=5)
    assert stage.prompts("bicycle", 3) == [RIDES, SITS, PUSHES]
    assert ["at most 3" in a.question or "at most 2" in a.question for a in script.asked] == [True, True, True, False]
    assert f"Do not repeat any of these:\n- {RIDES}\n- {SITS}" in script.asked[3].question
    assert stage.asked == 4
    assert [item.reason for item in stage.dropped] == ["said already", "said already"]


def test_fewer_than_wanted_with_a_warning(serve: Servers, caplog: pytest.LogCaptureFixture) -> None:
    script = serve(says(RIDES))
    assert source(script, retries=2).prompts("bicycle", 3) == [RIDES]
    assert len(script.asked) == 3
    assert "1 of 3 prompts" in caplog.text


def test_what_is_there_survives_a_later_error(serve: Servers, caplog: pytest.LogCaptureFixture) -> None:
    script = serve(says(RIDES), fails(401))
    assert source(script, retries=2).prompts("bicycle", 3) == [RIDES]
    assert len(script.asked) == 2
    assert "HTTP 401" in caplog.text


def test_an_answer_cut_for_its_length(serve: Servers) -> None:
    script = serve(says(f"1. {RIDES}\n2. A person mends a bicycle in th", finish="length"))
    assert source(script).prompts("bicycle", 2) == [RIDES]


def test_an_answer_in_parts(serve: Servers) -> None:
    script = serve(says([{"type": "text", "text": RIDES}, {"type": "image"}, {"type": "text", "text": SITS}]))
    assert source(script).prompts("bicycle", 2) == [RIDES, SITS]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_errors_that_pass(serve: Servers, status: int) -> None:
    script = serve(fails(status), says(RIDES))
    assert source(script, retries=1).prompts("bicycle", 1) == [RIDES]
    assert len(script.asked) == 2


@pytest.mark.parametrize(
    ("status", "tries", "message"),
    [
        (401, 1, "HTTP 401: .*no luck.*OPENAI_API_KEY is missing or wrong"),
        (403, 1, "HTTP 403: .*no right"),
        (404, 1, "HTTP 404: .*does base_url end in /v1"),
        (400, 1, "HTTP 400: .*the server rejects the request"),
        (429, 3, "HTTP 429: .*too many requests, or no credit, after 3 tries"),
        (500, 3, "HTTP 500: .*after 3 tries"),
    ],
)
def test_errors_that_stay(serve: Servers, status: int, tries: int, message: str) -> None:
    script = serve(fails(status))
    with pytest.raises(InputError, match=rf"prompts: some/model at http://127\.0\.0\.1:.*{message}"):
        source(script, retries=2).prompts("bicycle", 1)
    assert len(script.asked) == tries


def test_slow_once_then_in_time(serve: Servers) -> None:
    script = serve(silent, says(RIDES))
    assert source(script, retries=1, timeout=0.5).prompts("bicycle", 1) == [RIDES]


@pytest.mark.parametrize("act", [silent, dripping])
def test_no_whole_answer_in_time(serve: Servers, act: Act) -> None:
    script = serve(act)
    with pytest.raises(InputError, match=r"expected an? (whole )?answer within .* got none"):
        source(script, timeout=0.2).prompts("bicycle", 1)


def test_a_connection_that_breaks(serve: Servers) -> None:
    script = serve(hangs_up)
    with pytest.raises(InputError, match=r"expected a server, got .* at the only try"):
        source(script).prompts("bicycle", 1)
    script = serve(hangs_up, says(RIDES))
    assert source(script, retries=1).prompts("bicycle", 1) == [RIDES]


def test_nobody_there(serve: Servers) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"expected a server, got .*refused.* at the only try"):
            source(f"http://127.0.0.1:{taken.getsockname()[1]}/v1").prompts("bicycle", 1)


def test_accepts_and_never_answers(serve: Servers) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with pytest.raises(InputError, match="got none"):
            source(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1", timeout=0.2).prompts("bicycle", 1)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (gives("<html><h1>It works!</h1></html>", "text/html"), "completion in JSON, got '<html><h1>It works!"),
        (gives("", "text/plain"), "completion in JSON, got ''"),
        (gives("{", "application/json"), "completion in JSON, got '{'"),
        (gives("[" * 100_000), r"completion in JSON, got '\[\[\[.*\.\.\."),
        (gives("null"), "completion with choices, got 'null'"),
        (gives("[1, 2]"), "completion with choices"),
        (gives('{"choices": []}'), "completion with choices"),
        (gives('{"choices": [{"text": "old style"}]}'), "completion with choices, got .*old style"),
        (gives('{"choices": [{"message": {"content": 5}}]}'), "completion with choices"),
        (gives('{"choices": [{"message": {"content": [5]}}]}'), "completion with choices"),
        (gives('{"error": {"message": "the model is loading"}}'), "completion with choices, got .*the model is loading"),
        (says(None), "got none in 1 answers; the last one: ''"),
        (says("I cannot help with that."), "got none in 1 answers; the last one: 'I cannot help with that.'"),
    ],
)
def test_rubbish_is_shown(serve: Servers, act: Act, message: str) -> None:
    with pytest.raises(InputError, match=message):
        source(serve(act)).prompts("bicycle", 2)


def test_a_refusal_is_shown(serve: Servers) -> None:
    refusal = {"choices": [{"message": {"content": None, "refusal": "Not about bicycles."}}]}
    with pytest.raises(InputError, match=r"the last one: 'Not about bicycles\.'"):
        source(serve(gives(json.dumps(refusal)))).prompts("bicycle", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url: expected http"),
        ({"base_url": "ftp://localhost/v1"}, "base_url: expected http"),
        ({"temperature": "3"}, "temperature: expected a number from 0 to 2"),
        ({"retries": "1.5"}, "retries: expected a whole number"),
        ({"timeout": "0"}, "timeout: expected a number"),
        ({"seed": "-1"}, "seed: expected a number"),
        ({"api_key": "x"}, "one of this stage's options"),
    ],
)
def test_options_that_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("prompts", "openai=m", Runtime(options={"base_url": "http://127.0.0.1:9/v1", **options}))


def test_a_model_must_be_named() -> None:
    with pytest.raises(InputError, match="the model goes by its name on the server"):
        make("prompts", "openai", Runtime())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"openai, which is not installed: pip install '\.\[frontend\]' in a checkout"):
        make("prompts", "openai=m", Runtime(options={"base_url": "http://127.0.0.1:9/v1"}))


def test_a_count_beyond_all_measure(serve: Servers) -> None:
    script = serve(says(RIDES))
    with pytest.raises(InputError, match="count: expected at most 1000"):
        source(script).prompts("bicycle", 10**6)
    assert not script.asked
