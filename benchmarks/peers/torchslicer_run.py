"""TorchSlicer 0.2 on the same net: a coordinator, which has the images, and two workers.

    ENVS/torchslicer/bin/python -m benchmarks.peers.torchslicer_run tcp

tcp, grpc                  what carries tensors; the cut is ours, given by its `pack` function
tcp-default, grpc-default  the cut of its uniform splitter: one layer later, half-size features

The gradient of the features is returned for every batch. The coordinator sends the images to the
first worker: raw input crosses the socket too.
"""

import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import final

import torch
import torchslicer
from benchmarks.peers.workload import (
    LEARNING_RATE,
    MOMENTUM,
    Images,
    Meter,
    cloud_part,
    edge_part,
    options,
)
from torch import Tensor, nn
from torchslicer.config import RunConfig

OPTIMISER = {"name": "SGD", "params": {"lr": LEARNING_RATE, "momentum": MOMENTUM}}
LOSS = {"name": "CrossEntropyLoss", "params": {}}


def main() -> None:
    chosen = options(__doc__, "tcp", "grpc", "tcp-default", "grpc-default")
    transport, _, default_cut = chosen.mode.partition("-")
    # Its threads take their number of OpenMP threads from here, and its workers their settings.
    settings = {"OMP_NUM_THREADS": "1", "DEVICE": "cpu", "LOG_LEVEL": "ERROR", "LOG_ENABLED": "0"}
    os.environ.update({**settings, "TENSOR_TRANSPORT": transport})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    coordinator, *workers = free_ports()
    start = multiprocessing.get_context("spawn").Process
    running = [start(target=run_worker, args=(port,), daemon=True) for port in workers]
    for worker in running:
        worker.start()
    meter = Meter(warm_up=chosen.warm_up, batches=chosen.batches)
    loader = Loader(meter, chosen.warm_up + chosen.batches)
    sliced = cut(bool(default_cut), executor(coordinator, workers))
    sliced.train(loader, OPTIMISER, LOSS, epochs=1)
    where = "half-size features" if default_cut else "our cut"
    note = f"gradient returned, {where}, raw images cross the socket too, three processes"
    meter.report(f"TorchSlicer {torchslicer.__version__}, {chosen.mode}", note)


def run_worker(port: int) -> None:
    torch.set_num_threads(1)
    torchslicer.run_worker(port=port, coordinator_addr=None, worker_address=f"127.0.0.1:{port}")


def executor(coordinator: int, workers: list[int]) -> torchslicer.DistributedExecutor:
    return torchslicer.DistributedExecutor(
        discovery=torchslicer.StaticDiscovery([f"127.0.0.1:{port}" for port in workers]),
        coordinator_addr=f"127.0.0.1:{coordinator}",
        run_config=RunConfig.load(),
    )


def cut(default: bool, runner: torchslicer.DistributedExecutor) -> torchslicer.SlicedModel:
    net = nn.Sequential(*edge_part(), *cloud_part())
    if default:
        return torchslicer.slice(net, n=2, executor=runner)
    return torchslicer.slice(net, n=2, executor=runner, pack=lambda net: [net[:2], net[2:]])


@final
class Loader:
    """Its training loop asks for a batch when both workers have applied the one before."""

    def __init__(self, meter: Meter, steps: int) -> None:
        self._meter, self._steps, self._images = meter, steps, Images()

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(self._steps):
            yield self._images.batch(step)
            self._meter.applied()


def free_ports() -> list[int]:
    """Return three ports whose next port is free too: there a worker listens for tensors."""
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < 3:
            first = held.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
            port = first.getsockname()[1]
            try:
                held.enter_context(closing(socket.create_server(("127.0.0.1", port + 1))))
            except (OSError, OverflowError):
                continue
            found.append(port)
        return found


if __name__ == "__main__":
    main()
