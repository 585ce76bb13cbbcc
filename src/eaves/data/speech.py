"""Spoken digits and words as log-mel images, in the layouts of their publishers.

Sources: Jackson et al., *Free Spoken Digit Dataset* (https://github.com/Jakobovski/
free-spoken-digit-dataset), and Warden, *Speech Commands* (2018, arXiv:1804.03209).

Dimension key:  B batch   N recordings   A private attributes
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from eaves.core.roles import PrivateLabels
from eaves.data import attributes
from eaves.data.files import Decoder, Listing, dataset_of_files
from eaves.data.folders import Found, entries, find_classes, folder_below, unread
from eaves.data.logmel import SHAPE, log_mel
from eaves.data.private import choose_private, named, refuse_known
from eaves.data.source import (
    Dataset,
    InMemory,
    Interface,
    Request,
    channel_stats,
    data_root,
    lacking,
    some,
    subset,
)
from eaves.data.waves import Wave, fitted, read_wave, resampled
from eaves.errors import ConfigError, DataError

DIGITS_FOLDER = "free-spoken-digit-dataset/recordings"
DIGITS_PAGE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
WORDS_FOLDER = "speech_commands"
WORDS_PAGE = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
ATTRIBUTES = ("digit", "speaker")
VALID_LIST, TEST_LIST = "validation_list.txt", "testing_list.txt"

_DIGITS = tuple("0123456789")
_DIGITS_HZ, _WORDS_HZ = 8_000, 16_000
_FIRST_TO_TRAIN = 5  # recordings 0 to 4 of every digit and speaker are the official test set
_HELD_OUT_PERCENT = 20
_SUFFIX = ".wav"
_DIGIT_FILE = re.compile(r"([0-9])_([^_]+)_([0-9]{1,9})\.wav", re.IGNORECASE)
_WORD_FILE = re.compile(r"(.+)_nohash_[0-9]+\.wav", re.IGNORECASE)
_AT_ONCE = 128  # recordings in memory as sound


@final
class Recordings(Decoder):
    """WAV files as log-mel images of the second in their middle, brought to ``rate_hz``.

    A shorter one has silence on both sides. See :func:`eaves.data.logmel.log_mel`.
    """

    def __init__(self, rate_hz: int):
        self._rate_hz = rate_hz
        self._read = self._longer = 0
        self._longest = (1.0, Path())

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one image: (1, 40, 100)."""
        return SHAPE

    def decode(self, paths: Sequence[Path]) -> Tensor:
        """Return the images; see :meth:`Decoder.decode`."""
        starts = range(0, len(paths), _AT_ONCE)
        return torch.cat([self._images(paths[i : i + _AT_ONCE]) for i in starts])

    def notices(self) -> tuple[str, ...]:
        """Return a sentence about the recordings that are longer than the second used of them."""
        if not self._longer:
            return ()
        longest_s, path = self._longest
        return (
            f"{self._longer:,} of the {self._read:,} recordings read so far are longer than 1 s, "
            f"and only the second in their middle is used: the longest is {path} with "
            f"{longest_s:.1f} s; cut them where more matters",
        )

    def _images(self, paths: Sequence[Path]) -> Tensor:
        rate_hz = self._rate_hz
        seconds = [fitted(resampled(*self._wave(path), rate_hz), rate_hz) for path in paths]
        return log_mel(torch.from_numpy(np.stack(seconds)), rate_hz=rate_hz)

    def _wave(self, path: Path) -> Wave:
        wave = read_wave(path)
        length_s = len(wave.samples) / wave.rate_hz
        self._read += 1
        self._longer += length_s > 1
        self._longest = max(self._longest, (length_s, path))
        return wave


@final
class _Spoken(NamedTuple):
    """What the name of a recording of a digit says."""

    digit: str
    speaker: str
    number: int
    path: Path


