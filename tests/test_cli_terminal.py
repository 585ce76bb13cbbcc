"""The command in a real process: every way in which its terminal, pipes and signals can fail it."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from eaves.report.stdout import PrintableConsole, plain_table

SHORT = ["--train-samples", "64", "--batch-size", "16", "--epochs", "1"]
EAVES = [sys.executable, "-m", "eaves"]
Eaves = Callable[..., Any]


def _sh(script: str, folder: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run a line of bash, in which "$@" is the command."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *EAVES],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


def _clean(text: str) -> bool:
    return not any(word in text for word in ("Traceback", "Exception ignored", "Error:"))


# Output that cannot be written


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ('"$@" --help > /dev/full', 1),
        ('"$@" train --help > /dev/full', 1),
        ('"$@" devices --json > /dev/full', 1),
        ('"$@" devices >&-', 0),
        ('"$@" devices > /dev/null 2>&-', 0),
        ('"$@" devices <&- >&- 2>&-', 0),
        ('"$@" cuts nonsense 2>&-', 2),
        ('"$@" train --epochs x 2> /dev/full', 2),
        ('"$@" --help | true', 0),
        ('(sleep 0.5; "$@" --help; echo $? >&2) | exec true', 0),
    ],
)
def test_output_that_cannot_be_written_is_no_traceback(
    tmp_path: Path, script: str, code: int
) -> None:
    ended = _sh(script, tmp_path)
    assert ended.returncode == code, ended.stderr
    assert _clean(ended.stderr)
    if "> /dev/full" in script and "2>" not in script:
        assert ended.stderr == (
            "eaves: cannot write to the standard output: No space left on device\n"
        )


def test_a_reader_that_has_gone_is_told_as_shells_do(tmp_path: Path) -> None:
    reader = "exec true; until [ -s code ]; do sleep 0.05; done"
    script = f'(sleep 0.5; "$@" devices; echo $? > code) | {reader}'
    ended = _sh(script, tmp_path)
    assert (tmp_path / "code").read_text() == "141\n"
    assert ended.stderr == ""


@pytest.mark.parametrize(
    "where", ["> /dev/full", "| exec true", pytest.param(">&-", marks=pytest.mark.slow)]
)
def test_a_training_that_is_done_is_done_whatever_its_output_does(
    tmp_path: Path, where: str
) -> None:
    words = " ".join([*SHORT, "--out", "run"])
    ended = _sh(f'set -o pipefail; "$@" train {words} {where}', tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert _clean(ended.stderr)
    assert json.loads((tmp_path / "run" / "record.json").read_bytes())["complete"]


ENVIRONS: list[dict[str, str]] = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "nonsense"},
    {"TERM": "dumb", "COLUMNS": "10"},
    {"NO_COLOR": "1"},
]


@pytest.mark.parametrize("environ", ENVIRONS, ids=str)
def test_no_encoding_or_terminal_is_too_small_for_what_is_printed(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    ended = _sh('"$@" --help && "$@" devices && "$@" train --help', tmp_path, **environ)
    assert ended.returncode == 0, ended.stderr
    assert _clean(ended.stderr)
    assert "Traceback" not in ended.stdout
    assert len(ended.stdout) > 10_000  # all of it
    if environ.get("NO_COLOR"):
        assert "\x1b" not in ended.stdout


def test_a_training_in_ascii_with_no_home_and_no_place_for_drafts(tmp_path: Path) -> None:
    words = " ".join([*SHORT, "--out", "run"])
    environ = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "HOME": "", "TMPDIR": "/nowhere"}
    ended = _sh(f'"$@" train {words}', tmp_path, **environ)
    assert ended.returncode == 0, ended.stderr
    assert _clean(ended.stderr)
    assert "+-" in ended.stdout  # in place of a sign that ASCII lacks
    assert "Record, bundle and checkpoint are in run" in ended.stdout


# Signals


def _started(folder: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*EAVES, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Python itself needs some time before it runs anything of ours.
@pytest.mark.parametrize(
    ("number", "after_s"),
    [
        (signal.SIGINT, 0.3),
        (signal.SIGINT, 0.9),
        (signal.SIGINT, 1.8),
        (signal.SIGTERM, 0.9),
        (signal.SIGHUP, 1.8),
    ],
)
def test_a_signal_at_any_time_ends_a_command_quietly(
    tmp_path: Path, number: signal.Signals, after_s: float
) -> None:
    process = _started(tmp_path, "train", "--epochs", "200", "--out", "run")
    sleep(after_s)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out == ""
    assert _clean(err)
    if err:  # it had begun
        assert err.splitlines()[-1] == "interrupted; go on with: eaves train --resume run"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGTERM, ["plan"]),
        (signal.SIGINT, ["profile"]),
        (signal.SIGHUP, ["profile"]),
        (signal.SIGTERM, ["cuts", "resnet18"]),
    ],
)
def test_so_do_commands_that_leave_nothing(
    tmp_path: Path, number: signal.Signals, words: list[str]
) -> None:
    process = _started(tmp_path, *words)
    sleep(0.6)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 128 + number), err
    assert _clean(err)


# What comes from elsewhere

_EVIL = "\x1b[2J\x1b]0;title\x07\u202e"


def test_no_text_leads_the_terminal_through_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    table = plain_table(_EVIL, "[bold]x[/]")
    table.add_row(_EVIL, "[/nothing]")
    table.title, table.caption = f"title {_EVIL}", f"caption {_EVIL}"
    console = PrintableConsole(width=200)
    console.print(table)
    console.out(_EVIL, highlight=False)
    console.print(_EVIL, ":smile:", "[red]y[/red]")
    shown = capsys.readouterr().out
    assert not any(c in shown for c in "\x1b\x07\u202e")
    for text in ("\\x1b[2J", "[bold]x[/]", "[/nothing]", ":smile:", "[red]y[/red]"):
        assert text in shown


@pytest.mark.parametrize(
    "words",
    [
        ["cuts", f"net{_EVIL}"],
        ["train", "--cut", _EVIL],
        ["train", "--config", f"no{_EVIL}\n.toml"],
        ["infer", f"no{_EVIL}", "--insecure"],
        ["infer", ".", "--cloud", f"host{_EVIL}:1"],
        ["data", _EVIL],
        ["certs", "device", f"cam{_EVIL}"],
        ["train", "--epochs", _EVIL],
        [_EVIL],
        ["train", f"--{_EVIL}"],
        ["report", f"no{_EVIL}"],
        ["light", f"no{_EVIL}", "--inputs", "x"],
        ["plan", "--profile", f"no{_EVIL}"],
        ["serve", f"no{_EVIL}.toml", "--insecure"],
        ["train", "--config", "x" * 5000],
        ["train", "--config", "no\udcff.toml"],
    ],
    ids=lambda words: " ".join(words)[:20].encode("unicode_escape").decode(),
)
def test_what_a_command_refuses_is_said_without_leading_the_terminal(
    eaves: Eaves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = eaves(*words)
    assert ended.code in (1, 2)
    assert ended.err
    assert not any(c in ended.out + ended.err for c in "\x1b\x07\u202e\udcff")
    assert _clean(ended.err)


def test_class_names_of_folders_reach_the_terminal_written_out(
    eaves: Eaves, tmp_path: Path
) -> None:
    from PIL import Image

    for name in (f"a{_EVIL}", "[b]"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for n in range(8):
            Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / "d" / name / f"{n}.png")
    (tmp_path / "d" / f"a{_EVIL}" / f"bad{_EVIL}.png").write_bytes(b"no image")
    data = ["--data", "images", "--data-root", tmp_path / "d", "--image-size", "8"]
    ended = eaves("train", *data, "--epochs", "1", "--batch-size", "4", "--out", tmp_path / "o")
    assert ended.code == 1
    assert "bad\\x1b[2J" in ended.err
    assert "\x1b" not in ended.err
    (tmp_path / "d" / f"a{_EVIL}" / f"bad{_EVIL}.png").unlink()
    ended = eaves("train", *data, "--epochs", "1", "--batch-size", "4", "--out", tmp_path / "o")
    assert "\x1b" not in ended.out + ended.err


def test_a_terminal_shows_colours_and_bars_and_no_more(tmp_path: Path) -> None:
    """On a terminal rich may move the cursor itself; a name may not."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*EAVES, "cuts", f"net{_EVIL}"],
        cwd=tmp_path,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while select.select([leader], [], [], 60)[0]:
        try:
            read = os.read(leader, 4096)
        except OSError:
            break
        if not read:
            break
        shown += read
    assert process.wait(60) == 2
    assert b"unknown net" in shown
    assert b"\x1b[2J" not in shown
    assert b"\x07" not in shown


