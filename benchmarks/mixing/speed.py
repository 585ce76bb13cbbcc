"""What mixing costs the edge, and what mixtures cost the cloud.

    python -m benchmarks.mixing.speed [--rounds 20] [--batch 64]

For nets at cuts where the edge has less than 20 % of the work, on made-up inputs:

- edge: the share of its time that goes into mixing: drawing, mixing and taking apart again, beside
  the edge part and the encoding of the same batch;
- cloud: how many examples per second it answers when they come as mixtures, one group in a query as
  a device sends it, over the same number of plain features in queries of the same size: decoding,
  the cloud half, encoding. The service batches queries across groups and devices.

Both sides of a ratio are taken in turn. Prints medians and their quartiles.
"""

import argparse
from collections.abc import Sequence

import torch
from benchmarks.timing import in_words, seconds
from torch import Tensor

from eaves.data.source import Interface
from eaves.experiments.build import build_method, wire_of
from eaves.experiments.config import TrainConfig
from eaves.experiments.mixingconfig import MixingConfig
from eaves.methods.setup import AnswersOnly, Method
from eaves.network.answers import Answers
from eaves.network.counts import Counts
from eaves.network.half import Accepts, Half
from eaves.network.workqueue import QueryWork
from eaves.runtime.process import set_up

CASES = (
    ("resnet18", "maxpool", None, 64),
    ("mobilevit_xxs", "stage1", None, 64),
    ("vgg11", "pool2", None, 64),
    ("resnet56", "layer1", None, 32),
    ("spindle", "norm", "middle", 32),
)
GROUPS = (2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    set_up(1)
    torch.set_grad_enabled(False)
    print("| net | cut | K | mixing, % of the edge's time | cloud, mixtures over plain |")
    print("| --- | --- | --- | --- | --- |")
    for net, cut, ends, side in CASES:
        for group in GROUPS:
            config = TrainConfig(
                method="datamix",
                data="cifar10",
                net=net,
                cut=cut,
                mixing=MixingConfig(group=group, cloud_ends=ends),
            )
            edge, cloud = ratios(config, side, options.batch, options.rounds)
            mixing = in_words([100 * ratio for ratio in edge])
            print(f"| {net} | {cut} | {group} | {mixing} | {in_words(cloud)} |", flush=True)


def ratios(
    config: TrainConfig, side: int, batch: int, rounds: int
) -> tuple[list[float], list[float]]:
    interface = Interface(
        input_shape=(3, side, side),
        classes=tuple("0123456789"),
        mean=(120.0,) * 3,
        std=(70.0,) * 3,
    )
    method = build_method(config, interface).method
    x_BCHW = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    features, _ = method.edge_predictor.predict(x_BCHW)
    assert features is not None
    served = service(config, method, features)
    queries, _ = method.shield.protect(features)
    assert method.cloud_predictor is not None
    answers = method.cloud_predictor.answer(queries)
    codec = wire_of(config).codec
    plain, mixed = (
        [codec.encode(group) for group in torch.split(z, config.mixing.group)]
        for z in (features, queries)
    )

    def there_and_back() -> None:
        _, reveal = method.shield.protect(features)
        reveal(answers)

    head = method.edge_modules["head"].eval()
    edge, cloud = [], []
    for _ in range(rounds):
        head_s = seconds(lambda: head(answers))  # the edge's last stages are not mixing
        mixing_s = seconds(there_and_back) - head_s
        edge_s = head_s + seconds(lambda: method.edge_predictor.predict(x_BCHW))
        edge.append(mixing_s / (mixing_s + edge_s + seconds(lambda: codec.encode(queries))))
        plain_s = seconds(lambda: answered(served, plain))
        cloud.append(plain_s / seconds(lambda: answered(served, mixed)))
    return edge, cloud


def service(config: TrainConfig, method: Method, features: Tensor) -> Answers:
    assert method.cloud_predictor is not None
    accepts = Accepts(feature_shape=tuple(features.shape[1:]), dtype=torch.float32, classes=10)
    half = Half(
        learner=AnswersOnly(),
        predictor=method.cloud_predictor,
        accepts=accepts,
        reply_codec=wire_of(config).reply_codec,
    )
    return Answers(half, Counts(), most=256)


def answered(served: Answers, payloads: Sequence[bytes]) -> None:
    queries = [QueryWork(payload) for payload in payloads]
    served.give(queries)
    for query in queries:
        query.answer.result()


if __name__ == "__main__":
    main()
