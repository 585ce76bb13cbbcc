"""Fingerprint of a run: data, classes, net, settings and versions, by what they hold.

A run goes on with what it began with and with nothing else; what has changed is named. Paths do not
count: data and the file of a net may lie elsewhere. The fingerprint stays in the folder of the run
(``identity.json``, for its owner alone): it names files.

Guaranteed: a file that came, went, or has another size, class or part is found, and any other
content in sets of up to :data:`HASHED_BYTES`. Not guaranteed: another content of the same size in a
larger set, where the first bytes of a fixed choice of some :data:`HASHED_FILES` files are read.
"""

import hashlib
import inspect
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, final
from zlib import crc32

import torch
from torch import Tensor, nn

from eaves import __version__
from eaves.core.net import StagedNet
from eaves.data.source import Contents, Dataset
from eaves.errors import DataError, StateError
from eaves.experiments.config import TrainConfig, counted, net_name
from eaves.nets.foreign import is_foreign
from eaves.nets.own import is_own, own_code
from eaves.runtime.files import expect_format, write_atomically

NAME: Final = "identity.json"
# Larger sets are not read whole, because that would delay each start.
HASHED_BYTES: Final = 256 * 2**20
HASHED_FILES: Final = 2_000
_HEAD: Final = 1 << 16  # bytes of a file in a larger set
_FORMAT: Final = 1
_LISTED: Final = 3  # folders and settings in a message
_PARTS: Final = {"train": "training", "valid": "validation", "test": "test"}

Facts = dict[str, Any]


@final
@dataclass(frozen=True, kw_only=True)
class NetFacts:
    """What a net is, wherever its file lies."""

    name: str
    """small, timm:resnet18; own:NAME for a file's and for one that was passed in Python."""
    structure: str
    """Digest of the names of its stages, and of the names and shapes of its weights."""
    source: str = ""
    """SHA-256 of its file, or of the code of its classes; empty for the nets of packages."""
    package: str = ""
    """Whose net it is, and which version."""
    code: bytes | None = field(default=None, repr=False)
    """What is in its file."""

    def as_json(self) -> Facts:
        """Return everything but the code."""
        named = ("name", "structure", "source", "package")
        return {name: getattr(self, name) for name in named}

    def terms(self) -> Facts:
        """Return what both halves must agree on, beside the name: nothing for nets of ours."""
        if self.package.startswith("eaves "):
            return {}
        code = {"net_sha256": self.source} if self.code is not None else {}
        return {"net_structure": self.structure, **code}


def net_facts(name: str, whole: StagedNet, given: nn.Module | None = None) -> NetFacts:
    """Return what a net is that was built by ``name``, or ``given`` in Python; ``whole``: staged.

    Raises:
        ConfigError: its file cannot be read.
    """
    shapes = [(key, list(value.shape)) for key, value in whole.state_dict().items()]
    structure = _hash(json.dumps([whole.names, shapes]).encode())
    if given is not None:
        return NetFacts(name=name, structure=structure, source=_code_of(given))
    if is_own(name):
        code = own_code(name)
        digest = hashlib.sha256(code).hexdigest()
        return NetFacts(name=net_name(name), structure=structure, source=digest, code=code)
    library = name.partition(":")[0] if is_foreign(name) else ""
    package = f"{library} {version(library)}" if library else f"eaves {__version__}"
    return NetFacts(name=name, structure=structure, package=package)


def _code_of(net: nn.Module) -> str:
    """Return a digest of the source of the user's classes in ``net``, as far as there is one."""
    texts = {}
    for kind in {type(module) for module in net.modules()}:
        if kind.__module__.partition(".")[0] in ("torch", "eaves"):
            continue
        try:
            texts[kind.__qualname__] = inspect.getsource(kind)
        except (OSError, TypeError):  # typed into an interpreter
            texts[kind.__qualname__] = ""
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def identity_of(
    config: TrainConfig, dataset: Dataset, net: NetFacts, *, kind: str, session: str = ""
) -> Facts:
    """Return the fingerprint of a run of ``kind`` (train, agent), which began from ``session``.

    Raises:
        DataError: a file of the data set is gone or cannot be read.
    """
    sources = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
    contents = {name: source.contents() for name, source in sources.items() if source is not None}
    paths = [path for found in contents.values() for path in found.paths]
    root = _root(paths)
    hashing = _Hashing(paths)
    parts = {name: _part(found, root, hashing) for name, found in contents.items()}
    return {
        "format": _FORMAT,
        "kind": kind,
        "session": session,
        "config": counted(config),
        "root": Path(root).name,
        "classes": list(dataset.classes),
        "input_shape": list(dataset.train.input_shape),
        "private": {name: list(found) for name, found in dataset.private_classes.items()},
        "parts": parts,
        "net": net.as_json(),
        "versions": {"eaves": __version__, "torch": torch.__version__},
    }


