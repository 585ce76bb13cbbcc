"""Training and evaluation mode of a net, module by module."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Give every module its mode back in the end: parts of a net may be frozen on purpose.

    >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with modes_kept(net):
    ...     _ = net.eval()
    >>> [module.training for module in net]
    [True, False]
    """
    modes = {module: module.training for module in net.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
