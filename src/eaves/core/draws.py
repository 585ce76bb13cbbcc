"""Random numbers of layers such as dropout, kept apart for each part of a net.

Such layers draw from torch's one global generator. With edge and cloud at work at the same time,
what each draws would depend on who comes first: no run could be repeated, and an edge would not end
with the same weights with the cloud on or off. So each part has a generator state of its own, which
stands in for the global one while the part goes forward.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

_GLOBAL = threading.RLock()  # held by whoever has put its own state into the global generator


@final
class Draws:
    """The generator state of one part; seeded from torch's global generator when it is made."""

    def __init__(self, device: torch.device):
        self._device = device
        seed = int(torch.randint(2**31, ()))
        self.state: Tensor = torch.Generator(device).manual_seed(seed).get_state()
        self._in_use: bool | None = None

    @contextmanager
    def own(self) -> Iterator[None]:
        """Let the code inside draw from this state.

        The first time shows whether it draws at all. If not, the parts need not take turns, and
        from then on this does nothing.
        """
        if self._in_use is False:
            yield
            return
        with _GLOBAL:
            others, whole = self._swap(self.state), False
            try:
                yield
                whole = True
            finally:
                after = self._swap(others)
                if whole:  # what was interrupted may not have come to where it draws
                    self._in_use = not torch.equal(after, self.state)
                self.state = after

    def _swap(self, state: Tensor) -> Tensor:
        if self._device.type == "cuda":
            before = torch.cuda.get_rng_state(self._device)
            torch.cuda.set_rng_state(state, self._device)
        else:
            before = torch.get_rng_state()
            torch.set_rng_state(state)
        return before
