"""Examples by index, and what is known about the data set they belong to.

Dimension key:  B batch   N examples   C channels   H, W height and width
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from eaves.core.roles import Batch, PrivateLabels
from eaves.data.private import take
from eaves.errors import ConfigError, DataError

ROOT_VARIABLE = "EAVES_DATA"
MAX_IMAGE_SIZE = 1024
_SPLIT_SEED = 1797  # which examples are held out, and which make a subset: the same in every run
_STATS_SAMPLE = 1000
_NAMED = 100  # in a sentence


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """What a source is made of: labels (N,), and the files of the inputs or the inputs themselves.

    Nothing is decoded for it.
    """

    labels: Tensor
    private: PrivateLabels | None = None
    paths: Sequence[Path] = ()
    inputs: Tensor | None = None


class Source(ABC):
    """A fixed list of labelled images, read by index."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one input: (C, H, W)."""

    @abstractmethod
    def fetch(self, indices: Tensor) -> Batch:
        """Return the examples at ``indices`` (B,): inputs uint8 (B, C, H, W), labels int64 (B,).

        Where the source has private labels, theirs are in the batch. The batch is the caller's
        own: writing to it does not change the source.
        """

    def contents(self) -> Contents:
        """Return what the source is made of, by which it is known again."""
        whole = self.fetch(torch.arange(len(self)))
        return Contents(labels=whole.labels, private=whole.private, inputs=whole.inputs)


@final
class InMemory(Source):
    """Images and labels held in memory, with private labels or not.

    >>> source = InMemory(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
    >>> source.fetch(torch.tensor([3, 1])).labels.tolist()
    [3, 1]
    """

    def __init__(self, inputs_NCHW: Tensor, labels_N: Tensor, private: PrivateLabels | None = None):
        if inputs_NCHW.dtype != torch.uint8 or inputs_NCHW.dim() != 4 or not len(inputs_NCHW):
            raise ValueError(
                "expected uint8 images of shape (N, C, H, W) with N > 0, "
                f"got {inputs_NCHW.dtype} {tuple(inputs_NCHW.shape)}"
            )
        if labels_N.dtype != torch.int64 or labels_N.shape != inputs_NCHW.shape[:1]:
            raise ValueError(
                f"expected int64 labels of shape ({len(inputs_NCHW)},), "
                f"got {labels_N.dtype} {tuple(labels_N.shape)}"
            )
        if private is not None and len(private) != len(labels_N):
            raise ValueError(f"expected {len(labels_N)} private labels, got {len(private)}")
        self._inputs_NCHW = inputs_NCHW
        self._labels_N = labels_N
        self._private = private

    def __len__(self) -> int:
        return len(self._labels_N)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one input: (C, H, W)."""
        channels, height, width = self._inputs_NCHW.shape[1:]
        return channels, height, width

    def fetch(self, indices: Tensor) -> Batch:
        """Return the examples at ``indices``; see :meth:`Source.fetch`."""
        private = take(self._private, indices)
        return Batch(self._inputs_NCHW[indices], self._labels_N[indices], private)

    def contents(self) -> Contents:
        """Return the tensors themselves, which must not be written to."""
        return Contents(labels=self._labels_N, private=self._private, inputs=self._inputs_NCHW)


@final
@dataclass(frozen=True, kw_only=True)
class Interface:
    """What a net is made for: inputs of one shape, classes by name.

    ``mean`` and ``std`` are those of raw inputs, one per channel; None where the data is elsewhere.
    """

    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set, ready to train on.

    ``mean`` and ``std`` are those of the training inputs, one per channel, on the raw scale 0..255.
    ``augment`` is the augmentation that suits the set: a key of ``eaves.data.augment.AUGMENTS``.
    ``private_classes`` are the private attributes by name, each with the names of its classes; all
    parts have labels of these, in this order. They are no part of the interface, which the cloud
    knows as well. ``notices`` say what was left out of what was found, and which classes lack
    examples: sentences for people, each with a number and a name.
    """

    name: str
    train: Source
    test: Source
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    valid: Source | None = None
    private_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Not printed or logged by loaders: so the terminal, the record and the API say the same.
    notices: tuple[str, ...] = ()

    @property
    def private(self) -> tuple[str, ...]:
        """The names of the private attributes."""
        return tuple(self.private_classes)

    @property
    def interface(self) -> Interface:
        """What a net for this data set is made for."""
        return Interface(
            input_shape=self.train.input_shape, classes=self.classes, mean=self.mean, std=self.std
        )