def test_no_name_forges_a_message(eaves: Eaves, tmp_path: Path) -> None:
    ended = eaves("train", "--config", tmp_path / "x\neaves: all is well\n")
    assert ended.code == 2
    assert [line for line in ended.err.splitlines() if line.startswith("eaves: ")] == [
        ended.err.splitlines()[0]
    ]


# Odd surroundings


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xef\xbb\xbfepochs = 1\nnonsense = 1\n", "nonsense"),
        (b"epochs = 1\nepochs = 2\n", "is not TOML"),
        (b"epochs = 'many'\n", "expected epochs to be int"),
        (b"\xff\xfe\x00", "cannot read the configuration"),
        (b"epochs = [1]\n", "expected epochs to be int"),
        (None, "cannot read the configuration"),
    ],
)
def test_a_file_of_settings_that_is_none_is_said(
    eaves: Eaves, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "a b\nc.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    ended = eaves("train", "--config", path)
    assert ended.code == 2
    assert words in ended.err.replace("\n  ", "")
    assert all(line.startswith("  ") for line in ended.err.splitlines()[1:])


@pytest.mark.parametrize("name", ["a b", "a\nb", "ä", "[red]x", "-x"])
def test_a_run_may_have_any_name(eaves: Eaves, tmp_path: Path, name: str) -> None:
    ended = eaves("train", *SHORT, f"--out={tmp_path / name}")
    assert ended.code == 0, ended.err
    assert (tmp_path / name / "record.json").exists()
    assert ended.out.endswith("\n")


@pytest.mark.parametrize(
    "words", [["train", "--out", "a\udcff"], ["report", "a\udcff"], ["cuts", "--net=\udcff"]]
)
def test_a_word_that_is_no_utf_8_is_refused(eaves: Eaves, words: list[str]) -> None:
    ended = eaves(*words)
    assert ended.code == 2
    assert ended.err.startswith("eaves: expected words in UTF-8, got '")
    assert "udcff" in ended.err


@pytest.mark.parametrize("address", ["localhost:70000", "localhost", "::1:7443", "[::1]", "a:b"])
def test_an_address_that_is_none_is_said(eaves: Eaves, address: str) -> None:
    for words in (["serve", "x.toml", "--listen"], ["agent", "x.toml", "--cloud"]):
        ended = eaves(*words, address)
        assert ended.code == 2
        assert "expected an address as in" in ended.err
        assert _clean(ended.err)
