"""The two sides of nvflare_run.py. NVIDIA FLARE imports this module in each side's process.

The server is the cloud and has the training loop; the only client is the edge and has the images.
One call a batch: it brings the last gradient down, if any, and the next features and labels up.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import nvflare
import torch
from benchmarks.peers.workload import Images, Meter, cloud_part, edge_part, exit_head, sgd
from nvflare.collab import collab
from torch import Tensor
from torch.nn.functional import cross_entropy

CALL_TIMEOUT_S = 60.0


@final
class Edge:
    """The edge's part and what it remembers from one call to the next."""

    def __init__(self) -> None:
        self._part, self._head, self._images = edge_part(), exit_head(), Images()
        self._optimiser = sgd(self._part, self._head)
        self._features: Tensor | None = None
        self._step = 0

    def learn(self, gradient_BCHW: Tensor) -> None:
        """Apply the gradient of the features that were sent last."""
        if self._features is None:
            raise RuntimeError("a gradient came before any features were sent")
        self._optimiser.zero_grad()
        self._features.backward(gradient_BCHW)  # type: ignore[no-untyped-call]
        self._optimiser.step()

    def next(self, *, by_exit: bool) -> tuple[Tensor, Tensor]:
        """Return the features and labels of the next batch; train by the exit if so told."""
        x_BCHW, labels_B = self._images.batch(self._step)
        self._step += 1
        self._features = self._part(x_BCHW)
        if by_exit:
            self._optimiser.zero_grad()
            loss = cross_entropy(self._head(self._features), labels_B)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
        return self._features.detach(), labels_B


edges: list[Edge] = []  # one, made at the first call, in the process of the client


@collab.publish  # type: ignore[untyped-decorator]
def exchange(gradient_BCHW: Tensor | None, by_exit: bool) -> tuple[Tensor, Tensor]:
    """Run on the client: learn from the gradient, if there is one, and give the next batch."""
    if not edges:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        edges.append(Edge())
    if gradient_BCHW is not None:
        edges[0].learn(gradient_BCHW)
    return edges[0].next(by_exit=by_exit)


@final
class Cloud:
    """The cloud's part."""

    def __init__(self) -> None:
        self._part = cloud_part()
        self._optimiser = sgd(self._part)

    def step(self, z_BCHW: Tensor, labels_B: Tensor, *, returned: bool) -> Tensor | None:
        """Train on one batch; return the gradient of its features if it is to be returned."""
        self._optimiser.zero_grad()
        loss = cross_entropy(self._part(z_BCHW.requires_grad_(returned)), labels_B)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return z_BCHW.grad


@collab.main  # type: ignore[untyped-decorator]
def train() -> None:
    """Run on the server: the cloud's training loop."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plan = collab.get_app_prop("plan")
    edge, cloud = collab.clients[0](timeout=CALL_TIMEOUT_S), Cloud()
    meter = Meter(warm_up=plan["warm_up"], batches=plan["batches"])
    steps = plan["warm_up"] + plan["batches"]
    if plan["mode"] == "one-way":
        for z_BCHW, labels_B in asked_ahead(edge, steps):
            cloud.step(z_BCHW, labels_B, returned=False)
            meter.applied()
        note = "nothing returned but the next call, which is made one batch ahead"
    else:
        gradient_BCHW = None
        for _ in range(steps):
            z_BCHW, labels_B = edge.exchange(gradient_BCHW, False)
            gradient_BCHW = cloud.step(z_BCHW, labels_B, returned=True)
            meter.applied()
        note = "gradient returned, with the next call"
    with Path(plan["out"]).open("w") as file:
        meter.report(f"NVIDIA FLARE {nvflare.__version__}, {plan['mode']}", note, file)


def asked_ahead(edge: Any, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of the edge; while one is learnt, the next is on its way."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(edge.exchange, None, True)
        for _ in range(steps - 1):
            batch = pending.result()
            pending = pool.submit(edge.exchange, None, True)
            yield batch
        yield pending.result()
