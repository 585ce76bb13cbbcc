"""Is what lies on a disk still what was written? Reads everything, changes nothing.

:data:`FORMATS` is the list of what can be verified: how each thing is recognised, and the function
that reads all of it and compares its checksums. A folder is searched to any depth.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import unquote

from eaves.errors import ConfigError, EavesError, StateError
from eaves.experiments.bundle import read_manifest, read_weights
from eaves.experiments.calibrating import NAME as RULE
from eaves.experiments.calibrating import read_rule
from eaves.experiments.config import load_config
from eaves.experiments.identity import NAME as IDENTITY
from eaves.experiments.identity import read_identity
from eaves.light.facts import NAME as DEVICE
from eaves.light.facts import read_facts, read_model
from eaves.network.accesslists import read_revoked, read_tokens
from eaves.network.accesslog import NAME as ACCESS
from eaves.network.accesslog import read_access_log
from eaves.network.certificates import listed
from eaves.network.contributions import KEPT
from eaves.network.credentials import REVOKED, TOKENS, device_credentials
from eaves.network.journal import NAME as JOURNAL
from eaves.network.journal import read_journal
from eaves.network.spoolfile import SpoolFile
from eaves.runtime.checkpoint import load_checkpoint
from eaves.runtime.sealed import unsealed_json, unsealed_text
from eaves.runtime.store import check_store


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One thing on a disk: what it is, whether it is whole, what it holds or what to do."""

    path: Path
    kind: str
    whole: bool
    says: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {**asdict(self), "path": str(self.path)}


@final
@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of thing: the file that shows it, and what reads all of it.

    ``marker`` is its name, perhaps with that of its folder, and with a star; ``check`` is given
    that file; it returns in words what is there, or raises.
    """

    marker: str
    check: Callable[[Path], str]


def _spool(path: Path) -> str:
    """Read a spool's file; in a copy, because opening one in SQLite may move its log into it."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            if (beside := path.with_name(path.name + suffix)).exists():
                shutil.copy(beside, folder)
        with closing(SpoolFile(Path(folder) / path.name)) as file:
            through = _steps_made(path.parent, file)
            found = file.load(through)
            bad = file.bad_replies()
    gone = [n for run in found.missing for n in run]
    if gone or bad:
        what = [f"upload {n}" for n in gone] + [f"the reply to upload {n}" for n in bad]
        more = "..." if len(what) > 5 else ""
        raise StateError(
            f"{len(gone)} uploads and {len(bad)} replies are missing or have changed "
            f"({', '.join(what[:5])}{more}): the agent's command makes them again where it can, "
            "and else counts them as lost"
        )
    lost = f", {found.lost} lost" if found.lost else ""
    return f"{len(found.slots)} uploads wait, {found.dropped} dropped{lost}"


def _steps_made(folder: Path, file: SpoolFile) -> int:
    """Return up to which number uploads must be there: as the edge's checkpoint says."""
    loaded = load_checkpoint(folder / "checkpoint")
    facts = {} if loaded is None else loaded[1]
    sending = facts.get("enrolled") and facts.get("phase") in ("train", "send")
    steps = facts.get("steps")
    return steps if sending and type(steps) is int else file.highest()


def _store(path: Path) -> str:
    """Read every upload; the number that should be there is that of the checkpoint beside it."""
    checkpoint = path.parent.parent / "checkpoint"
    kept_only = path.parent.name == KEPT  # else they are learnt from more than once
    keep = _contributed(checkpoint, "kept") if kept_only else _stored(checkpoint)
    count, size_bytes = check_store(path.parent, keep=keep)
    return f"{count} uploads ({size_bytes:,} bytes)"


def _contributed(checkpoint: Path, name: str) -> int | None:
    """Return a count of what edges have contributed, as a cloud's checkpoint has it."""
    loaded = load_checkpoint(checkpoint)
    found = (loaded[1].get("contributions") or {}).get(name) if loaded else None
    return found if type(found) is int else None


def _stored(checkpoint: Path) -> int | None:
    loaded = load_checkpoint(checkpoint)
    if loaded is None:
        return None
    states, facts = loaded
    cloud = states.get("cloud")
    counts = [facts.get("stored")]
    if cloud is not None:
        counts.insert(0, (cloud.facts.get("lessons") or {}).get("stored"))
    return next((n for n in counts if type(n) is int), None)


def _checkpoint(path: Path) -> str:
    loaded = load_checkpoint(path.parent)
    assert loaded is not None  # the index is there, or there was one
    states, _ = loaded
    return f"states of {', '.join(states) or 'no half yet'}"


def _bundle(path: Path) -> str:
    folder, manifest = path.parent, read_manifest(path.parent)
    sides = [side for side in manifest.get("sha256", {}) if (folder / side).is_dir()]
    if not sides:
        raise StateError(f"{folder} holds no weights: copy the bundle again")
    for side in sides:
        read_weights(folder, side)
    code = manifest.get("net_sha256")
    if code is not None and hashlib.sha256((folder / "net.py").read_bytes()).hexdigest() != code:
        raise StateError(f"{folder / 'net.py'} is not the code that was written: copy it again")
    return f"weights of {' and '.join(sides)}"


def _json(path: Path) -> str:
    try:
        found = unsealed_json(path.read_bytes())
    except ValueError as error:
        raise StateError(f"{path} is damaged ({error}): bring it back from a copy") from error
    if not isinstance(found, dict):
        raise StateError(f"{path} is damaged: it holds no names and values")
    return "figures"


