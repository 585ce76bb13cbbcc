"""Dimension key:  B batch   N examples   K classes."""

from typing import final

import pytest
import torch
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.core.roles import CloudPredictor, EdgePredictor
from eaves.data.source import InMemory
from eaves.experiments.answering import Beside, Cloud
from eaves.experiments.evaluate import changed_alone, evaluate
from eaves.network.waiting import CloudLate

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


@final
class Away(Cloud):
    def ask(self, payload: bytes, *, timeout_s: float) -> Tensor:
        raise CloudLate("nobody is there")


@pytest.fixture
def source() -> InMemory:
    labels_N = torch.arange(N) % K
    return InMemory(labels_N.to(torch.uint8).reshape(N, 1, 1, 1), labels_N)


def test_both_answers_are_counted_over_all_examples(source: InMemory) -> None:
    found = evaluate(Knowing(), Beside(Reading()), source, parse_codec("fp32"))
    cloud, early = found["cloud"], found["exit"]
    assert cloud is not None
    assert early is not None
    assert (cloud.value, cloud.n) == (1.0, N)
    assert (early.value, early.n) == (0.25, N)
    assert early.low < 0.25 < early.high


def test_the_features_go_through_the_codec(source: InMemory) -> None:
    crude = evaluate(Knowing(), Beside(Reading()), source, parse_codec("int1"))["cloud"]
    assert crude is not None
    assert crude.value == 0.5  # one bit tells the ends of the range, not what is between


@pytest.mark.parametrize(("sends", "exits"), [(False, True), (True, False)])
def test_an_answer_that_a_method_has_not_is_none(
    source: InMemory, sends: bool, exits: bool
) -> None:
    edge, cloud = Knowing(sends=sends, exits=exits), Beside(Reading())
    found = evaluate(edge, cloud, source, parse_codec("fp32"))
    assert (found["cloud"] is not None) == sends
    assert (found["exit"] is not None) == exits


def test_without_a_cloud_the_exit_is_measured_all_the_same(source: InMemory) -> None:
    found = evaluate(Knowing(), None, source, parse_codec("fp32"))
    assert found["cloud"] is None
    assert found["exit"] is not None
    assert (found["exit"].value, found["exit"].n) == (0.25, N)


def test_a_cloud_that_does_not_answer_is_no_wrong_answer(source: InMemory) -> None:
    with pytest.raises(CloudLate, match="nobody is there"):
        evaluate(Knowing(), Away(), source, parse_codec("fp32"))


@final
class Sized(EdgePredictor):
    """Features of which some are a hundred times those of others."""

    def predict(self, inputs: Tensor) -> tuple[Tensor, None]:
        z_BD = inputs.float().reshape(len(inputs), 1).expand(-1, K).clone()
        z_BD = torch.nn.functional.one_hot(z_BD[:, 0].long(), K).float()
        return z_BD * torch.where(torch.arange(len(z_BD)) % 8 == 7, 100.0, 1.0)[:, None], None


@final
class Largest(CloudPredictor):
    def answer(self, features: Tensor) -> Tensor:
        return features


def test_answers_that_change_once_they_are_sent_alone_are_counted(source: InMemory) -> None:
    (notice,) = changed_alone(Sized(), Beside(Largest()), source, parse_codec("int4:tensor"))
    assert " of 32 examples get another answer when they are sent alone" in notice
    assert "codec int4 fits its range to a payload" in notice
    assert changed_alone(Sized(), Beside(Largest()), source, parse_codec("fp32")) == ()
    assert changed_alone(Knowing(sends=False), Beside(Largest()), source, parse_codec("fp32")) == ()