@final
@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked of a data set.

    ``option`` is what follows the colon in its name, ``private`` the attributes to be hidden.
    """

    root: Path | None = None
    option: str = ""
    train_samples: int | None = None
    image_size: int | None = None
    download: bool = False
    private: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.private, str):  # its letters would be taken for names
            raise ConfigError(
                f"expected the names of private attributes, got {self.private!r}; "
                f"write ({self.private!r},)"
            )
        if self.train_samples is not None and self.train_samples < 1:
            raise ConfigError(f"expected 1 or more train_samples, got {self.train_samples}")
        if self.image_size is not None and not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ConfigError(
                f"expected an image_size from 1 to {MAX_IMAGE_SIZE} pixels, got {self.image_size}"
            )


def data_root(root: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the data sets: ``root``, else what ``EAVES_DATA`` names.

    Raises:
        DataError: neither is given, or the folder does not exist.
    """
    given = str(root or (os.environ if environ is None else environ).get(ROOT_VARIABLE, ""))
    if not given:
        raise DataError(
            "no data root is given: pass --data-root (root=... in Python) or set the environment "
            f"variable {ROOT_VARIABLE} to the folder that holds the data sets"
        )
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"the data root {folder} is not a folder that exists; create it, pass another root, "
            f"or set the environment variable {ROOT_VARIABLE}"
        )
    return folder


def refuse_resizing(name: str, native: int, image_size: int | None) -> None:
    """Raise a ``ConfigError`` where another size than the ``native`` one is asked for."""
    if image_size not in (None, native):
        raise ConfigError(
            f"the images of {name} are {native} x {native}, got image_size={image_size}; "
            "leave it out"
        )


def subset(n: int, samples: int | None) -> Tensor:
    """Return the indices of the ``samples`` training examples to use, out of ``n``; None: all.

    They are the first of one fixed permutation, in its order, so that every run uses the same, a
    smaller subset lies within a larger one, and the classes keep about their shares.

    Raises:
        ConfigError: more are asked for than there are.

    >>> bool((subset(100, 30)[:10] == subset(100, 10)).all())
    True
    """
    if samples is None:
        return torch.arange(n)
    if samples > n:
        raise ConfigError(f"expected at most {n} train_samples, the whole set, got {samples}")
    return torch.randperm(n, generator=torch.Generator().manual_seed(_SPLIT_SEED))[:samples]


def stratified_split(labels_N: Tensor, *, every: int = 5) -> tuple[Tensor, Tensor]:
    """Return the indices of a fixed split: to train on, and one in ``every`` of a class to test on.

    By default these are about 80% and 20%. A class of two or more examples has at least one on each
    side; of a class with a single example that is to train on.

    >>> train, test = stratified_split(torch.tensor([0, 1] * 10))
    >>> len(train), len(test)
    (16, 4)
    """
    n = len(labels_N)
    shuffled_N = torch.randperm(n, generator=torch.Generator().manual_seed(_SPLIT_SEED))
    by_class_N = shuffled_N[labels_N[shuffled_N].argsort(stable=True)]
    held_out_N = torch.arange(n) % every == 1
    sizes_K = torch.bincount(labels_N)
    firsts_K, held_out_K = sizes_K.cumsum(0) - sizes_K, torch.zeros_like(sizes_K)
    held_out_K.index_add_(0, labels_N[by_class_N], held_out_N.long())
    held_out_N[firsts_K[(sizes_K > 1) & (held_out_K == 0)]] = True
    held_out_N[firsts_K[sizes_K == 1]] = False
    return by_class_N[~held_out_N].sort().values, by_class_N[held_out_N].sort().values


def lacking(
    what: str, names: Sequence[str], parts: Mapping[str, Tensor], *, subset: bool = False
) -> tuple[str, ...]:
    """Return a sentence for each part whose labels (N,) lack some of the classes ``names``.

    With ``subset`` the training part was chosen with ``train_samples``.

    >>> lacking("class", ["ant", "bee"], {"train": torch.tensor([0, 1]), "test": torch.tensor([0])})
    ("1 of 2 classes has no test example: 'bee'; its accuracy is not measured",)
    """
    plural = "classes" if what == "class" else f"values of {what}"
    found = []
    for part, labels_N in parts.items():
        counts = torch.bincount(labels_N, minlength=len(names)).tolist()
        none = [name for name, count in zip(names, counts, strict=True) if not count]
        if none:
            verb, whose = ("has", "its") if len(none) == 1 else ("have", "their")
            why = " among the train_samples" if subset and part == "train" else ""
            then = {
                "train": f"{'it is' if len(none) == 1 else 'they are'} not learnt",
                "test": f"{whose} accuracy is not measured",
            }.get(part, "they are not validated")
            found.append(
                f"{len(none):,} of {len(names):,} {plural} {verb} no {part} example{why}: "
                f"{some(none)}; {then}"
            )
    return tuple(found)


def some(names: Sequence[str]) -> str:
    """Return names in quotes, with commas between; of very many the first.

    Control characters are escaped: names come from disks.
    """
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def channel_stats(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel, on the raw scale 0..255.

    They are taken over at most 1,000 examples, the same ones in every run. A channel that never
    changes gets a deviation of 1, so that it can be divided by.
    """
    chosen = subset(len(source), min(len(source), _STATS_SAMPLE)).sort().values
    inputs_BCHW = source.fetch(chosen).inputs
    # One channel at a time: the images as float64 would take eight times their memory.
    pixels = [inputs_BCHW[:, c].double() for c in range(inputs_BCHW.shape[1])]
    deviations = [float(channel.std(correction=0)) or 1.0 for channel in pixels]
    return tuple(float(channel.mean()) for channel in pixels), tuple(deviations)
