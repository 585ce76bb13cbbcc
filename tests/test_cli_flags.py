"""Flags that are given more than once, and flags that messages name."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from eaves.commands.flags import COMMA_LISTS, MANY, accumulated, flags_of

_SOURCE = Path(__file__).parents[1] / "src" / "eaves"
Eaves = Callable[..., Any]


@pytest.mark.parametrize(
    "words",
    [
        ["--host", "a.example", "--host", "b.example", "--host", "::1"],
        ["--host", "a.example", "b.example", "::1"],
        ["--host=a.example", "--host", "b.example", "::1"],
        ["--host", "a.example", "b.example", "--days", "9", "--host", "::1"],
    ],
)
def test_every_host_that_is_given_is_in_the_certificate(
    eaves: Eaves, tmp_path: Path, words: list[str]
) -> None:
    ended = eaves("certs", "init", *words, "--folder", tmp_path / "c")
    assert (ended.code, ended.err) == (0, "")
    assert "for a.example b.example ::1, until" in ended.out


def test_pieces_of_a_list_add_up(eaves: Eaves, tmp_path: Path) -> None:
    short = ["train", "--train-samples", "64", "--batch-size", "16", "--epochs", "1"]
    compared = ["--compare", "full-cloud", "--json", "--compare=full-edge", "--out", tmp_path]
    ended = eaves(*short, *compared)
    assert ended.code == 0, ended.err
    assert ended.out.count("\n") == 3


def test_of_others_the_last_counts(eaves: Eaves) -> None:
    ended = eaves("train", "--cut", "conv8", "--epochs", "3", "--cut", "conv9", "--epochs=3")
    assert ended.err.splitlines() == [
        "eaves: unknown cut 'conv9'; choose from: conv1, conv2, conv3",
    ]


def test_of_two_files_the_last_counts_as_well(eaves: Eaves, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"cut = 'cut-{name}'")
    ended = eaves("train", "--config", tmp_path / "one", "--config", tmp_path / "two")
    assert "unknown cut 'cut-two'" in ended.err


def test_lists_with_commas_are_those_that_say_so() -> None:
    """A new field that takes a list has to be named in commands/flags.py."""
    found = set()
    for path in [
        *(_SOURCE / "commands").glob("*.py"),
        *(_SOURCE / "experiments").glob("*config.py"),
    ]:
        for kind in ast.walk(ast.parse(path.read_text())):
            if not isinstance(kind, ast.ClassDef):
                continue
            for field, text in zip(kind.body, kind.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    words = " ".join(ast.unparse(text).replace("\\n", " ").split())
                    if re.search("with commas? between|separated by commas", words):
                        found.add("--" + ast.unparse(field.target).replace("_", "-"))
    assert found | {"--attacks"} == COMMA_LISTS  # its help shows one


def test_words_behind_a_flag_are_its_own() -> None:
    assert flags_of(["a", "--x_y", "1", "--", "--z"]) == [("--x-y", "1"), ("--z", None)]
    words = ["certs", "init", "--host", "a", "--renew", "--host=b", "--folder", "c"]
    assert accumulated(words) == [
        *("certs", "init", "--host", "a", "b", "--renew", "--folder", "c")
    ]
    assert accumulated(["plan", "--cuts", "a", "--all", "--cuts=b"]) == [
        *("plan", "--cuts", "a,b", "--all")
    ]
    assert {"--host"} == MANY


# Every flag that a message names is one of the command line's


def _texts() -> Iterator[tuple[str, str]]:
    for path in sorted(_SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield str(path.relative_to(_SOURCE)), node.value


# Variables of the style sheet of a page, flags of pip and of no command.
_ELSEWHERE = {"--soft", "--line", "--upgrade", "--version"}


def test_flags_in_messages_exist(eaves: Eaves, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    commands = [
        *("train", "serve", "agent", "infer", "export", "light", "calibrate", "bundle", "audit"),
        *("report", "plan", "profile", "nets", "cuts", "devices", "data"),
    ]
    helps = [eaves(command, "--help").out for command in commands]
    helps += [
        eaves("certs", action, "--help").out
        for action in ("init", "device", "token", "revoke", "list")
    ]
    known = set(re.findall(r"--[a-z][a-z-]+", "".join(helps)))
    assert len(known) > 80  # else the help was not read
    named = {
        (where, flag)
        for where, text in _texts()
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)
    }
    assert ("network/failures.py", "--host") in named
    assert {item for item in named if item[1] not in known | _ELSEWHERE} == set()


def test_commands_in_messages_can_be_parsed() -> None:
    """`eaves certs init --host X` and the like: the command and its action exist."""
    known = {"certs": {"init", "device", "token", "revoke", "list"}}
    for where, text in _texts():
        for action in re.findall(r"eaves certs ([a-z]+)", text):
            assert action in known["certs"], where


def test_tyro_takes_what_is_gathered() -> None:
    from eaves.commands.certs import Init

    words = accumulated(["--host", "a", "--host", "b"])
    assert tyro.cli(Init, args=words).host == ("a", "b")
