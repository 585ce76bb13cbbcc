"""What a step on pairs costs beside plain steps, and the memory of fitting components.

    python -m benchmarks.siamese.speed [--rounds 20] [--pairs 64]

- step: N pairs, beside two plain steps on N examples each, which see as many; taken in turn.
- memory: the bytes that the components hold, and the peak of the process, while they are fitted to
  more and more examples. Whatever the number, both stay.

Prints medians and their quartiles.
"""

import argparse
import resource

import torch
from benchmarks.timing import in_words, seconds

from eaves.core.roles import Batch
from eaves.data.source import Interface
from eaves.experiments.build import build_method
from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.siameseconfig import SiameseConfig
from eaves.privacy.projection import IncrementalPCA
from eaves.runtime.process import set_up

CASES = (("compact", "conv4", 64), ("resnet18", "layer3", 32), ("mobilevit_xxs", "stage4", 64))
MEMORY = (1_000, 4_000, 16_000, 64_000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=64)
    options = parser.parse_args()
    set_up(1)
    print("| net | cut | pairs | a step on pairs over two plain steps |")
    print("| --- | --- | --- | --- |")
    for net, cut, side in CASES:
        for pairs in ("random", "all"):
            found = in_words(ratios(net, cut, side, pairs, options.pairs, options.rounds))
            print(f"| {net} | {cut} | {pairs} | {found} |", flush=True)
    print("\n| examples | held by the components, MB | peak of the process, MB |")
    print("| --- | --- | --- |")
    for examples, held, peak in memory():
        print(f"| {examples:,} | {held / 1e6:.1f} | {peak / 1e6:.0f} |", flush=True)


def ratios(net: str, cut: str, side: int, pairs: str, n: int, rounds: int) -> list[float]:
    config = TrainConfig(
        method="siamese",
        net=net,
        cut=cut,
        privacy=PrivacyConfig(noise="none"),
        siamese=SiameseConfig(pairs=pairs),
    )
    interface = Interface(
        input_shape=(3, side, side),
        classes=("no", "yes"),
        mean=(120.0,) * 3,
        std=(70.0,) * 3,
    )
    course = build_method(config, interface).method.course
    lessons = {lesson.name: lesson.learner for lesson in course}
    train, tune = lessons["train"], lessons["tune"]
    x = torch.randint(0, 256, (2 * n, 3, side, side), dtype=torch.uint8)
    y = torch.arange(2 * n) % 3 % 2
    whole, halves = Batch(x, y), [Batch(x[:n], y[:n]), Batch(x[n:], y[n:])]

    def plain() -> None:
        for half in halves:
            train.step(half)

    plain()
    tune.step(whole)
    found = []
    for _ in range(rounds):
        plain_s = seconds(plain)
        found.append(seconds(lambda: tune.step(whole)) / plain_s)
    return found


def memory() -> list[tuple[int, int, int]]:
    """Return examples, bytes held, and the peak resident memory so far, as fitting goes on."""
    pca, found = IncrementalPCA(4096, 8), []
    for examples in MEMORY:
        while pca.count < examples:
            pca.update(torch.randn(250, 4096))
        held = sum(tensor.nbytes for tensor in pca.state().tensors.values())
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found.append((pca.count, held, peak))
    return found


if __name__ == "__main__":
    main()