def load_spoken_digits(request: Request) -> Dataset:
    """Return spoken digits with their speakers, all in memory.

    The option of the request names what is learnt: the ``digit``, which is the default, or the
    ``speaker``; the other may be private. Recordings 0 to 4 of each digit by each speaker are for
    the test, all others to train on, as the set's authors have it. Speakers are in the order of
    their names. The same request with another attribute gives the same recordings in the same
    order.

    Raises:
        ConfigError: the request does not fit the set.
        DataError: the folder, or recordings of a class, are missing; a name is not in the layout;
            a recording cannot be read.
    """
    _refuse_resizing("spoken-digits", request)
    task = _task(request)
    names = choose_private(request.private, ATTRIBUTES, task=task)
    folder = data_root(request.root) / DIGITS_FOLDER
    spoken, notices = _listed_digits(folder)
    classes = {"digit": _DIGITS, "speaker": tuple(sorted({s.speaker for s in spoken}))}
    listing = Listing([s.path for s in spoken], _numbers(spoken, task, classes))
    if names:
        labels_NA = torch.stack([_numbers(spoken, name, classes) for name in names], dim=1)
        listing = listing._replace(private=PrivateLabels(labels_NA, names))
    is_test_N = torch.tensor([s.number < _FIRST_TO_TRAIN for s in spoken])
    parts = _divided(listing, {"train": ~is_test_N, "test": is_test_N}, classes[task], folder)
    parts["train"] = parts["train"].take(subset(len(parts["train"].paths), request.train_samples))
    refuse_known(parts["train"].private, parts["train"].labels)
    decoder = Recordings(_DIGITS_HZ)
    sources = {
        part: InMemory(decoder.decode(found.paths), found.labels, found.private)
        for part, found in parts.items()
    }
    mean, std = channel_stats(sources["train"])
    return Dataset(
        name="spoken-digits" if task == "digit" else f"spoken-digits:{task}",
        train=sources["train"],
        test=sources["test"],
        classes=classes[task],
        mean=mean,
        std=std,
        augment="shift",
        private_classes={name: classes[name] for name in names},
        notices=(
            *notices,
            *lacking("class", classes[task], {"train": parts["train"].labels}, subset=True),
            *decoder.notices(),
        ),
    )


def load_spoken_words(request: Request) -> Dataset:
    """Return words that many people said, each class a folder of the name of its word.

    The option of the request names a folder under the data root (``speech_commands``), in which
    ``WORD/SPEAKER_nohash_NUMBER.wav`` lie; folders that begin with ``_``, such as that of the
    background noise, are no words. What ``validation_list.txt`` and ``testing_list.txt`` name is
    for that; where there are neither, the recordings of a fixed fifth of the speakers are for the
    test (:func:`held_out`). The columns of an ``attributes.csv`` may be private (see
    ``eaves.data.attributes``). Recordings are read when they are asked for.

    Raises:
        ConfigError: there are fewer than two words, or the request does not fit the set.
        DataError: the folder, a list, or recordings of a word are missing, or a name is not in
            the layout; also by ``fetch``: a recording cannot be read.
    """
    _refuse_resizing("spoken-words", request)
    root = data_root(request.root)
    folder = folder_below(root, request.option or WORDS_FOLDER, name="spoken-words")
    listings, classes, notices = _listed_words(folder)
    private_classes: dict[str, tuple[str, ...]] = {}
    if request.private:
        listings, private_classes, unused = attributes.with_private(
            listings, folder, request.private
        )
        notices += unused
    words = dataset_of_files(
        f"spoken-words:{request.option}" if request.option else "spoken-words",
        classes,
        listings,
        request,
        private_classes=private_classes,
        decoder=Recordings(_WORDS_HZ),
        notices=notices,
    )
    return replace(words, augment="shift")


def digits_interface(request: Request) -> Interface:
    """Return what a net for the spoken digits is made for, without looking at any.

    Raises:
        ConfigError: the speakers are to be learnt, who are known only where the recordings are.
    """
    if _task(request) == "speaker":
        raise ConfigError(
            "who speaks is known where the recordings are: make a bundle there with `eaves "
            "bundle`, and start from it here"
        )
    return Interface(input_shape=SHAPE, classes=_DIGITS)


def digits_missing(root: Path) -> list[str]:
    """Return what of the spoken digits is not in ``root``, in words; empty where they are."""
    return [] if (root / DIGITS_FOLDER).is_dir() else [DIGITS_FOLDER]


def words_missing(root: Path) -> list[str]:
    """Return what of the spoken words is not in ``root``, in words; empty where they are."""
    return [] if (root / WORDS_FOLDER).is_dir() else [f"{WORDS_FOLDER} (or name another folder)"]


def held_out(speaker: str) -> bool:
    """Return whether a speaker is of the fifth that is held out for the test.

    As the README of Speech Commands has it: by a hash of what stands before ``_nohash_``, so that
    it stays as it is when recordings are added. There a tenth is for validation and the next for
    the test; here both are for the test.

    >>> held_out("439c84f4")  # in the set's own validation_list.txt
    True
    """
    hashed = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16)
    most = 2**27 - 1
    return hashed % (most + 1) * (100 / most) < _HELD_OUT_PERCENT


def _task(request: Request) -> str:
    return named("task of the spoken digits", request.option or "digit", ATTRIBUTES)


def _refuse_resizing(name: str, request: Request) -> None:
    if request.image_size is not None:
        _, bands, frames = SHAPE
        raise ConfigError(
            f"the recordings of {name} become images of {bands} x {frames}, "
            f"got image_size={request.image_size}; leave it out"
        )