def _part(found: Contents, root: str, hashing: "_Hashing") -> Facts:
    private = None if found.private is None else _digest(found.private.labels_BA)
    facts: Facts = {"examples": len(found.labels), "private": private}
    if found.inputs is not None:
        return facts | {"inputs": _digest(found.inputs), "labels": _digest(found.labels)}
    start = len(root) + 1 if root else 0
    rows = [
        [str(path)[start:], *hashing.of(path), label]
        for path, label in zip(found.paths, found.labels.tolist(), strict=True)
    ]
    return facts | {"files": rows}


def _root(paths: Iterable[Path]) -> str:
    folders = {str(path.parent) for path in paths}
    root = os.path.commonpath(folders) if folders else ""
    return "" if root == "." else root


@final
class _Hashing:
    """Sizes and digests of files; in a large set, digests of the first bytes of a few."""

    def __init__(self, paths: list[Path]):
        self._sizes = {str(path): _size(path) for path in paths}
        self._whole = sum(self._sizes.values()) <= HASHED_BYTES
        # By their names alone, so that the choice stays when others come or a class is renamed.
        chosen = paths if self._whole else sorted(paths, key=_drawn)[:HASHED_FILES]
        self._read = {str(path) for path in chosen}

    def of(self, path: Path) -> tuple[int, str | None]:
        """Return the size of a file, and the digest of its content if it is to be read."""
        size = self._sizes[str(path)]
        if str(path) not in self._read:
            return size, None
        try:
            with path.open("rb") as file:
                return size, _hash(file.read(-1 if self._whole else _HEAD))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error


