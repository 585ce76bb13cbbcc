"""What a phone in a trouser pocket feels while its owner walks, climbs or sits, as windows.

The layout is that of MotionSense: 24 people, 6 activities in 15 trials, 12 channels at 50 Hz.

::

    motionsense/data_subjects_info.csv                  code,weight,height,age,gender
    motionsense/A_DeviceMotion_data/A_DeviceMotion_data/wlk_7/sub_1.csv

The folder of the trials may also lie one level higher, as some copies have it.

Source: Malekzadeh et al., *Mobile Sensor Data Anonymization* (IoTDI 2019, arXiv:1810.11546);
https://github.com/mmalekzadeh/motion-sense.

Dimension key:  N windows   T moments   C channels   H = 1   W moments in a window   A attributes
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor

from eaves.core.roles import PrivateLabels
from eaves.data.files import MEMORY_LIMIT_BYTES
from eaves.data.folders import entries, unread
from eaves.data.private import choose_private, named, refuse_known, take
from eaves.data.source import (
    Dataset,
    InMemory,
    Interface,
    Request,
    channel_stats,
    data_root,
    lacking,
    some,
    stratified_split,
    subset,
)
from eaves.data.trials import read_columns, read_genders
from eaves.errors import ConfigError, DataError

FOLDER = "motionsense"
TRIALS_FOLDER = "A_DeviceMotion_data"
PEOPLE_FILE = "data_subjects_info.csv"
SYNTHETIC_FILE = "SYNTHETIC.txt"
"""Where this file lies beside the table, no person has moved: the data are synthetic."""
PAGE = "https://github.com/mmalekzadeh/motion-sense"

RATE_HZ = 50
WINDOW, STEP = 128, 64
"""Moments in a window (2.56 s), and from the beginning of one to that of the next."""
LAST_LONG_TRIAL = 10
"""Trials up to 9 are minutes long; those from 11 on are short, and repeat them."""

FULL_TURN_RAD_S = 34.906585
"""2,000 degrees a second, the usual range of a gyroscope in a phone."""
LIMITS: dict[str, float] = {
    "attitude.roll": torch.pi,
    "attitude.pitch": torch.pi / 2,
    "attitude.yaw": torch.pi,
    "gravity.x": 1.0,
    "gravity.y": 1.0,
    "gravity.z": 1.0,
    "rotationRate.x": FULL_TURN_RAD_S,
    "rotationRate.y": FULL_TURN_RAD_S,
    "rotationRate.z": FULL_TURN_RAD_S,
    "userAcceleration.x": 8.0,
    "userAcceleration.y": 8.0,
    "userAcceleration.z": 8.0,
}
"""The channels by their columns, each with the largest size it is kept to: radians, standard
gravities (9.80665 m/s2; 8 is the range of such accelerometers), radians per second."""
ACTIVITIES: dict[str, str] = {
    "dws": "downstairs",
    "ups": "upstairs",
    "wlk": "walking",
    "jog": "jogging",
    "std": "standing",
    "sit": "sitting",
}
"""What a folder of trials is called, and what its people do."""
GENDERS = ("female", "male")
TASKS = ("activity", "gender")
ATTRIBUTES = (*TASKS, "subject")
SPLITS = ("subjects", "trials")
SHAPE = (len(LIMITS), 1, WINDOW)

_OFTEN = 0.01  # of all moments: more beyond a limit than now and then
_SLACK = 1.001  # for limits written with fewer digits
_ZERO, _STEPS = 128, 127  # the byte that stands for 0, and how many there are on each side
_TRIAL = re.compile(rf"({'|'.join(ACTIVITIES)})_([0-9]{{1,9}})")
_PERSON = re.compile(r"sub_([0-9]{1,9})\.csv")


@final
class _Trial(NamedTuple):
    """A file, and what its name says."""

    activity: int
    number: int
    subject: int
    path: Path


@final
class _Wanted(NamedTuple):
    """What the option of a request asks for."""

    task: str
    split: str


def load_motion(request: Request) -> Dataset:
    """Return windows of 2.56 s, uint8 (12, 1, 128) each, half overlapping, all in memory.

    The option of the request is a task, ``activity`` (the default) or ``gender``, and after a comma
    perhaps how the set is divided. By ``subjects``, the default, a fixed quarter of the people, of
    both genders, is for the test, and no person is in both. By ``trials`` the short ones (from
    11 on) of everybody are for the test: only so can who moves (``subject``) be private, since who
    reads it has to know these people. The same request with other attributes gives the same windows
    in the same order. The rest of a trial after its last window is left out; one shorter than a
    window is passed over and named in a notice, as is a channel that is often beyond its limit.

    Bytes are made by :func:`companded`. Neighbouring windows share half of their moments, and all
    those of a person are alike, so an interval that counts each as independent is too narrow.

    Raises:
        ConfigError: the request does not fit the set, or the attribute is not to be hidden so.
        DataError: a file is missing or not in its layout, or a part lacks a class.
    """
    wanted = _wanted(request)
    names = _private_names(request, wanted)
    folder = data_root(request.root) / FOLDER
    genders = read_genders(folder / PEOPLE_FILE, page=PAGE)
    kept, windows_NCHW, notices = _read(folder, genders)
    classes = _classes(genders)
    labels = {name: _labels(kept, name, genders) for name in ATTRIBUTES}
    is_test_N = _is_test(kept, wanted.split, genders)
    for name in (wanted.task, *names):
        _check_parts(labels[name], is_test_N, classes[name], folder)
    private = None
    if names:
        private = PrivateLabels(torch.stack([labels[name] for name in names], dim=1), names)
    train_N, test_N = (mask_N.nonzero()[:, 0] for mask_N in (~is_test_N, is_test_N))
    train_N = train_N[subset(len(train_N), request.train_samples)]
    refuse_known(take(private, train_N), labels[wanted.task][train_N])
    train, test = (
        InMemory(windows_NCHW[part_N], labels[wanted.task][part_N], take(private, part_N))
        for part_N in (train_N, test_N)
    )
    mean, std = channel_stats(train)
    trained = {"train": labels[wanted.task][train_N]}
    return Dataset(
        name=_name(wanted) + (" (synthetic)" if (folder / SYNTHETIC_FILE).exists() else ""),
        train=train,
        test=test,
        classes=classes[wanted.task],
        mean=mean,
        std=std,
        # A shift would fill the end with a byte that means the lower limit, not rest.
        augment="none",
        private_classes={name: classes[name] for name in names},
        notices=(*notices, *lacking("class", classes[wanted.task], trained, subset=True)),
    )


def interface(request: Request) -> Interface:
    """Return what a net for these windows is made for, without looking at any.

    Raises:
        ConfigError: no such task, or no such way to divide.
    """
    return Interface(input_shape=SHAPE, classes=_classes({})[_wanted(request).task])


def missing(root: Path) -> list[str]:
    """Return what of the layout is not in ``root``, in words; empty where all of it is."""
    return [
        f"{FOLDER}/{name}"
        for name in (TRIALS_FOLDER, PEOPLE_FILE)
        if not (root / FOLDER / name).exists()
    ]


def companded(values: Tensor) -> Tensor:
    """Return bytes from 1 to 255 for the values of channels: (T, C) or (B, C, H, W), as given.

    A value is kept to its limit (:data:`LIMITS`) and becomes ``sign(x) sqrt(|x| / limit)`` in 127
    steps on each side of 128, which is 0: small values, of which there are most, keep more of their
    precision. The first step from 0 is the limit / 16,129: 0.0005 of gravity (0.0049 m/s2) for the
    acceleration, 0.0022 rad/s for the rotation, 0.0002 rad for roll and yaw. The last is 1.6 % of
    the limit, 126 times as much.

    >>> companded(torch.zeros(1, 12))[0, 0].item()
    128
    """
    shares = values / _limits(values)
    roots = shares.sign() * shares.abs().clamp(max=1).sqrt()
    return (_ZERO + (_STEPS * roots).round()).to(torch.uint8)


def expanded(inputs: Tensor) -> Tensor:
    """Return the values of channels that bytes stand for, float32: what :func:`companded` undoes.

    >>> expanded(torch.full((1, 12), 255, dtype=torch.uint8))[0, -1].item()
    8.0
    """
    roots = (inputs.float() - _ZERO) / _STEPS
    return roots.sign() * roots.square() * _limits(inputs)


def _limits(values: Tensor) -> Tensor:
    if values.dim() < 2 or values.shape[1] != len(LIMITS):
        raise ValueError(f"expected {len(LIMITS)} channels (N, C, ...), got {tuple(values.shape)}")
    limits_C = torch.tensor(list(LIMITS.values()), device=values.device)
    return limits_C.view(-1, *(1 for _ in values.shape[2:]))


def _wanted(request: Request) -> _Wanted:
    if request.image_size is not None:
        raise ConfigError(
            f"the windows of motion are 12 channels of {WINDOW} moments, got "
            f"image_size={request.image_size}; leave it out"
        )
    task, comma, split = request.option.partition(",")
    return _Wanted(
        named("task of motion", task, TASKS) if request.option else TASKS[0],
        named("way to divide motion", split, SPLITS) if comma else SPLITS[0],
    )


def _name(wanted: _Wanted) -> str:
    split = "" if wanted.split == SPLITS[0] else f",{wanted.split}"
    return "motion" if wanted == (TASKS[0], SPLITS[0]) else f"motion:{wanted.task}{split}"


def _private_names(request: Request, wanted: _Wanted) -> tuple[str, ...]:
    names = choose_private(request.private, ATTRIBUTES, task=wanted.task)
    if "subject" in names and wanted.split == "subjects":
        raise ConfigError(
            "who moves can be read only by somebody who has seen these people, and this division "
            f"has other people in the test; write motion:{wanted.task},trials, which has everybody "
            "in both"
        )
    return names


def _classes(genders: Mapping[int, int]) -> dict[str, tuple[str, ...]]:
    return {
        "activity": tuple(ACTIVITIES.values()),
        "gender": GENDERS,
        "subject": tuple(str(code) for code in genders),
    }


def _trials_folder(folder: Path) -> Path:
    outer = folder / TRIALS_FOLDER
    inner = outer / TRIALS_FOLDER
    if not outer.is_dir():
        raise DataError(f"there is no folder {outer}; unpack {TRIALS_FOLDER}.zip from {PAGE} there")
    return inner if inner.is_dir() else outer


def _listed(folder: Path, genders: Mapping[int, int]) -> tuple[list[_Trial], tuple[str, ...]]:
    """Return the trials of the people, by activity, number and person, and what is not read."""
    activities, found = tuple(ACTIVITIES), []
    inside = entries(folder)
    for entry in (entry for entry in inside if entry.is_dir()):
        match = _TRIAL.fullmatch(entry.name)
        if match is None:
            raise DataError(
                f"{entry.path}: expected a name such as wlk_7 (activity, trial), the activity one "
                f"of {', '.join(activities)}; rename or remove it"
            )
        for path in sorted(Path(file.path) for file in entries(Path(entry.path))):
            subject = _subject(path, genders)
            found.append(_Trial(activities.index(match[1]), int(match[2]), subject, path))
    return sorted(found), unread(folder, [entry for entry in inside if not entry.is_dir()])


def _subject(path: Path, genders: Mapping[int, int]) -> int:
    match = _PERSON.fullmatch(path.name)
    if match is None:
        raise DataError(f"{path}: expected a name such as sub_3.csv; rename or remove it")
    if int(match[1]) not in genders:
        raise DataError(
            f"{path}: {PEOPLE_FILE} has no row for the person {match[1]}; add one, or remove the "
            "file"
        )
    return int(match[1])


def _read(folder: Path, genders: Mapping[int, int]) -> tuple[list[_Trial], Tensor, tuple[str, ...]]:
    """Return the trial that each window is from (N,), and the windows of all (N, C, 1, W).

    The third are sentences about what is not read, and about channels beyond their limits.
    """
    trials, unlisted = _listed(_trials_folder(folder), genders)
    size_bytes = sum(trial.path.stat().st_size for trial in trials if trial.path.is_file())
    if size_bytes > MEMORY_LIMIT_BYTES:  # windows take no more than their text
        raise DataError(
            f"{folder} has {size_bytes:,} bytes of trials, more than the {MEMORY_LIMIT_BYTES:,} "
            "that are read into memory; take some of them away"
        )
    beyond_C = torch.zeros(len(LIMITS), dtype=torch.int64)
    by_trial, moments, short = [], 0, []
    for trial in trials:
        values_TC = torch.from_numpy(read_columns(trial.path, tuple(LIMITS), page=PAGE))
        beyond_C += (values_TC.abs() > _limits(values_TC) * _SLACK).sum(dim=0)
        moments += len(values_TC)
        by_trial.append(_windows(values_TC))
        if not len(by_trial[-1]):
            short.append(f"{trial.path.parent.name}/{trial.path.name}")
    kept = [trial for trial, windows in zip(trials, by_trial, strict=True) for _ in windows]
    if not kept:
        raise DataError(
            f"{folder}: expected a trial of {WINDOW} or more rows, found none in {len(trials):,} "
            f"files; fetch them from {PAGE}"
        )
    notices = (
        *unlisted,
        *_too_short(short, folder),
        *_absent(kept, genders),
        *_beyond(beyond_C / moments),
    )
    return kept, torch.cat(by_trial), notices


def _too_short(short: Sequence[str], folder: Path) -> tuple[str, ...]:
    if not short:
        return ()
    return (
        f"{folder}: {len(short):,} trials are shorter than a window of {WINDOW} moments and not "
        f"read: {some(short)}",
    )


def _beyond(shares_C: Tensor) -> tuple[str, ...]:
    """Return a sentence about the channels of which many moments are cut to the limit."""
    often = {
        name: share for name, share in zip(LIMITS, shares_C.tolist(), strict=True) if share > _OFTEN
    }
    if not often:
        return ()
    listed = ", ".join(
        f"{name} ({share:.1%}, limit {LIMITS[name]:g})" for name, share in often.items()
    )
    return (
        f"moments beyond the limit of their channel are cut to it: {listed}; expected radians, "
        "rad/s and standard gravities (9.80665 m/s2)",
    )


def _absent(kept: Sequence[_Trial], genders: Mapping[int, int]) -> tuple[str, ...]:
    """Return a sentence about people in the table of whom there is no window."""
    present = {trial.subject for trial in kept}
    absent = [str(code) for code in genders if code not in present]
    if not absent:
        return ()
    return (
        f"{PEOPLE_FILE}: {len(absent):,} of {len(genders):,} people have no window: {some(absent)}",
    )


def _windows(values_TC: Tensor) -> Tensor:
    """Return the windows of a trial, uint8 (N, C, 1, W); none where it is too short."""
    bytes_TC = companded(values_TC)
    if len(bytes_TC) < WINDOW:
        return torch.empty(0, *SHAPE, dtype=torch.uint8)
    return bytes_TC.unfold(0, WINDOW, STEP).unsqueeze(2).contiguous()


def _labels(kept: Sequence[_Trial], attribute: str, genders: Mapping[int, int]) -> Tensor:
    """Return the class of each window, int64 (N,)."""
    place_of = {code: place for place, code in enumerate(genders)}
    found = {
        "activity": [trial.activity for trial in kept],
        "gender": [genders[trial.subject] for trial in kept],
        "subject": [place_of[trial.subject] for trial in kept],
    }
    return torch.tensor(found[attribute])


def _is_test(kept: Sequence[_Trial], split: str, genders: Mapping[int, int]) -> Tensor:
    """Return which windows are for the test, bool (N,)."""
    if split == "trials":
        return torch.tensor([trial.number > LAST_LONG_TRIAL for trial in kept])
    _, held_out = stratified_split(torch.tensor(list(genders.values())), every=4)
    codes = list(genders)
    tested = {codes[place] for place in held_out.tolist()}
    return torch.tensor([trial.subject in tested for trial in kept])


def _check_parts(labels_N: Tensor, is_test_N: Tensor, classes: Sequence[str], folder: Path) -> None:
    """Raise a ``DataError`` where a part lacks one of the classes."""
    for part, mask_N in (("train", ~is_test_N), ("test", is_test_N)):
        counts = torch.bincount(labels_N[mask_N], minlength=len(classes)).tolist()
        lacking = [name for name, count in zip(classes, counts, strict=True) if not count]
        if lacking:
            raise DataError(
                f"{folder}: expected windows of every class in the part to {part}, found none of "
                f"{', '.join(lacking)}; add trials, or fetch the set again from {PAGE}"
            )