def _listed_digits(folder: Path) -> tuple[list[_Spoken], tuple[str, ...]]:
    """Return the recordings in ``folder``, by digit, speaker and number, and what is not read."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; fetch the recordings from {DIGITS_PAGE}")
    found, rest = [], []
    for entry in entries(folder):
        path = Path(entry.path)
        if path.suffix.lower() != _SUFFIX or entry.is_dir():
            rest.append(entry)
            continue
        match = _DIGIT_FILE.fullmatch(path.name)
        if match is None:
            raise DataError(
                f"{path}: expected a name such as 7_jackson_32.wav (digit, speaker, number); "
                "rename or remove it"
            )
        found.append(_Spoken(match[1], match[2], int(match[3]), path))
    return sorted(found), unread(folder, rest)


def _numbers(
    spoken: Sequence[_Spoken], attribute: str, classes: Mapping[str, tuple[str, ...]]
) -> Tensor:
    """Return the class of each recording, int64 (N,)."""
    number_of = {name: number for number, name in enumerate(classes[attribute])}
    return torch.tensor([number_of[getattr(s, attribute)] for s in spoken], dtype=torch.int64)


def _divided(
    listing: Listing, masks: Mapping[str, Tensor], classes: Sequence[str], folder: Path
) -> dict[str, Listing]:
    """Return the parts with their masks (N,); every class must be in those to train and to test."""
    for part in ("train", "test"):
        counts = torch.bincount(listing.labels[masks[part]], minlength=len(classes))
        lacking = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
        if lacking:
            raise DataError(
                f"{folder}: expected recordings of every class in the part to {part}, found none "
                f"of {', '.join(lacking)}; add some, or fetch the set again"
            )
    return {part: listing.take(mask_N.nonzero()[:, 0]) for part, mask_N in masks.items()}


def _listed_words(folder: Path) -> tuple[dict[str, Listing], tuple[str, ...], tuple[str, ...]]:
    """Return the recordings of each part, the words, and sentences about what is not read."""
    files, notices = _word_files(folder)
    paths = [path for word in files for path in files[word]]
    speakers = [_speaker(path) for path in paths]
    labels = [number for number, word in enumerate(files) for _ in files[word]]
    valid, test = _lists(folder)
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    is_valid_N = torch.tensor([name in valid for name in names])
    is_test_N = torch.tensor([name in test for name in names])
    if not (valid or test):
        is_test_N = torch.tensor([held_out(speaker) for speaker in speakers])
    masks = {"train": ~(is_valid_N | is_test_N), "test": is_test_N}
    if is_valid_N.any():
        masks["valid"] = is_valid_N
    absent = sorted((valid | test) - set(names))
    if absent:
        notices += (
            f"{folder}: {len(absent):,} of the {len(valid | test):,} recordings in {VALID_LIST} "
            f"and {TEST_LIST} are not there: {some(absent)}",
        )
    classes = tuple(files)
    listings = _divided(Listing(paths, torch.tensor(labels)), masks, classes, folder)
    return listings, classes, notices


def _word_files(folder: Path) -> Found:
    found = find_classes(folder, (_SUFFIX,), is_class=lambda name: not name.startswith("_"))
    if len(found.files) < 2:
        raise ConfigError(
            f"expected two or more folders of recordings ({_SUFFIX}) in {folder}, one for each "
            f"word, found {', '.join(found.files) or 'none'}"
        )
    return found


def _speaker(path: Path) -> str:
    match = _WORD_FILE.fullmatch(path.name)
    if match is None:
        raise DataError(
            f"{path}: expected a name such as 439c84f4_nohash_0.wav (speaker, number); rename or "
            "remove it"
        )
    return match[1]


def _lists(folder: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return what the lists name for validation and for the test; nothing where there are none."""
    there = [(folder / name).is_file() for name in (VALID_LIST, TEST_LIST)]
    if not any(there):
        return frozenset(), frozenset()
    if not all(there):
        lacking = TEST_LIST if there[0] else VALID_LIST
        raise DataError(f"{folder} lacks {lacking}; fetch both lists from {WORDS_PAGE}, or neither")
    valid, test = (_lines(folder / name) for name in (VALID_LIST, TEST_LIST))
    if valid & test:
        raise DataError(
            f"{folder}: expected no recording in both {VALID_LIST} and {TEST_LIST}, found "
            f"{min(valid & test)}; fetch both again from {WORDS_PAGE}"
        )
    return valid, test


def _lines(file: Path) -> frozenset[str]:
    try:
        return frozenset(file.read_text(encoding="utf-8").split("\n")) - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file} ({error}); fetch it from {WORDS_PAGE}") from error