def _drawn(path: Path) -> int:
    return crc32(path.name.encode(errors="surrogateescape"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    return _hash(f"{values.dtype} {tuple(values.shape)}".encode(), values.numpy().tobytes())


def _hash(*contents: bytes) -> str:
    found = hashlib.blake2b(digest_size=16)
    for content in contents:
        found.update(content)
    return found.hexdigest()


# On disk


def write_identity(folder: Path, identity: Facts) -> str:
    """Write the fingerprint into the folder of a run; return the SHA-256 of the file.

    Raises:
        StorageError: the disk is full or refuses.
    """
    content = json.dumps(identity, separators=(",", ":")).encode()
    write_atomically(folder / NAME, content, mode=0o600)
    return hashlib.sha256(content).hexdigest()


def read_identity(folder: Path, sha256: str | None = None) -> Facts:
    """Return the fingerprint in the folder of a run, that of this SHA-256 where one is given.

    Raises:
        StateError: there is none, it is damaged or another one, or a newer Eaves has written it.
    """
    path = folder / NAME
    hint = "put it back, start over with --overwrite, or choose another --out"
    try:
        content = path.read_bytes()
        found = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"cannot read {path}, which says what the run is: {hint}") from error
    if not isinstance(found, dict):
        raise StateError(f"{path} is damaged: {hint}")
    expect_format(found.get("format"), _FORMAT, place=path, kind="the identity of a run")
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise StateError(f"{path} is not that of the checkpoint beside it: {hint}")
    if not _is_identity(found):
        raise StateError(f"{path} is damaged: it does not hold what the identity of a run is")
    return found


def _is_identity(found: Facts) -> bool:
    """Whether all that is read of an identity before it is compared has its kind."""
    kinds = {"kind": str, "config": dict, "versions": dict, "net": dict}
    if not all(isinstance(found.get(name), kind) for name, kind in kinds.items()):
        return False
    texts = [found["versions"].get(name) for name in ("eaves", "torch")]
    return all(isinstance(text, str) for text in [*texts, found["net"].get("package")])


# What differs


def settings_changed(before: Facts, now: Facts) -> list[str]:
    """Return the settings that are others, each in words; also where it is no run of this kind."""
    if before["kind"] != now["kind"]:
        return [f"it is a run of `eaves {before['kind']}`, this is `eaves {now['kind']}`"]
    was, is_ = _flat(before["config"]), _flat(now["config"])
    unlike = [name for name in sorted({*was, *is_}) if was.get(name) != is_.get(name)]
    told = [f"{name} was {was.get(name)!r}, is {is_.get(name)!r}" for name in unlike]
    more = [f"and {len(told) - 2 * _LISTED} more"] if len(told) > 2 * _LISTED else []
    return told[: 2 * _LISTED] + more


def _flat(settings: Mapping[str, Any]) -> Facts:
    plain = {k: v for k, v in settings.items() if not isinstance(v, Mapping)}
    tables = [v for v in settings.values() if isinstance(v, Mapping)]
    return plain | {k: v for table in tables for k, v in table.items()}


def differences(before: Facts, now: Facts) -> list[str]:
    """Return what else a run began with that is not so any more, each in words; empty: nothing.

    Raises:
        StateError: ``before`` is damaged.
    """
    try:
        renamed = _renamed(before, now)
        return [
            *_session(before, now),
            *_classes(before["classes"], now["classes"], renamed),
            *_labelled(before, now),
            *_files(before, now, renamed),
            *_tensors(before["parts"], now["parts"]),
            *_net(before["net"], now["net"]),
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"the {NAME} of the run is damaged ({error!r}); start over with --overwrite, or choose "
            "another --out"
        ) from error


def notices(before: Facts, now: Facts) -> list[str]:
    """Return the versions that are others, so that the last bits of weights may be."""
    pairs = [
        ("Eaves", before["versions"]["eaves"], now["versions"]["eaves"]),
        ("torch", _minor(before["versions"]["torch"]), _minor(now["versions"]["torch"])),
    ]
    theirs, ours = before["net"]["package"].split(), now["net"]["package"].split()
    if theirs[:1] == ours[:1] and theirs and theirs[0] != "eaves":
        pairs.append((theirs[0], theirs[-1], ours[-1]))
    return [f"{name} was {was}, is {is_}" for name, was, is_ in pairs if was != is_]


def _minor(text: str) -> str:
    return ".".join(text.split(".")[:2])


def _session(before: Facts, now: Facts) -> list[str]:
    was, is_ = before["session"], now["session"]
    if not (was and is_) or was == is_:  # a bundle may be gone when it is not needed any more
        return []
    return [f"it began from the bundle of session {was}, and this is that of {is_}"]


def _renamed(before: Facts, now: Facts) -> dict[str, str]:
    """Return the new names of classes whose files are the same, or of the only one that changed."""
    gone = [name for name in before["classes"] if name not in now["classes"]]
    new = [name for name in now["classes"] if name not in before["classes"]]
    if len(gone) == len(new) == 1:
        return {gone[0]: new[0]}
    held = {name: _holds(before, name) for name in gone}
    holds = {name: _holds(now, name) for name in new}
    pairs: dict[str, str] = {}
    for name in gone:
        left = [other for other in new if other not in pairs.values()]
        same = [other for other in left if holds[other] and holds[other] == held[name]]
        if same:
            pairs[name] = same[0]
    if not pairs and len(before["classes"]) == len(now["classes"]):
        both = zip(before["classes"], now["classes"], strict=True)
        pairs = {was: is_ for was, is_ in both if was in gone and is_ in new}
    return pairs


def _holds(facts: Facts, name: str) -> set[tuple[str, int, str | None]]:
    number = facts["classes"].index(name)
    rows = (row for part in facts["parts"].values() for row in part.get("files", ()))
    return {
        (os.path.basename(path), size, digest)
        for path, size, digest, label in rows
        if label == number
    }


def _classes(before: list[str], now: list[str], renamed: Mapping[str, str]) -> list[str]:
    told = [f"class {name!r} is now {other!r}" for name, other in renamed.items()]
    known, new = {*before}, {*renamed.values()}
    told += [f"class {name!r} is gone" for name in before if name not in {*now, *renamed}]
    told += [f"class {name!r} is new" for name in now if name not in known | new]
    if not told and before != now:
        order = f"{', '.join(before[:5])}, ... are now {', '.join(now[:5])}, ..."
        told.append(f"the classes have another order: {order}")
    return told


def _labelled(before: Facts, now: Facts) -> list[str]:
    told = []
    if before["private"] != now["private"]:
        told.append(f"private attributes were {before['private']}, are {now['private']}")
    if before["input_shape"] != now["input_shape"]:
        told.append(f"inputs were {before['input_shape']}, are {now['input_shape']}")
    return told


@final
@dataclass(frozen=True)
class _Row:
    """A file as it was or is: its part, size, digest, and the name of its class."""

    part: str
    size: int
    digest: str | None
    label: str

    def content(self, other: "_Row") -> bool:
        """Whether both may hold the same."""
        known = self.digest is not None and other.digest is not None
        return self.size == other.size and (not known or self.digest == other.digest)


def _rows(facts: Facts, renamed: Mapping[str, str]) -> dict[str, _Row]:
    """Return the files by their paths; those below a class that was renamed by the new one."""
    found = {}
    for part, held in facts["parts"].items():
        for path, size, digest, number in held.get("files", ()):
            name = facts["classes"][number]
            if name in renamed:
                *folders, file = path.split(os.sep)
                path = os.sep.join([renamed.get(folder, folder) for folder in folders] + [file])
            found[path] = _Row(part, size, digest, renamed.get(name, name))
    return found


def _files(before: Facts, now: Facts, renamed: Mapping[str, str]) -> list[str]:
    was, is_, root = _rows(before, renamed), _rows(now, {}), now["root"]
    both = [path for path in is_ if path in was]
    added, removed = [path for path in is_ if path not in was], [p for p in was if p not in is_]
    told = [
        _told(added, root, "added under"),
        _told(removed, root, "removed from"),
        _told([p for p in both if not was[p].content(is_[p])], root, "changed in"),
        _told([p for p in both if was[p].label != is_[p].label], root, "given another class in"),
    ]
    if not (added or removed or renamed):  # each of which a split by chance follows
        moved = [p for p in both if was[p].part != is_[p].part]
        told.append(_told(moved, root, "moved between training and test in"))
    return [text for text in told if text]


def _told(paths: list[str], root: str, what: str) -> str:
    """Return in words what happened to files; empty where there are none."""
    if not paths:
        return ""
    by_folder: dict[str, int] = defaultdict(int)
    for path in paths:
        by_folder[os.path.join(root, os.path.dirname(path)).rstrip(os.sep)] += 1
    most = sorted(by_folder, key=lambda folder: -by_folder[folder])
    where = ", ".join(most[:_LISTED]) + (" and others" if len(most) > _LISTED else "")
    count = "1 file was" if len(paths) == 1 else f"{len(paths):,} files were"
    return f"{count} {what} {where}, such as {os.path.basename(min(paths))}"


def _tensors(before: Facts, now: Facts) -> list[str]:
    """Tell of parts whose inputs are no files, and of private labels."""
    told = []
    for name in sorted({*before, *now}):
        was, is_ = before.get(name, {}), now.get(name, {})
        what = f"the {_PARTS.get(name, name)} examples"
        if "files" not in was and was.get("examples") != is_.get("examples"):
            told.append(f"{what} were {was.get('examples', 0):,}, are {is_.get('examples', 0):,}")
            continue
        kinds = [kind for kind in ("inputs", "labels") if was.get(kind) != is_.get(kind)]
        if was.get("private") != is_.get("private") and was.get("examples") == is_.get("examples"):
            kinds.append("private labels")
        if kinds:
            told.append(f"{' and '.join(kinds)} of {what} have changed")
    return told


def _net(before: Facts, now: Facts) -> list[str]:
    if before["structure"] != now["structure"]:
        return [
            f"the saved state belongs to another net than {now['name']} is now: its stages or "
            "weights have other names or shapes"
        ]
    if before["source"] != now["source"]:
        return [f"the code of the net {now['name']} has changed"]
    return []
