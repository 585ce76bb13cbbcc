"""The journal: every line counts, a change of any is found, a crash costs what was not durable."""

import hashlib
import json
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.network.conftest import wait_until

from eaves.errors import StateError, StorageError
from eaves.network.journal import Journal, learnt, read_journal


def write(path: Path, uploads: int = 3, lines: int = 0, edge: str = "a") -> int:
    """Add uploads, and return how many lines there are."""
    with closing(Journal(path, lines=lines)) as journal:
        for seq in range(1, uploads + 1):
            facts = {"edge": edge, "run": "1", "seq": seq, "examples": 5, "step": seq}
            journal.add("learnt", b"payload %d" % seq, **facts, kept=None)
        journal.flush()
        return journal.lines


def test_each_upload_is_a_line_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "out" / "journal.jsonl"
    assert write(path) == 4
    found = read_journal(path)
    assert [record["event"] for record in found] == ["begun", "learnt", "learnt", "learnt"]
    assert [record["n"] for record in found] == [1, 2, 3, 4]
    assert found[2]["sha256"] == hashlib.sha256(b"payload 2").hexdigest()
    assert b"payload" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_only_added_to(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = write(path)
    before = path.read_bytes()
    assert write(path, lines=lines) == lines + 3
    assert path.read_bytes().startswith(before)
    assert len(learnt(read_journal(path))) == 6


def _flipped(content: bytes) -> bytes:
    return content.replace(b'"examples": 5', b'"examples": 6', 1)


def _reordered(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([lines[0], lines[2], lines[1], *lines[3:]])


def _without(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([lines[0], *lines[2:]])


def _rechained(content: bytes) -> bytes:
    """Return the journal with a line changed by somebody who makes its own digest fit."""
    lines = [json.loads(line) for line in content.splitlines()]
    lines[1]["edge"] = "other"
    before = lines[0]["chain"]
    body = {k: v for k, v in lines[1].items() if k != "chain"}
    text = json.dumps(body, sort_keys=True)
    lines[1]["chain"] = hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_flipped, 2),
        (_reordered, 2),
        (_without, 2),
        (_rechained, 3),
        (lambda content: b"{}\n" + content, 1),
        (lambda content: content.replace(b"\n", b"\n\xff\n", 1), 2),
        (lambda content: content + b"[" * 100_000 + b"\n", 5),
    ],
)
def test_a_line_that_was_changed_is_found(
    tmp_path: Path, change: Callable[[bytes], bytes], line: int
) -> None:
    path = tmp_path / "journal.jsonl"
    lines = write(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StateError, match=f"line {line} of .*journal.jsonl is damaged"):
        Journal(path, lines=lines)


def test_a_last_line_that_was_cut_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    whole = path.read_bytes()
    for cut in (1, 10, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        with closing(Journal(path, lines=3)) as journal:
            assert journal.lines == 3
        assert len(read_journal(path)) == 3


def test_what_is_beyond_the_checkpoint_is_void(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    write(path, lines=2)  # the cloud was killed: uploads 2 and 3 come again, and more
    events = [(r["event"], r.get("void_from")) for r in read_journal(path)]
    assert events[4] == ("restarted", 3)
    assert [one["seq"] for one in learnt(read_journal(path))] == [1, 1, 2, 3]


def test_less_than_the_checkpoint_says_is_refused_and_none_begins_another(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = write(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(StateError, match="ends with line 2, and the checkpoint belongs to 4"):
        Journal(path, lines=lines)
    path.unlink()
    with closing(Journal(path, lines=lines)) as journal:
        assert journal.lines == 5
    assert read_journal(path)[0]["missing"] == 4
    for more in (5, 6):  # and that one goes on
        with closing(Journal(path, lines=more)) as journal:
            journal.add("refused", edge="a")


def test_a_full_disk_is_said_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "out" / "journal.jsonl"
    with closing(Journal(path, lines=0)) as journal:
        path.parent.rename(tmp_path / "away")
        path.parent.write_bytes(b"")
        journal.add("refused", edge="a")
        with pytest.raises(StorageError, match="cannot write"):
            journal.flush()
        path.parent.unlink()
        (tmp_path / "away").rename(path.parent)
        journal.add("refused", edge="b")
        journal.flush()
    assert [r.get("edge") for r in read_journal(path)] == [None, "a", "b"]


def test_lines_are_written_without_waiting_for_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path, lines=0)) as journal:
        journal.add("quarantined", edge="a", why="x" * 10_000)
        assert wait_until(lambda: len(read_journal(path)) == 2)
    assert len(read_journal(path)[1]["why"]) == 300


def test_forgotten_uploads_are_left_out_and_the_others_have_new_places() -> None:
    records = [
        {"n": n, "event": "learnt", "edge": edge, "kept": n} for n, edge in enumerate("abba")
    ]
    found = learnt([*records, {"n": 4, "event": "forgot", "edge": "b"}])
    assert [(one["n"], one["kept"]) for one in found] == [(0, 0), (3, 1)]
    undone = learnt([*records, {"n": 4, "event": "rolled back", "lines": 1}])
    assert [one["undone"] for one in undone] == [False, False, True, True]
    # A crash before the state was there makes both void.
    for event in ({"event": "forgot", "edge": "b"}, {"event": "rolled back", "lines": 0}):
        void = [{"n": 4, **event}, {"n": 5, "event": "restarted", "void_from": 4}]
        assert len([one for one in learnt([*records, *void]) if not one["undone"]]) == 4
