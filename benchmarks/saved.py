"""Training time saved, by how long each side takes for a batch: the planner's model as a table.

    python -m benchmarks.saved [--link 3g] [--batch-size 128] [--raw 3073] [--features 636]

Time saved against full-cloud with raw inputs is no constant of a net and a link. It is

    1 - max(edge, link, cloud) / max(link of raw inputs, whole net in the cloud)

with the milliseconds of one batch of each, and so depends on the processor as soon as one side
takes longer than its payload travels. ``--raw`` and ``--features`` are bytes of one example on the
way, labels included; by default those of ResNet-18 after layer3 on CIFAR-10, ``int8+zstd``. Cells
are per cent; ``*`` where the link is what both wait for: a faster processor changes nothing.
"""

import argparse

from eaves.core.specs import LinkSpec, parse_link
from eaves.planner.cost import Flow
from eaves.planner.phases import Phase

EDGE_MS = (100, 250, 500, 750, 1_000, 1_500, 2_000, 4_000)
CLOUD_MS = (50, 250, 500, 1_000, 2_000)
_BATCHES = 1_000  # so many that the first one's way is nothing beside them


def epoch_s(link: LinkSpec, up_bytes: float, edge_ms: float, cloud_ms: float) -> float:
    """Return what an epoch takes on two machines that overlap."""
    phase = Phase(
        batches=_BATCHES, ahead_s=edge_ms / 1e3, up_bytes=up_bytes, cloud_s=cloud_ms / 1e3
    )
    return Flow.of(phase, link).pipelined_s


def saved(link: LinkSpec, bytes_: tuple[float, float], edge_ms: float, cloud_ms: float) -> float:
    """Return the share of full-cloud's time; its cloud takes what both sides take together."""
    features, raw = bytes_
    whole_s = epoch_s(link, raw, 0.0, edge_ms + cloud_ms)
    return 1 - epoch_s(link, features, edge_ms, cloud_ms) / whole_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--link", default="3g")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--raw", type=float, default=3_073)
    parser.add_argument("--features", type=float, default=636)
    options = parser.parse_args()
    link, size = parse_link(options.link), options.batch_size
    bytes_ = options.features * size, options.raw * size
    link_ms, raw_ms = (1e3 * link.expected(n).busy_s for n in bytes_)
    print(f"link: {link_ms:.0f} ms a batch of {size}, raw inputs {raw_ms:.0f} ms\n")
    print("| edge \\ cloud, ms a batch | " + " | ".join(f"{ms:,}" for ms in CLOUD_MS) + " |")
    print("| --- " * (len(CLOUD_MS) + 1) + "|")
    for edge_ms in EDGE_MS:
        cells = []
        for cloud_ms in CLOUD_MS:
            bound = max(edge_ms, cloud_ms) <= link_ms and edge_ms + cloud_ms <= raw_ms
            share = saved(link, bytes_, edge_ms, cloud_ms)
            cells.append(f"{100 * share:.0f}" + "*" * bound)
        print(f"| {edge_ms:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
