"""Inputs from a ``.npy`` file, mapped: no more of it is in memory than is being answered."""

from pathlib import Path

import numpy as np

from eaves.errors import ConfigError, DataError
from eaves.light.model import Inputs

_MAGIC = b"\x93NUMPY"


def read_inputs(path: Path, input_shape: tuple[int, ...]) -> Inputs:
    """Return uint8 inputs (N, *input_shape) as a read-only map of the file.

    The header is checked against the file's size before anything is mapped, and objects (pickles)
    are never read.

    Raises:
        ConfigError: there is no such file, or it holds something else than this net takes.
        DataError: it is no whole ``.npy`` file.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigError(f"cannot read the inputs {path}: {error.strerror}") from error
    if magic != _MAGIC:
        raise DataError(f"{path} is no .npy file, as numpy.save writes it")
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError, OverflowError) as error:  # objects: a ValueError
        raise DataError(f"{path} is damaged, or holds objects: {error}") from error
    if found.dtype != np.uint8 or found.shape[1:] != input_shape:
        raise ConfigError(
            f"expected uint8 inputs of shape (N, {', '.join(map(str, input_shape))}) in {path}, "
            f"got {found.dtype} {found.shape}"
        )
    return found
