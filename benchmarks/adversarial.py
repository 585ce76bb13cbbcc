"""What one adversarial step of the edge costs, against a plain hierarchical one.

    python -m benchmarks.adversarial [--rounds 20] [--precision bf16]

For nets at cuts where the edge has about 20 % of the work at most, on made-up images of 64x64 in
batches of 128: the time of a step of PriPHiT's edge (two adversaries, one step each) over that of
the hierarchical edge: at the wide cut, whose convolutional exit is dear, and at the same narrow cut
with the same exit. The steps are taken in turn. Prints median ratios and their quartiles.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from benchmarks.timing import in_words, seconds

from eaves.core.roles import Batch, EdgeLearner, PrivateLabels
from eaves.data.source import Interface
from eaves.experiments.build import build_method
from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.runtime.process import set_up

CASES = (
    ("compact", "conv2"),
    ("resnet18", "maxpool"),
    ("mobilevit_xxs", "stage1"),
    ("vgg11", "pool2"),
)
FACES = Interface(
    input_shape=(3, 64, 64), classes=("no", "yes"), mean=(120.0,) * 3, std=(70.0,) * 3
)
STEPS = 3  # of one learner before it is the other's turn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    options = parser.parse_args()
    set_up(1)
    print("| net | cut | against the wide cut | against the same cut |\n| --- | --- | --- | --- |")
    for net, cut in CASES:
        found = zip(*ratios(net, cut, options.precision, options.rounds), strict=True)
        print(f"| {net} | {cut} | {' | '.join(in_words(each) for each in found)} |", flush=True)


def ratios(net: str, cut: str, precision: str, rounds: int) -> list[tuple[float, float]]:
    wide = TrainConfig(
        data="faces:Smiling",
        net=net,
        cut=cut,
        precision=precision,
        optimiser="adam",
        privacy=PrivacyConfig(private="Male", ramp=0.0),
    )
    narrow = replace(wide, bottleneck="2x4x4", exit="mlp")
    hiding = replace(narrow, method="priphit")
    learners = [build_method(config, FACES).method.edge for config in (wide, narrow, hiding)]
    batch = made_up()
    for learner in learners:
        seconds(steps(learner, batch))
    found = []
    for _ in range(rounds):
        wide_s, narrow_s, hiding_s = (seconds(steps(learner, batch)) for learner in learners)
        found.append((hiding_s / wide_s, hiding_s / narrow_s))
    return found


def made_up() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 3, 64, 64), dtype=torch.uint8, generator=generator)
    labels, private = torch.randint(0, 2, (2, 128), generator=generator)
    return Batch(images, labels, PrivateLabels(private[:, None], ("Male",)))


def steps(learner: EdgeLearner, batch: Batch) -> Callable[[], None]:
    def work() -> None:
        for _ in range(STEPS):
            learner.step(batch)

    return work


if __name__ == "__main__":
    main()