def _config(path: Path) -> str:
    """Read the configuration; what was trained with it names its hash."""
    found = load_config(path).hash()
    for other, said in _witnesses(path.parent, "config_hash"):
        if said not in (None, found):
            raise StateError(f"{path} is not the configuration that {other} is of: has it changed?")
    try:
        unsealed_text(path.read_bytes())
    except ValueError as error:
        raise StateError(
            f"{path} is not as the run has written it, in a setting that no result depends on, or "
            f"in a comment ({error})"
        ) from error
    return "settings"


def _witnesses(folder: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Yield what the record and the checkpoint of a run say under ``name``, if they can be read."""
    for other in ("record.json", "checkpoint/checkpoint.json"):
        try:
            facts = unsealed_json((folder / other).read_bytes())
            yield other, facts.get(name) or (facts.get("facts") or {}).get(name)
        except (OSError, ValueError, AttributeError):  # not there, or with a verdict of its own
            continue


def _identity(path: Path) -> str:
    """Read what a run is; its record and its checkpoint name its SHA-256."""
    read_identity(path.parent)
    for _, said in _witnesses(path.parent, "identity"):
        sha256 = said.get("sha256") if isinstance(said, dict) else said
        if isinstance(sha256, str):
            read_identity(path.parent, sha256)
    return "what the run is"


def _journal(path: Path) -> str:
    """Follow the chain of a journal, which is at least as long as the checkpoint beside it says."""
    found = read_journal(path)
    last = found[-1]["n"] if found else 0
    lines = _contributed(path.parent / "checkpoint", "journal") if path.name == JOURNAL else None
    if last < (lines or 0):
        raise StateError(
            f"{path} ends with line {last:,}, and the checkpoint belongs to {lines:,}: bring it "
            "back from a copy"
        )
    return f"{len(found)} lines"


def _set_aside(path: Path) -> str:
    _json(path)
    return f"{unquote(path.stem)} is set aside"


def _device(path: Path) -> str:
    facts = read_facts(path.parent)
    for name in facts.sha256:
        read_model(path.parent, facts, name)
    return f"models {', '.join(facts.sha256)}"


FORMATS: Final[Mapping[str, Format]] = {
    "spool": Format(marker="spool.db", check=_spool),
    "store": Format(marker="uploads.idx", check=_store),
    "journal": Format(marker="journal*.jsonl", check=_journal),
    "quarantine": Format(marker="quarantine/*.json", check=_set_aside),
    "access log": Format(
        marker=f"{ACCESS}*", check=lambda path: f"{len(read_access_log(path))} lines"
    ),
    "identity": Format(marker=IDENTITY, check=_identity),
    "checkpoint": Format(marker="checkpoint.json", check=_checkpoint),
    "checkpoint without its index": Format(marker="begun", check=_checkpoint),
    "bundle": Format(marker="manifest.json", check=_bundle),
    "rule": Format(marker=RULE, check=lambda path: f"rule {read_rule(path.parent).rule}"),
    "record": Format(marker="record.json", check=_json),
    "audit": Format(marker="audit.json", check=_json),
    "configuration": Format(marker="config.toml", check=_config),
    "device": Format(marker=DEVICE, check=_device),
    "authority": Format(
        marker="issued.json", check=lambda path: f"{len(listed(path.parents[1]))} made"
    ),
    "lists": Format(marker="revoked.json", check=lambda path: _lists(path.parent)),
    "credentials": Format(
        marker="ca.pem", check=lambda path: f"of {device_credentials(path.parent).name}"
    ),
}
"""A line for each kind of thing that Eaves writes and reads again."""


def _lists(folder: Path) -> str:
    for name, read in ((REVOKED, read_revoked), (TOKENS, read_tokens)):
        try:
            read((folder / name).read_text(encoding="utf-8"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StateError(
                f"{folder / name} is damaged ({error}): bring it back from a copy, or make or "
                "revoke something with `eaves certs`, which writes it again"
            ) from error
    return "who may not come in"


def verify(path: Path) -> Iterator[Verdict]:
    """Read everything of ours in ``path``, a file or a folder; yield what each thing is worth.

    Nothing is changed. While a process is at work there, a verdict may be about a moment between
    two writes: stop the process first.

    Raises:
        ConfigError: there is nothing of ours in ``path``.
    """
    if not path.exists():
        raise ConfigError(f"expected a file or folder to verify, got {path}, which is not there")
    found = False
    for kind, file in _things(path):
        found = True
        try:
            verdict = Verdict(path=file, kind=kind, whole=True, says=FORMATS[kind].check(file))
        except (EavesError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            verdict = Verdict(path=file, kind=kind, whole=False, says=str(error))
        yield verdict
    if not found:
        known = ", ".join(dict.fromkeys(form.marker for form in FORMATS.values()))
        raise ConfigError(f"there is nothing of Eaves in {path}: expected one of {known}")


def _things(path: Path) -> Iterator[tuple[str, Path]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        kind = next((kind for kind, form in FORMATS.items() if file.match(form.marker)), None)
        if file.name == "begun" and (file.parent / "checkpoint.json").exists():
            continue
        if kind == "credentials" and (
            (file.parent / "revoked.json").exists() or (file.parent / "issued.json").exists()
        ):
            continue  # those of a server or an authority: their lists are looked at
        if kind == "lists" and not (file.parent / "tokens.json").exists():
            continue
        if kind is not None:
            yield kind, file
