"""Many queries in one batch: each gets what it would get alone, whatever the others are.

Dimension key:  B batch   C features   K classes
"""

from typing import final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eaves.codecs.base import Codec, decode, parse_codec
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import CloudPredictor
from eaves.errors import DivergedError, PayloadError
from eaves.methods.hierarchical import Classifier
from eaves.methods.setup import CloudAnswers
from eaves.network.answers import Answers
from eaves.network.counts import Counts
from eaves.network.half import Accepts, Half
from eaves.network.workqueue import QueryWork

FP32, FP16 = parse_codec("fp32"), parse_codec("fp16")
ACCEPTS = Accepts(feature_shape=(3,), dtype=torch.float32, classes=4)


def net() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    layers.train()(torch.randn(50, 3))  # statistics that are not those of a new net
    return layers


def answers_of(
    predictor: CloudPredictor, most: int = 256, answer_codec: Codec = FP32
) -> tuple[Answers, Counts]:
    counts = Counts()
    part = Optimised({"cloud": nn.Linear(3, 4)}, OneCycle(total_steps=1), torch.device("cpu"))
    learner = Classifier(part)
    half = Half(
        learner=learner,
        predictor=predictor,
        accepts=ACCEPTS,
        reply_codec=FP16,
        answer_codec=answer_codec,
    )
    return Answers(half, counts, most=most), counts


def query(x_BC: Tensor) -> QueryWork:
    return QueryWork(FP32.encode(x_BC))


def answer(work: QueryWork) -> Tensor:
    return decode(work.answer.result(timeout=0))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_each_query_gets_what_it_would_get_alone(sizes: list[int]) -> None:
    answers, counts = answers_of(CloudAnswers(net(), torch.device("cpu")))
    inputs = [torch.randn(size, 3) for size in sizes]
    together, alone = [query(x_BC) for x_BC in inputs], [query(x_BC) for x_BC in inputs]
    answers.give(together)
    assert (counts.queries, counts.answered, counts.answer_batches) == (len(sizes), sum(sizes), 1)
    for work in alone:
        answers.give([work])
    for x_BC, one, other in zip(inputs, together, alone, strict=True):
        assert answer(one).shape == (len(x_BC), 4)
        # Sums in another order, of numbers below ten: 1e-5 is 10 times what rounding makes.
        torch.testing.assert_close(answer(one), answer(other), rtol=0, atol=1e-5)
        torch.testing.assert_close(answer(one), net().eval()(x_BC), rtol=0, atol=1e-5)
    assert counts.answer_s > 0


def test_answers_that_are_features_travel_in_their_own_codec() -> None:
    x_BC, sizes = torch.randn(2000, 3), {}
    for codec in (FP32, FP16):
        predictor = CloudAnswers(nn.Identity(), torch.device("cpu"))
        answers, _ = answers_of(predictor, answer_codec=codec)
        work = query(x_BC)
        answers.give([work])
        torch.testing.assert_close(answer(work), x_BC, rtol=1e-3, atol=1e-3)
        sizes[codec.name] = len(work.answer.result(timeout=0))
    assert sizes["fp16"] < 0.6 * sizes["fp32"]


def test_a_batch_has_so_many_examples_at_most_or_one_query() -> None:
    answers, counts = answers_of(CloudAnswers(net(), torch.device("cpu")), most=4)
    works = [query(torch.randn(size, 3)) for size in (2, 2, 1, 7, 3, 1)]
    answers.give(works)  # 2 + 2, 1, 7, 3 + 1
    assert (counts.queries, counts.answered, counts.answer_batches) == (6, 16, 4)
    assert [len(answer(work)) for work in works] == [2, 2, 1, 7, 3, 1]


BAD = {
    "no payload": b"hello",
    "nothing": b"",
    "cut": FP32.encode(torch.ones(2, 3))[:-1],
    "another shape": FP32.encode(torch.ones(2, 4)),
    "another dtype": parse_codec("raw").encode(torch.ones(2, 3, 1, 1, dtype=torch.uint8)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_query_is_refused_and_the_others_are_answered(bad: bytes) -> None:
    answers, counts = answers_of(CloudAnswers(net(), torch.device("cpu")))
    x_BC = torch.randn(4, 3)
    works = [query(x_BC[:1]), QueryWork(bad), query(x_BC[1:])]
    answers.give(works)
    with pytest.raises(PayloadError):
        works[1].answer.result(timeout=0)
    found = torch.cat([answer(works[0]), answer(works[2])])
    torch.testing.assert_close(found, net().eval()(x_BC), rtol=0, atol=1e-5)
    assert (counts.queries, counts.answered) == (2, 4)


def test_an_answer_that_is_too_large_for_a_float_is_refused_alone() -> None:
    wide = nn.Linear(3, 4)
    nn.init.constant_(wide.weight, 1e35)
    answers, _ = answers_of(CloudAnswers(wide, torch.device("cpu")))
    works = [query(torch.ones(2, 3)), query(torch.full((1, 3), 1e6))]
    answers.give(works)
    assert answer(works[0]).isfinite().all()
    with pytest.raises(DivergedError, match="the cloud cannot answer"):
        works[1].answer.result(timeout=0)


def test_who_does_not_wait_any_more_costs_nothing() -> None:
    answers, counts = answers_of(CloudAnswers(net(), torch.device("cpu")))
    gone, here = query(torch.ones(5, 3)), query(torch.ones(2, 3))
    assert gone.answer.cancel()
    answers.give([gone, here])
    assert gone.answer.cancelled()
    assert answer(here).shape == (2, 4)
    assert counts.answered == 2
    answers.give([])
    assert counts.answer_batches == 1


@final
class Broken(CloudPredictor):
    """A net that cannot run."""

    def answer(self, features: Tensor) -> Tensor:
        raise RuntimeError("out of memory")


def test_a_net_that_cannot_run_answers_everybody_with_words() -> None:
    answers, counts = answers_of(Broken())
    works = [query(torch.ones(2, 3)), query(torch.ones(1, 3))]
    answers.give(works)
    for work in works:
        with pytest.raises(DivergedError, match="the cloud cannot answer: out of memory"):
            work.answer.result(timeout=0)
    assert counts.queries == 0
