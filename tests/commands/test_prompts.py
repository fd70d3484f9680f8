"""``chorus prompts``: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chorus.cli import main
from chorus.frontend.prompting.lists import PROMPTS
from tests.frontend.servers import Servers, says, url

RIDES, SITS = "A person rides a bicycle", "A person sits on a bicycle"


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["prompts", "--force", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_own_lists() -> None:
    assert run("bed").stdout.splitlines() == list(PROMPTS["bed"])
    assert run("Tennis_Racket", "--count", "2").stdout.splitlines() == list(PROMPTS["tennis racket"][:2])


def test_with_views() -> None:
    lines = run("bed", "--count", "2", "--views").stdout.splitlines()
    assert len(lines) == 44
    assert lines[:2] == ["A person lies on a bed", "A person lies on a bed, side view"]
    assert lines[-1] == "A person sits on a bed, face only"


def test_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    assert run("bed", "-o", path).stdout.splitlines()[-1] == f"wrote {path}"
    content = json.loads(path.read_text())
    assert content == {"category": "bed", "prompts": list(PROMPTS["bed"]), "source": {"stage": "builtin"}}
    assert run("bed", "--prompts", f"file={path}").stdout.splitlines() == list(PROMPTS["bed"])
    assert "got those for 'bed'" in run("chair", "--prompts", f"file={path}", code=2).stderr


def test_of_a_file_all(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"A person plays guitar number {i}\n" for i in range(50)))
    assert len(run("guitar", "--prompts", f"file={path}").stdout.splitlines()) == 50


def test_from_a_server(serve: Servers, tmp_path: Path) -> None:
    script = serve(says(f"Sure!\n- {RIDES}\n- {SITS}"))
    path = tmp_path / "prompts.json"
    options = ("--prompts", "openai=m", "--set", f"base_url={url(script)}", "--set", "prompts.temperature=0.5", "-o", path)
    shown = json.loads(run("bicycle", "--count", "2", *options, "--views", "--json").stdout)
    assert shown["prompts"] == [RIDES, SITS]
    assert shown["dropped"] == [{"text": "Sure", "reason": "not a prompt"}]
    assert (len(shown["views"]), len(shown["texts"]), shown["wrote"]) == (22, 44, str(path))
    assert shown["source"]["temperature"] == script.asked[0].body["temperature"] == 0.5
    assert json.loads(path.read_text()) == {name: shown[name] for name in ("category", "prompts", "source")}
    again = json.loads(run("bicycle", "--prompts", f"file={path}", "--json").stdout)
    assert again["source"]["source"] == shown["source"]
    assert "dropped: 'Sure': not a prompt" in run("bicycle", "--count", "2", *options).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("guitar",), "list of its own"),
        (("",), "expected the name of an object"),
        (("bed", "--prompts", "nobody"), "expected one of builtin, openai, local, file"),
        (("bed", "--set", "seed"), "expected NAME=VALUE, got 'seed'"),
        (("bed", "--set", "=3"), "expected NAME=VALUE, got '=3'"),
        (("bed", "--set", "seed=3"), "one of this stage's options (none), got 'seed'"),
        (("bed", "-o", "/none/at/all.json"), "--output: expected a file in a folder that exists"),
    ],
)
def test_refused(arguments: tuple[str, ...], message: str) -> None:
    assert message in run(*arguments, code=2).stderr
