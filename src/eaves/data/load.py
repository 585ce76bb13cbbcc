"""The data sets that a user may name, and how to load one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from eaves.data import attributes, celeba, cifar, digits, folders, gait, motion, speech
from eaves.data.source import Dataset, Interface, Request, data_root
from eaves.errors import ConfigError, DataError, unknown


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known about a data set before it is loaded."""

    load: Callable[[Request], Dataset]
    interface: Callable[[Request], Interface] | None
    """What a net for it is made for, as far as that is known without it; None: not at all."""
    missing: Callable[[Path], list[str]] | None
    """What a data root lacks of the set, in words; None where the set needs no root."""
    description: str
    terms: str
    source: str
    train_examples: int | None = None
    """How many every copy of the set has to train on; None: copies differ."""
    option: str = ""
    """What may follow a colon in the name; empty where nothing may."""
    private: str = ""
    """Which attributes may be private; empty where the set has none."""
    can_download: bool = False
    make_up: Callable[[Path], None] | None = None
    """Write a synthetic set of this layout into a data root; None where there is no such."""


DATASETS: dict[str, Entry] = {
    "digits": Entry(
        load=digits.load_digits,
        interface=digits.interface,
        missing=None,
        description="1,797 handwritten digits, 8 x 8, grey, 10 classes; comes with scikit-learn",
        terms="CC BY 4.0",
        train_examples=1437,
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998)",
        option=f"TASK ({' or '.join(digits.ATTRIBUTES)})",
        private=f"{' or '.join(digits.ATTRIBUTES)}, where the other is the task",
    ),
    "cifar10": Entry(
        load=cifar.load_cifar10,
        interface=lambda request: cifar.INTERFACE,
        missing=cifar.missing,
        description="60,000 small photographs, 32 x 32, colour, 10 classes (binary version)",
        terms="no licence is stated; its authors ask to be cited",
        train_examples=50_000,
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009)",
        can_download=True,
    ),
    "images": Entry(
        load=folders.load_images,
        interface=None,
        missing=folders.missing,
        description="your own images: a folder for each class, in train/ and test/ or not",
        terms="yours",
        source="your own",
        option="FOLDER under the data root",
        private=f"columns of {attributes.FILE} in the folder",
    ),
    "faces": Entry(
        load=celeba.load_faces,
        interface=celeba.interface,
        missing=celeba.missing,
        description="celebrity faces with 40 attributes (layout of CelebA)",
        terms="non-commercial research only; not to be passed on",
        source=f"Liu et al., Deep Learning Face Attributes in the Wild (2015); {celeba.PAGE}",
        option="ATTRIBUTE",
        private="any attributes but the task's",
    ),
    "spoken-digits": Entry(
        load=speech.load_spoken_digits,
        interface=speech.digits_interface,
        missing=speech.digits_missing,
        description="3,000 spoken digits by 6 speakers (Free Spoken Digit Dataset), as log-mel "
        "images of 40 x 100, grey, 10 classes",
        terms="CC BY-SA 4.0",
        source=f"Jackson et al., Free Spoken Digit Dataset; {speech.DIGITS_PAGE}",
        option=f"TASK ({' or '.join(speech.ATTRIBUTES)})",
        private=f"{' or '.join(speech.ATTRIBUTES)}, where the other is the task",
    ),
    "spoken-words": Entry(
        load=speech.load_spoken_words,
        interface=None,
        missing=speech.words_missing,
        description="spoken words, a folder for each (Speech Commands: 105,829 of 35 words), as "
        "log-mel images of 40 x 100, grey",
        terms="CC BY 4.0 (Speech Commands)",
        source=f"Warden, Speech Commands (2018); {speech.WORDS_PAGE}",
        option="FOLDER under the data root",
        private=f"columns of {attributes.FILE} in the folder",
    ),
    "motion": Entry(
        load=motion.load_motion,
        interface=motion.interface,
        missing=motion.missing,
        description="phones in the pockets of 24 people in 6 activities (layout of MotionSense), "
        "as windows of 12 channels x 128 moments",
        terms="MIT licence",
        source=f"Malekzadeh et al., Mobile Sensor Data Anonymization (2019); {motion.PAGE}",
        option=f"TASK ({' or '.join(motion.TASKS)}), then perhaps ,trials",
        private=f"{', '.join(motion.ATTRIBUTES)}, where not the task; subject only with ,trials",
        make_up=gait.make_up,
    ),
}


@final
class DatasetRow(NamedTuple):
    """One line of :func:`dataset_table`."""

    name: str
    state: str
    """``found``, or what is missing."""
    description: str
    """What it is, and what in it may be private."""
    terms: str


