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

from eaves.errors import ConfigError, EavesError, StateError
from eaves.experiments.bundle import read_manifest, read_weights
from eaves.experiments.calibrating import NAME as RULE
from eaves.experiments.calibrating import read_rule
from eaves.experiments.config import load_config
from eaves.light.facts import NAME as DEVICE
from eaves.light.facts import read_facts, read_model
from eaves.network.certificates import listed
from eaves.network.credentials import Gate, device_credentials
from eaves.network.spoolfile import SpoolFile
from eaves.runtime.checkpoint import load_checkpoint
from eaves.runtime.sealed import unsealed_json
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
    """One kind of thing: the name of the file that shows it, and what reads all of it.

    ``check`` is given that file; it returns in words what is there, or raises.
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
    keep = _stored(path.parent.parent / "checkpoint")
    count, size_bytes = check_store(path.parent, keep=keep)
    return f"{count} uploads ({size_bytes:,} bytes)"


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
    for other in ("record.json", "checkpoint/checkpoint.json"):
        try:
            facts = unsealed_json((path.parent / other).read_bytes())
        except (OSError, ValueError):  # it is not there, or has a verdict of its own
            continue
        said = facts.get("config_hash") or (facts.get("facts") or {}).get("config_hash")
        if said not in (None, found):
            raise StateError(f"{path} is not the configuration that {other} is of: has it changed?")
    return "settings"


def _device(path: Path) -> str:
    facts = read_facts(path.parent)
    for name in facts.sha256:
        read_model(path.parent, facts, name)
    return f"models {', '.join(facts.sha256)}"


FORMATS: Final[Mapping[str, Format]] = {
    "spool": Format(marker="spool.db", check=_spool),
    "store": Format(marker="uploads.idx", check=_store),
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
    Gate(folder)
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
    names = {form.marker: kind for kind, form in FORMATS.items()}
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        kind = names.get(file.name)
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
