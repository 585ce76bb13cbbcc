"""The least that two processes can do: raw frames over one TCP socket, no library in between.

    python -m benchmarks.peers.bare_tcp one-way
    python -m benchmarks.peers.bare_tcp gradient-returned

one-way            features and labels go up, nothing comes back: the edge trains by its exit
gradient-returned  the cloud answers each batch with the gradient of the features: split learning

This is the ceiling: no encryption, no acknowledgement, no recovery, no compression.
"""

import multiprocessing
import queue
import socket
import struct
import threading

import torch
from benchmarks.peers.workload import (
    BATCH,
    Images,
    Meter,
    cloud_part,
    edge_part,
    exit_head,
    options,
    sgd,
)
from torch import Tensor
from torch.nn.functional import cross_entropy

FEATURES = (BATCH, 32, 16, 16)
HEADER = struct.Struct("<Q")  # bytes of the tensor that follows
WAITING = 4  # batches that the edge may be ahead of its socket


def main() -> None:
    chosen = options(__doc__, "one-way", "gradient-returned")
    torch.set_num_threads(1)
    meter = Meter(warm_up=chosen.warm_up, batches=chosen.batches)
    steps = chosen.warm_up + chosen.batches
    returned = chosen.mode == "gradient-returned"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        arguments = (listening.getsockname(), steps, returned)
        edge = multiprocessing.get_context("spawn").Process(target=run_edge, args=arguments)
        edge.start()
        connection, _ = listening.accept()
        run_cloud(connection, steps, returned, meter)
        edge.join()
    note = "fp32 features, int64 labels, no encryption"
    meter.report(f"bare TCP, {chosen.mode}", note)


def run_edge(address: tuple[str, int], steps: int, returned: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with connect(address) as connection:
        (edge_with_gradient if returned else edge_one_way)(connection, steps)


def connect(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def edge_one_way(connection: socket.socket, steps: int) -> None:
    """Train by the exit; another thread sends, so that the socket never holds training up."""
    part, head, images = edge_part(), exit_head(), Images()
    optimiser = sgd(part, head)
    uploads: queue.Queue[tuple[Tensor, Tensor] | None] = queue.Queue(WAITING)
    sender = threading.Thread(target=send_all, args=(connection, uploads))
    sender.start()
    for step in range(steps):
        x_BCHW, labels_B = images.batch(step)
        z_BCHW = part(x_BCHW)
        uploads.put((z_BCHW.detach(), labels_B))
        optimiser.zero_grad()
        cross_entropy(head(z_BCHW), labels_B).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    uploads.put(None)
    sender.join()


def send_all(
    connection: socket.socket, uploads: "queue.Queue[tuple[Tensor, Tensor] | None]"
) -> None:
    while (upload := uploads.get()) is not None:
        for tensor in upload:
            send(connection, tensor)


def edge_with_gradient(connection: socket.socket, steps: int) -> None:
    part, images = edge_part(), Images()
    optimiser, gradient_BCHW = sgd(part), torch.empty(FEATURES)
    for step in range(steps):
        x_BCHW, labels_B = images.batch(step)
        z_BCHW = part(x_BCHW)
        send(connection, z_BCHW.detach())
        send(connection, labels_B)
        receive(connection, gradient_BCHW)
        optimiser.zero_grad()
        z_BCHW.backward(gradient_BCHW)
        optimiser.step()


def run_cloud(connection: socket.socket, steps: int, returned: bool, meter: Meter) -> None:
    torch.manual_seed(0)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    part = cloud_part()
    optimiser, labels_B = sgd(part), torch.empty(BATCH, dtype=torch.int64)
    for _ in range(steps):
        z_BCHW = torch.empty(FEATURES)
        receive(connection, z_BCHW)
        receive(connection, labels_B)
        optimiser.zero_grad()
        loss = cross_entropy(part(z_BCHW.requires_grad_(returned)), labels_B)
        loss.backward()  # type: ignore[no-untyped-call]
        if z_BCHW.grad is not None:
            send(connection, z_BCHW.grad)
        optimiser.step()
        meter.applied()


def send(connection: socket.socket, tensor: Tensor) -> None:
    found = tensor.numpy().data.cast("B")
    connection.sendall(HEADER.pack(found.nbytes))
    connection.sendall(found)


def receive(connection: socket.socket, into: Tensor) -> None:
    wanted = into.numpy().data.cast("B")
    header = bytearray(HEADER.size)
    fill(connection, memoryview(header))
    (length,) = HEADER.unpack(header)
    if length != wanted.nbytes:
        raise RuntimeError(f"a frame of {wanted.nbytes} bytes was expected, got {length}")
    fill(connection, wanted)


def fill(connection: socket.socket, view: memoryview) -> None:
    while view:
        count = connection.recv_into(view)
        if not count:
            raise RuntimeError("the connection ended within a frame")
        view = view[count:]


if __name__ == "__main__":
    main()