def load_dataset(
    name: str,
    *,
    root: Path | None,
    train_samples: int | None = None,
    image_size: int | None = None,
    download: bool = False,
    private: tuple[str, ...] = (),
) -> Dataset:
    """Load a data set: a key of :data:`DATASETS`, some with an option (``faces:Smiling``).

    ``root`` is the folder of the data sets, else the environment variable ``EAVES_DATA`` names it.
    ``train_samples`` takes that many training examples, a fixed random choice. ``image_size`` is
    the side that images from files get (64). ``download`` fetches what is missing, where it can.
    ``private`` names attributes whose labels come with every batch, for the edge alone; examples
    and task labels are those of the same request without.

    Raises:
        ConfigError: an unknown name or option, a private attribute that the set has not or that
            the task's labels tell, or a request that does not fit the set.
        DataError: data that is missing, damaged, or not in its layout.
        StorageError: the disk is full.

    >>> digits = load_dataset("digits", root=None, train_samples=100)
    >>> len(digits.train), len(digits.test), digits.train.input_shape
    (100, 360, (1, 8, 8))
    >>> load_dataset("digits:parity", root=None, private=("high",)).private
    ('high',)
    """
    base, entry, option = _entry(name)
    request = Request(
        root=root,
        option=option,
        train_samples=train_samples,
        image_size=image_size,
        download=download,
        private=private,
    )
    if private and not entry.private:
        having = [other for other, known in DATASETS.items() if known.private]
        raise ConfigError(
            f"{base} has no attributes that could be private; these have: {', '.join(having)}"
        )
    if download and entry.missing is not None and not entry.can_download:
        raise ConfigError(
            f"{base} cannot be downloaded from here (source: {entry.source}); "
            "place it under the data root and leave download out"
        )
    return entry.load(request)


def make_synthetic(name: str, *, root: Path | None) -> None:
    """Write a synthetic set in the layout of ``name`` under a data root, where nothing is yet.

    It is the same on every machine. Loaded, it says of itself that it is synthetic.

    Raises:
        ConfigError: an unknown name, a set that is not generated here, or something is there.
        DataError: there is no such root.
        StorageError: the disk is full.
    """
    base, entry, _ = _entry(name)
    if entry.make_up is None:
        making = [other for other, known in DATASETS.items() if known.make_up]
        raise ConfigError(f"{base} is not generated here; these are: {', '.join(making)}")
    entry.make_up(data_root(root))


def interface_of(name: str, *, image_size: int | None = None) -> Interface:
    """Return what a net for a data set is made for, without looking at the data.

    Raises:
        ConfigError: an unknown name, or a data set that has to be looked at.

    >>> interface_of("digits").input_shape
    (1, 8, 8)
    """
    base, entry, option = _entry(name)
    if entry.interface is None:
        raise ConfigError(
            f"what {base} are of is known where they are: make a bundle there with `eaves bundle`, "
            "and start from it here"
        )
    return entry.interface(Request(option=option, image_size=image_size))


def known_examples(name: str, *, root: Path | None) -> int | None:
    """Return how many training examples a data set has; None where that is not known here.

    It is known of sets that are the same everywhere, and of those that are on this machine.

    >>> known_examples("cifar10", root=None)
    50000
    """
    _, entry, _ = _entry(name)
    if entry.train_examples is not None:
        return entry.train_examples
    try:
        return len(load_dataset(name, root=root).train)
    except (ConfigError, DataError):
        return None


def dataset_table(root: Path | None) -> list[DatasetRow]:
    """Return a row for each data set, saying whether it is found under ``root``, else EAVES_DATA.

    >>> dataset_table(None)[0].state
    'found'
    """
    return [
        DatasetRow(name, _state(entry, root), _described(entry), entry.terms)
        for name, entry in DATASETS.items()
    ]


def _entry(name: str) -> tuple[str, Entry, str]:
    """Return the name of a data set, what is known about it, and what follows the colon."""
    base, colon, option = name.partition(":")
    if base not in DATASETS:
        raise unknown("data set", base, DATASETS)
    entry = DATASETS[base]
    if colon and not (entry.option and option):
        expected = f"'{base}:{entry.option}' or " if entry.option else ""
        raise ConfigError(f"expected {expected}'{base}', got {name!r}")
    return base, entry, option


def _described(entry: Entry) -> str:
    return entry.description + (f"; private: {entry.private}" if entry.private else "")


def _state(entry: Entry, root: Path | None) -> str:
    if entry.missing is None:
        return "found"
    try:
        lacking = entry.missing(data_root(root))
    except DataError as error:
        return str(error)
    return f"missing: {', '.join(lacking)}" if lacking else "found"
