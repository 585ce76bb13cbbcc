"""The phases of every method: what happens, batch by batch, on the edge, on the way, in the cloud.

One function for each method, read beside its paper. A phase says nothing about how long the link
takes or what overlaps: :mod:`eaves.planner.cost` does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import final

from eaves.errors import ConfigError
from eaves.planner.embeddings import Projection, edge_bytes
from eaves.planner.parts import ADAM, SGD, Part, Parts
from eaves.planner.scenario import Candidate, Scenario

_FLOAT_BYTES = 4
_ANSWER_BYTES = 64  # envelope of a reply


@final
@dataclass(frozen=True, kw_only=True)
class Phase:
    """What happens for each of ``batches``: on the edge, on the way, in the cloud, on the way back.

    The edge works ``ahead_s``, sends, works ``beside_s`` on what needs no answer, and ``after_s``
    on the answer. ``waits`` says that it cannot begin the next batch before.
    """

    batches: int
    ahead_s: float = 0.0
    beside_s: float = 0.0
    after_s: float = 0.0
    up_bytes: float = 0.0
    cloud_s: float = 0.0
    down_bytes: float = 0.0
    waits: bool = False

    @property
    def edge_s(self) -> float:
        """Seconds of the edge for one batch."""
        return self.ahead_s + self.beside_s + self.after_s


# Training: the phases of a run, and the bytes that the edge holds.


@final
@dataclass(frozen=True)
class Held:
    """Bytes that each side holds at the most, by the formula."""

    edge_bytes: float
    cloud_bytes: float


Spent = tuple[list[Phase], Held]


def _full_cloud(scenario: Scenario, candidate: Candidate) -> Spent:
    parts = Parts(scenario, None)
    out, back = parts.codec(candidate.codec)
    each = partial(Phase, cloud_s=back.decode.median_s + parts.cloud().step_s)
    ahead_s = parts.fetch_s + out.encode.median_s
    sending = partial(each, ahead_s=ahead_s, up_bytes=out.bytes_per_sample * parts.batch_size)
    held = Held(2 * parts.input_bytes, _learning_bytes(parts.cloud()) + parts.input_bytes)
    return _sent(scenario, candidate, sending, each), held


def _full_edge(scenario: Scenario, candidate: Candidate) -> Spent:
    parts = Parts(scenario, None)
    whole = parts.whole_edge()
    phase = Phase(batches=_all(scenario), ahead_s=parts.fetch_s + whole.step_s)
    return [phase], Held(_learning_bytes(whole) + parts.input_bytes, 0.0)


def _hierarchical(scenario: Scenario, candidate: Candidate) -> Spent:
    parts = _divided(scenario, candidate)
    edge, exit_ = parts.edge(), parts.exit()
    out, back = parts.codec(candidate.codec)
    up_bytes, encode_s = out.bytes_per_sample * parts.batch_size, out.encode.median_s
    learning_s = exit_.step_s + edge.backward_s + edge.update_s
    cloud = partial(Phase, cloud_s=back.decode.median_s + parts.cloud().step_s)
    ahead_s = parts.fetch_s + edge.forward_s
    learning_bytes = _learning_bytes(edge) + _learning_bytes(exit_) + parts.input_bytes
    held = Held(learning_bytes, _learning_bytes(parts.cloud()) + parts.feature_bytes)
    if candidate.send == "once":
        alone = Phase(batches=_all(scenario), ahead_s=ahead_s, beside_s=learning_s)
        ahead_s = parts.fetch_s + edge.infer_s + encode_s
        sending = partial(cloud, ahead_s=ahead_s, up_bytes=up_bytes)
        return [alone, *_sent(scenario, candidate, sending, cloud)], held
    ahead_s += encode_s
    sending = partial(cloud, ahead_s=ahead_s, beside_s=learning_s, up_bytes=up_bytes)
    return _sent(scenario, candidate, sending, cloud), held


def _split(scenario: Scenario, candidate: Candidate) -> Spent:
    parts = _divided(scenario, candidate)
    edge, cloud = parts.edge(), parts.cloud(linked=True)
    out, back = parts.codec(candidate.codec)
    taken, given = parts.reply()
    phase = Phase(
        batches=_all(scenario),
        ahead_s=parts.fetch_s + edge.forward_s + out.encode.median_s,
        up_bytes=out.bytes_per_sample * parts.batch_size,
        cloud_s=back.decode.median_s + cloud.step_s + given.encode.median_s,
        down_bytes=given.bytes_per_sample * parts.batch_size,
        after_s=taken.decode.median_s + edge.backward_s + edge.update_s,
        waits=True,
    )
    held = Held(
        _learning_bytes(edge) + parts.input_bytes, _learning_bytes(cloud) + parts.feature_bytes
    )
    return [phase], held


def _priphit(scenario: Scenario, candidate: Candidate) -> Spent:
    """Train the edge against its adversaries in all epochs (stage 1), then send (stage 2).

    What is sent in stage 2 is sent once (the default), or repeated in as many further epochs.
    An adversary has the shape of the exit. In each step of the edge part the adversaries learn
    first, on the features without their gradient; then their loss goes back into the edge part.
    """
    parts = _divided(scenario, candidate, copies=ADAM)
    edge, exit_, choices = parts.edge(), parts.exit(), scenario.choices
    out, back = parts.codec(candidate.codec)
    step_s = parts.exit(linked=False).step_s
    against_s = choices.adversaries * (
        choices.adversary_steps * step_s + exit_.forward_s + exit_.backward_s
    )
    alone = Phase(
        batches=_all(scenario),
        ahead_s=parts.fetch_s + edge.forward_s,
        beside_s=against_s + exit_.step_s + edge.backward_s + edge.update_s,
    )
    cloud = partial(Phase, cloud_s=back.decode.median_s + parts.cloud().step_s)
    ahead_s = parts.fetch_s + edge.infer_s + out.encode.median_s
    sending = partial(cloud, ahead_s=ahead_s, up_bytes=out.bytes_per_sample * parts.batch_size)
    heads = 1 + choices.adversaries
    held = Held(
        _learning_bytes(edge) + heads * _learning_bytes(exit_) + parts.input_bytes,
        _learning_bytes(parts.cloud()) + parts.feature_bytes,
    )
    return [alone, *_sent(scenario, candidate, sending, cloud)], held


def _divided(scenario: Scenario, candidate: Candidate, *, copies: int = SGD) -> Parts:
    if candidate.cut is None:
        raise ConfigError(f"{candidate.method} divides the net: name a cut")
    return Parts(scenario, candidate.cut, copies=copies)


def _learning_bytes(part: Part) -> float:
    return part.state_bytes + part.kept_bytes


def _all(scenario: Scenario) -> int:
    return scenario.batches * scenario.epochs


def _sent(
    scenario: Scenario,
    candidate: Candidate,
    sending: Callable[..., Phase],
    cloud: Callable[..., Phase],
) -> list[Phase]:
    """Return the phases of sending every epoch, or once and then letting the cloud learn on."""
    if candidate.send != "once":
        return [sending(batches=_all(scenario))]
    rest = scenario.batches * (scenario.epochs - 1)
    return [sending(batches=scenario.batches), *([cloud(batches=rest)] if rest else [])]


TRAINING: dict[str, Callable[[Scenario, Candidate], Spent]] = {
    "hierarchical": _hierarchical,
    "full-cloud": _full_cloud,
    "full-edge": _full_edge,
    "split": _split,
    "priphit": _priphit,
}
"""Methods by the phases of their training."""
ONCE = ("hierarchical", "full-cloud", "priphit")
"""Those that can send once."""


# Inference: one phase.


def _answer_cloud(scenario: Scenario, candidate: Candidate) -> Spent:
    parts = Parts(scenario, None)
    out, back = parts.codec(candidate.codec)
    phase = Phase(
        batches=scenario.batches,
        ahead_s=out.encode.median_s,
        up_bytes=out.bytes_per_sample * parts.batch_size,
        cloud_s=back.decode.median_s + parts.cloud().infer_s,
        down_bytes=_answer_bytes(scenario),
    )
    held = Held(2 * parts.input_bytes, parts.cloud().answering_bytes + parts.input_bytes)
    return [phase], held


def _answer_edge(scenario: Scenario, candidate: Candidate) -> Spent:
    parts = Parts(scenario, None)
    whole = parts.whole_edge()
    phase = Phase(batches=scenario.batches, ahead_s=whole.infer_s)
    return [phase], Held(edge_bytes(scenario.edge, scenario.edge.stages[-1].name), 0.0)


def _answer_split(scenario: Scenario, candidate: Candidate) -> Spent:
    """Send features up, get answers back: hierarchical, split and PriPHiT alike."""
    parts = _divided(scenario, candidate)
    edge, (out, back) = parts.edge(), parts.codec(candidate.codec)
    phase = Phase(
        batches=scenario.batches,
        ahead_s=edge.infer_s + out.encode.median_s,
        up_bytes=out.bytes_per_sample * parts.batch_size,
        cloud_s=back.decode.median_s + parts.cloud().infer_s,
        down_bytes=_answer_bytes(scenario),
    )
    return [phase], _held_to_answer(scenario, parts)


def _datamix(scenario: Scenario, candidate: Candidate) -> Spent:
    """Mix groups of features on the edge, and take the answers to the mixtures apart.

    Mixing K inputs is K products for each number that is sent, at the speed of the edge part.
    """
    parts, group = _divided(scenario, candidate), scenario.choices.group
    [phase], held = _answer_split(scenario, candidate)
    mixing_s = parts.edge().extra_s(group * parts.values * parts.batch_size)
    taking_apart_s = parts.edge().extra_s(group * scenario.edge.subject.classes * parts.batch_size)
    ahead_s = phase.ahead_s + mixing_s
    mixed = replace(phase, ahead_s=ahead_s, after_s=taking_apart_s)
    return [mixed], replace(held, edge_bytes=held.edge_bytes + parts.feature_bytes)


def _siamese(scenario: Scenario, candidate: Candidate) -> Spent:
    """Project the features to a few numbers, one byte each, and map them back in the cloud."""
    parts, size = _divided(scenario, candidate), scenario.batch_size
    reduced = Projection(
        cut=str(parts.cut), values=parts.values, components=scenario.choices.components
    )
    codec = candidate.codec or "int8"
    out = reduced.cost(scenario.edge, parts.edge_stages, codec)
    back = reduced.cost(scenario.cloud, parts.cloud_stages, codec)
    phase = Phase(
        batches=scenario.batches,
        ahead_s=parts.edge().infer_s + out.encode.median_s,
        up_bytes=size * out.bytes_per_sample,
        cloud_s=back.decode.median_s + parts.cloud().infer_s,
        down_bytes=_answer_bytes(scenario),
    )
    held, more_bytes = _held_to_answer(scenario, parts), reduced.held_bytes(size)
    return [phase], Held(held.edge_bytes + more_bytes, held.cloud_bytes + more_bytes)


def _answer_bytes(scenario: Scenario) -> float:
    return _ANSWER_BYTES + _FLOAT_BYTES * scenario.batch_size * scenario.edge.subject.classes


def _held_to_answer(scenario: Scenario, parts: Parts) -> Held:
    assert parts.cut is not None
    cloud_bytes = parts.cloud().answering_bytes + parts.feature_bytes
    return Held(edge_bytes(scenario.edge, parts.cut), cloud_bytes)


INFERENCE: dict[str, Callable[[Scenario, Candidate], Spent]] = {
    "hierarchical": _answer_split,
    "full-cloud": _answer_cloud,
    "full-edge": _answer_edge,
    "split": _answer_split,
    "priphit": _answer_split,
    "datamix": _datamix,
    "siamese": _siamese,
}
"""Methods by the phase of their inference."""
