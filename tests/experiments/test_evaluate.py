"""Dimension key:  B batch   N examples   K classes."""

from typing import final

import pytest
import torch
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.core.roles import CloudPredictor, EdgePredictor
from eaves.data.source import InMemory
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.evaluate import evaluate
from eaves.methods.setup import Method

N, K = 600, 4


@final
class Knowing(EdgePredictor):
    """Send the label that is written in the input; answer right early for the first class only."""

    def __init__(self, *, sends: bool = True, exits: bool = True):
        self._sends, self._exits = sends, exits

    def predict(self, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        sent = inputs.float().reshape(len(inputs), 1)
        early_BK = torch.zeros(len(inputs), K)
        early_BK[:, 0] = 1
        return (sent if self._sends else None), (early_BK if self._exits else None)


@final
class Reading(CloudPredictor):
    def answer(self, features: Tensor) -> Tensor:
        logits_BK: Tensor = torch.nn.functional.one_hot(features[:, 0].round().long(), K).float()
        return logits_BK


def method(edge: EdgePredictor, cloud: CloudPredictor | None) -> Method:
    real = build_job(TrainConfig(train_samples=32, batch_size=32)).method
    return Method(
        edge=real.edge,
        cloud=real.cloud,
        edge_predictor=edge,
        cloud_predictor=cloud,
        edge_modules={},
        cloud_modules={},
    )


@pytest.fixture
def source() -> InMemory:
    labels_N = torch.arange(N) % K
    return InMemory(labels_N.to(torch.uint8).reshape(N, 1, 1, 1), labels_N)


def test_both_answers_are_counted_over_all_examples(source: InMemory) -> None:
    found = evaluate(method(Knowing(), Reading()), source, parse_codec("fp32"))
    cloud, early = found["cloud"], found["exit"]
    assert cloud is not None
    assert early is not None
    assert (cloud.value, cloud.n) == (1.0, N)
    assert (early.value, early.n) == (0.25, N)
    assert early.low < 0.25 < early.high


def test_the_features_go_through_the_codec(source: InMemory) -> None:
    crude = evaluate(method(Knowing(), Reading()), source, parse_codec("int1"))["cloud"]
    assert crude is not None
    assert crude.value == 0.5  # one bit tells the ends of the range, not what is between


@pytest.mark.parametrize(("sends", "exits"), [(False, True), (True, False)])
def test_an_answer_that_a_method_has_not_is_none(
    source: InMemory, sends: bool, exits: bool
) -> None:
    one_sided = method(Knowing(sends=sends, exits=exits), Reading() if sends else None)
    found = evaluate(one_sided, source, parse_codec("fp32"))
    assert (found["cloud"] is not None) == sends
    assert (found["exit"] is not None) == exits
