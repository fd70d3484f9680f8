"""Places to write to are checked when the command line is read, by every command, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from chorus.cli import main
from chorus.commands.options import INPUT, SEED, Count, InputPath, Number, Numbers, OutputFile, OutputFolder, OutputStore
from chorus.errors import InputError
from chorus.files import check_output_file, check_output_folder
from chorus.store.writer import check_output_store


def _commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    for key, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name} {key}")
        else:
            yield f"{name} {key}".strip(), command


COMMANDS = dict(_commands(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_path_and_number_has_a_type_that_checks_it(name: str) -> None:
    """A new option that takes a path or a number without a check fails here."""
    for parameter in COMMANDS[name].params:
        kind = parameter.type
        assert not isinstance(kind, click.types.FloatParamType) or isinstance(kind, Number), parameter.name
        assert kind is not click.INT, parameter.name
        assert not isinstance(kind, click.IntRange) or None not in (kind.min, kind.max), parameter.name
        if isinstance(kind, click.Path):
            assert parameter.callback is not None, parameter.name  # aggregate's output: a file or a folder
        if parameter.name == "seed":
            assert kind is SEED
        if "--output" in parameter.opts and parameter.callback is None:
            assert isinstance(kind, (OutputFile, OutputFolder, OutputStore)), parameter.name
        if parameter.name in ("picture", "csv_path", "report_path", "mesh_path"):
            assert isinstance(kind, OutputFile), parameter.name
    writes = any(isinstance(p.type, OutputFile) and not p.type.replace for p in COMMANDS[name].params)
    assert not writes or any("--force" in p.opts for p in COMMANDS[name].params)


@pytest.mark.parametrize("suffixes", [(), (".h5",)])
def test_a_file_that_cannot_be_written(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    (tmp_path / "file.h5").write_text("x")
    (tmp_path / "folder.h5").mkdir()
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "loop.h5").symlink_to("loop.h5")
    for path, says in (
        ("none/o.h5", "expected a file in a folder that exists"),
        ("file.h5/o.h5", "expected a file in a folder that exists"),
        ("folder.h5", "expected a file, got the folder"),
        ("pipe.h5", "which is none"),
        ("loop.h5", "which is none"),
        ("file.h5", "expected a new name"),
    ):
        with pytest.raises(InputError, match=f"--output: .*{says}"):
            check_output_file("--output", tmp_path / path, suffixes, replace=False)
    check_output_file("--output", tmp_path / "file.h5", suffixes)
    check_output_file("--output", tmp_path / "new.h5", suffixes, replace=False)


def test_the_ending_says_the_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name ending in \.h5 or \.hdf5, got '.*x\.npz'"):
        check_output_file("--output", tmp_path / "x.npz", (".h5", ".hdf5"))
    check_output_file("--output", tmp_path / "X.H5", (".h5",))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="that can be written to"):
        check_output_file("--output", tmp_path / "o.h5")
    with pytest.raises(InputError, match="that can be written to"):
        check_output_folder("--output", tmp_path)
    with pytest.raises(InputError, match="that can be written to"):
        check_output_store("--output", tmp_path / "s")


def test_folders_and_stores(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "clusters.json").write_text("[]")
    with pytest.raises(InputError, match="expected a folder, got the file"):
        check_output_folder("--output", tmp_path / "file")
    with pytest.raises(InputError, match="in a folder that exists"):
        check_output_folder("--output", tmp_path / "none" / "new")
    with pytest.raises(InputError, match=r"without clusters\.json"):
        check_output_folder("--output", tmp_path / "full", "clusters.json", replace=False)
    check_output_folder("--output", tmp_path / "full", "overlays.json", replace=False)
    check_output_folder("--output", tmp_path / "full", "clusters.json")
    with pytest.raises(InputError, match="expected a folder or a new name, got the file"):
        check_output_store("--output", tmp_path / "file")
    with pytest.raises(InputError, match=r"expected a store, an empty folder .*, got '.*full' with 'clusters\.json'"):
        check_output_store("--output", tmp_path / "full")
    with pytest.raises(InputError, match="in a folder that can be written to"):
        check_output_store("--output", tmp_path / "file" / "store")
    check_output_store("--output", tmp_path / "none" / "store")  # made with the folders above it


@pytest.mark.parametrize(
    "name", [name for name, c in COMMANDS.items() if any(isinstance(p.type, OutputFile) for p in c.params)]
)
def test_commands_refuse_before_they_look_at_their_inputs(name: str, tmp_path: Path) -> None:
    """Every output of every command in a folder that is not there."""
    command = COMMANDS[name]
    for parameter in command.params:
        if not isinstance(parameter.type, OutputFile) or not isinstance(parameter, click.Option):
            continue
        suffix = (parameter.type.suffixes or ("",))[0]
        given = [max(parameter.opts, key=len), str(tmp_path / "none" / f"x{suffix}")]
        required = [p for p in command.params if p.required and p is not parameter]
        inputs = [word for p in required for word in _any_value(p, tmp_path)]
        result = CliRunner().invoke(main, [*name.split(), *inputs, *given])
        assert result.exit_code == 2
        assert f"chorus: error: {given[0]}: expected a file in a folder that exists" in result.stderr
        assert not (tmp_path / "none").exists()


def _any_value(parameter: click.Parameter, folder: Path) -> list[str]:
    """What satisfies a required parameter while the command line is read."""
    name = [max(parameter.opts, key=len)] if isinstance(parameter, click.Option) else []
    if isinstance(parameter.type, OutputFile):
        return [*name, str(folder / f"other{(parameter.type.suffixes or ('',))[0]}")]
    if parameter.callback is not None:  # aggregate's output
        return [*name, str(folder / "other.h5")]
    if isinstance(parameter.type, Number):
        return [*name, *["0"] * parameter.nargs]
    return [*name, str(folder)]


def _values(kind: click.ParamType[object], text: str) -> object:
    @click.command()
    @click.option("--force", is_flag=True)
    @click.argument("value", type=kind)
    def command(value: object, force: bool) -> None:
        click.echo(repr(value))

    return CliRunner().invoke(command, [text])


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "x", "1e400"])
def test_numbers_are_finite(text: str) -> None:
    assert _values(Number(), text).exit_code == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "9" * 30, "2147483648"])
def test_counts_are_bounded(text: str) -> None:
    assert _values(Count(), text).exit_code == 2  # type: ignore[attr-defined]


def test_lists_of_numbers() -> None:
    for text, shown in (("1,2, 3", "(1, 2, 3)"), ("", "()"), (" , ", "()"), ("7", "(7,)")):
        assert _values(Numbers(Count()), text).stdout.strip() == shown  # type: ignore[attr-defined]
    for text in ("one", "1;2", "0", "1,nan"):
        result = _values(Numbers(Count()), text)
        assert result.exit_code == 2  # type: ignore[attr-defined]
        assert "expected numbers with commas between them" in result.output  # type: ignore[attr-defined]
    assert _values(Numbers(Number(0, 1)), "0.5,nan").exit_code == 2  # type: ignore[attr-defined]


def test_infinity_where_it_means_something() -> None:
    assert _values(Number(min=0, infinite=True), "inf").exit_code == 0  # type: ignore[attr-defined]
    assert _values(Number(min=0, infinite=True), "nan").exit_code == 2  # type: ignore[attr-defined]


def test_input_paths_exist() -> None:
    assert isinstance(INPUT, InputPath)
    result = _values(INPUT, "nowhere")
    assert isinstance(result.exception, InputError)  # type: ignore[attr-defined]


def test_two_outputs_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    same = str(tmp_path / "x.json")
    inputs = [str(tmp_path / "s"), "--occupancy", str(tmp_path)]
    result = CliRunner().invoke(main, ["evaluate", "pap", *inputs, "-o", same, "--csv", same])
    assert result.exit_code == 2
    assert "--csv: expected another file than that of --output" in result.stderr


def test_a_result_is_replaced_only_with_force(tmp_path: Path) -> None:
    kept = tmp_path / "prompts.json"
    kept.write_text("mine")
    arguments = ["prompts", "bed", "-o", str(kept)]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "--output: expected a new name (or --force, to replace the file)" in refused.stderr
    assert kept.read_text() == "mine"
    for where in (["--force", *arguments[1:]], [*arguments[1:], "--force"]):
        assert CliRunner().invoke(main, ["prompts", *where]).exit_code == 0
    assert kept.read_text() != "mine"
