"""What a method costs: against the papers' formulas, simulated queues, and its laws."""

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.core.specs import LinkSpec, Transfer
from eaves.errors import ConfigError
from eaves.planner.cost import Cost, Flow, inference_cost, training_cost
from eaves.planner.devices import slowed
from eaves.planner.phases import ONCE, TRAINING, Phase
from eaves.planner.profile import Profile
from eaves.planner.scenario import Candidate, Choices, Power, Scenario
from eaves.planner.simulate import Fleet, simulate

Total = Callable[[Profile, str], float]

HIERARCHICAL = Candidate(method="hierarchical", cut="b", codec="int8")
SPLIT = replace(HIERARCHICAL, method="split")
PRIPHIT = replace(HIERARCHICAL, method="priphit", send="once")
FULL_CLOUD = Candidate(method="full-cloud", codec="raw")
FULL_EDGE = Candidate(method="full-edge")
ONE_WAY = [
    *(FULL_CLOUD, replace(FULL_CLOUD, send="once"), FULL_EDGE),
    *(HIERARCHICAL, replace(HIERARCHICAL, send="once"), PRIPHIT),
]
ALL = [*ONE_WAY, SPLIT]
ANSWERING = [
    *(FULL_CLOUD, FULL_EDGE, HIERARCHICAL, SPLIT),
    *(replace(HIERARCHICAL, method="datamix"), Candidate(method="siamese", cut="b")),
]
FEWER = settings(max_examples=25)  # for each method: a law is tried 150 times and more
BY_NAME = pytest.mark.parametrize("candidate", ALL, ids=str)

# Seconds whose sums are exact in binary
SIXTEENTHS = st.integers(0, 64).map(lambda n: n / 16)


def _slower(scenario: Scenario, side: str, factor: float) -> Scenario:
    """Let the ``edge`` or the ``cloud`` take ``factor`` times as long."""
    if side == "edge":
        return replace(scenario, edge=slowed(scenario.edge, factor))
    return replace(scenario, cloud=slowed(scenario.cloud, factor))


def _flow(
    edge_s: float,
    link_s: float,
    cloud_s: float,
    *,
    delay_s: float = 0.0,
    batches: int = 1,
    contention: float = 1.0,
) -> Flow:
    phase = Phase(batches=batches, ahead_s=edge_s, cloud_s=cloud_s)
    return Flow(phase, Transfer(link_s, delay_s), Transfer(0.0, 0.0), contention)


# Batch after batch, by the formulas; times of the cut `b`, 1 kB/s up, 2 kB/s down, 0.25 s each way


def _edge_learns_s(scenario: Scenario, total: Total) -> float:
    exit_step = "exit-b.forward exit-b.backward exit-b.update"
    return total(scenario.edge, f"{exit_step} a.backward_leaf b.backward a.update b.update")


def _cloud_learns_s(scenario: Scenario, total: Total, *, linked: bool = False) -> float:
    backward = "c.backward" if linked else "c.backward_leaf"
    rest = f"c.forward head.forward {backward} head.backward c.update head.update"
    return total(scenario.cloud, f"b:int8.decode {rest}")


@pytest.mark.parametrize("slow", ["edge", "cloud"])
def test_hierarchical_takes_the_longer_of_learning_on_the_edge_and_beyond(
    scenario: Scenario, total: Total, slow: str
) -> None:
    where = _slower(scenario, slow, 64.0)
    ahead_s = total(where.edge, "fetch a.forward b.forward b:int8.encode")
    ours_s = _edge_learns_s(where, total)
    theirs_s = 4 * 68 / 1024 + 0.25 + _cloud_learns_s(where, total)
    assert (ours_s > theirs_s) == (slow == "edge")
    cost = training_cost(where, HIERARCHICAL)
    assert cost.latency_s == ahead_s + max(ours_s, theirs_s)
    assert cost.sequential_s == 5 * cost.latency_s


def test_split_goes_there_and_back_and_never_overlaps(scenario: Scenario, total: Total) -> None:
    up_s, down_s = 4 * 68 / 1024 + 0.25, 4 * 129 / 2048 + 0.25
    edge_s = total(scenario.edge, "fetch a.forward b.forward b:int8.encode b/reply:fp16.decode")
    edge_s += total(scenario.edge, "a.backward_leaf b.backward a.update b.update")
    cloud_s = _cloud_learns_s(scenario, total, linked=True)
    cloud_s += total(scenario.cloud, "b/reply:fp16.encode")
    cost = training_cost(scenario, SPLIT)
    assert cost.epoch_s == cost.sequential_s == 5 * (edge_s + up_s + cloud_s + down_s)
    assert (cost.edge_s, cost.cloud_s) == (5 * edge_s, 5 * cloud_s)
    assert cost.link_s == 5 * (up_s + down_s - 0.5)  # the delay keeps nobody off the link
    assert (cost.bytes_up, cost.bytes_down) == (5 * 4 * 68, 5 * 4 * 129)
    assert training_cost(replace(scenario, one_process=True), SPLIT) == cost


def test_one_side_alone(scenario: Scenario, total: Total) -> None:
    forward = "a.forward b.forward c.forward head.forward"
    backward = "a.backward_leaf b.backward c.backward head.backward"
    step = f"{forward} {backward} a.update b.update c.update head.update"
    on_edge, in_cloud = (training_cost(scenario, way) for way in (FULL_EDGE, FULL_CLOUD))
    edge_s = total(scenario.edge, f"fetch {step}")
    assert on_edge.epoch_s == on_edge.sequential_s == on_edge.edge_s == 5 * edge_s
    assert (on_edge.link_s, on_edge.cloud_s, on_edge.bytes_up) == (0, 0, 0)
    sent_s = total(scenario.edge, "fetch input:raw.encode") + 4 * 193 / 1024 + 0.25
    cloud_s = total(scenario.cloud, f"input:raw.decode {step}")
    assert in_cloud.sequential_s == 5 * (sent_s + cloud_s)
    assert in_cloud.bytes_per_sample == 193


# Pipelined


def _tandem_s(edge_s: float, link_s: float, delay_s: float, cloud_s: float, batches: int) -> float:
    """Send batches through edge, link and cloud, each of which takes one at a time, in order."""
    left = sent = done = 0.0
    for _ in range(batches):
        left += edge_s
        sent = max(sent, left) + link_s
        done = max(done, sent + delay_s) + cloud_s
    return done


@given(SIXTEENTHS, SIXTEENTHS, SIXTEENTHS, SIXTEENTHS, st.integers(1, 40))
def test_one_way_an_epoch_is_a_tandem_of_queues(
    edge_s: float, link_s: float, delay_s: float, cloud_s: float, batches: int
) -> None:
    flow = _flow(edge_s, link_s, cloud_s, delay_s=delay_s, batches=batches)
    assert flow.pipelined_s == _tandem_s(edge_s, link_s, delay_s, cloud_s, batches)


@pytest.mark.parametrize("candidate", [FULL_CLOUD, HIERARCHICAL], ids=str)
@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_an_epoch_is_that_of_the_simulated_clock(
    scenario: Scenario, candidate: Candidate, factor: float
) -> None:
    link = replace(scenario.link, up_bps=scenario.link.up_bps * factor)
    cost = training_cost(replace(scenario, link=link, epochs=1, batches=50), candidate)
    fleet = Fleet(
        edges=1,
        uploads=50,
        period_s=cost.edge_s / 50,
        upload_bytes=round(cost.bytes_up / 50),
        link=link,
        shared_link=False,
        serve_fixed_s=0.0,
        serve_each_s=cost.cloud_s / 50,
    )
    outcome = simulate(fleet)
    assert cost.epoch_s == pytest.approx(outcome.duration_s, rel=1e-9)
    assert cost.bound == outcome.bottleneck


def test_an_only_batch_is_sent_after_the_edge_has_learned_from_it(
    scenario: Scenario, total: Total
) -> None:
    cost = training_cost(replace(scenario, batches=1, epochs=1), HIERARCHICAL)
    edge_s = total(scenario.edge, "fetch a.forward b.forward b:int8.encode")
    edge_s += _edge_learns_s(scenario, total)
    assert cost.epoch_s == edge_s + 4 * 68 / 1024 + 0.25 + _cloud_learns_s(scenario, total)
    assert cost.edge_s == edge_s


def test_epochs_follow_each_other_without_a_pause(scenario: Scenario) -> None:
    one, many = (training_cost(replace(scenario, epochs=n), HIERARCHICAL) for n in (1, 8))
    slowest_s = max(one.edge_s, one.link_s, one.cloud_s)
    assert 8 * many.epoch_s == pytest.approx(one.epoch_s + 7 * slowest_s)
    assert (many.edge_s, many.bytes_up) == (one.edge_s, one.bytes_up)


# Sending once


def test_sending_once_is_the_sum_of_its_phases(scenario: Scenario, total: Total) -> None:
    cost = training_cost(scenario, replace(HIERARCHICAL, send="once"))
    alone_s = total(scenario.edge, "fetch a.forward b.forward") + _edge_learns_s(scenario, total)
    edge_s = total(scenario.edge, "fetch a.infer b.infer b:int8.encode")
    link_s, cloud_s = 4 * 68 / 1024, _cloud_learns_s(scenario, total)
    sending_s = _tandem_s(edge_s, link_s, 0.25, cloud_s, 5)
    assert cost.epoch_s == pytest.approx((40 * alone_s + sending_s + 35 * cloud_s) / 8)
    one_by_one_s = 40 * alone_s + 5 * (edge_s + link_s + 0.25 + cloud_s) + 35 * cloud_s
    assert cost.sequential_s == pytest.approx(one_by_one_s / 8)
    assert cost.edge_s == pytest.approx((40 * alone_s + 5 * edge_s) / 8)
    assert cost.link_s == pytest.approx(5 * link_s / 8)
    assert cost.cloud_s == pytest.approx(40 * cloud_s / 8)
    assert cost.latency_s == max(alone_s, edge_s + link_s + 0.25 + cloud_s)


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_sending_once_sends_each_sample_once(scenario: Scenario, epochs: int) -> None:
    run = replace(scenario, epochs=epochs)
    for every in (FULL_CLOUD, HIERARCHICAL):
        once = replace(every, send="once")
        ratio = training_cost(run, every).bytes_up / training_cost(run, once).bytes_up
        assert ratio == pytest.approx(epochs)
    assert training_cost(run, PRIPHIT).bytes_up == 5 * 4 * 68 / epochs


def test_in_an_only_epoch_inputs_sent_once_are_inputs_sent(scenario: Scenario) -> None:
    short = replace(scenario, epochs=1)
    once = replace(FULL_CLOUD, send="once")
    assert training_cost(short, once) == training_cost(short, FULL_CLOUD)


def test_priphit_pays_on_the_edge_for_its_adversaries(scenario: Scenario) -> None:
    def cost(adversaries: int, steps: int) -> Cost:
        choices = Choices(adversaries=adversaries, adversary_steps=steps)
        return training_cost(replace(scenario, choices=choices), PRIPHIT)

    plain = training_cost(scenario, replace(HIERARCHICAL, send="once"))
    few, more, harder = cost(1, 1), cost(2, 1), cost(1, 2)
    assert plain.edge_s < few.edge_s < harder.edge_s < more.edge_s
    assert plain.memory_bytes < few.memory_bytes == harder.memory_bytes < more.memory_bytes
    assert {c.bytes_up for c in (plain, few, more, harder)} == {plain.bytes_up}
    assert {c.cloud_s for c in (plain, few, more, harder)} == {plain.cloud_s}


# Two in one process


def _shared_machine_s(edge_s: float, link_s: float, cloud_s: float, k: float, n: int) -> float:
    """Simulate edge and cloud that both work at 1/k of their speed while both work."""
    now, left, serving, sent, served = 0.0, edge_s, 0.0, 0.0, 0
    made, arrivals = 0, list[float]()
    while served < n:
        if not serving and arrivals and arrivals[0] <= now:
            serving = cloud_s
            arrivals.pop(0)
        rate = 1 / k if made < n and serving else 1.0
        events = [left / rate] if made < n else []
        events += [serving / rate] if serving else [a - now for a in arrivals[:1]]
        step = min(events)
        now += step
        if made < n:
            left -= step * rate
            if left < 1e-9:
                made, left, sent = made + 1, edge_s, max(sent, now) + link_s
                arrivals.append(sent)
        if serving:
            serving -= step * rate
            if serving < 1e-9:
                serving, served = 0.0, served + 1
    return now


@settings(deadline=None)  # a busy machine is no failure
@given(
    edge_s=st.floats(0.1, 1),
    link_s=st.floats(0.01, 2),
    cloud_s=st.floats(0.1, 1),
    contention=st.floats(1, 2),
)
def test_sharing_a_machine_takes_as_long_as_both_sides_leave_each_other(
    edge_s: float, link_s: float, cloud_s: float, contention: float
) -> None:
    flow = _flow(edge_s, link_s, cloud_s, batches=150, contention=contention)
    simulated_s = _shared_machine_s(edge_s, link_s, cloud_s, contention, 150)
    # They differ by how the run starts and ends, not by what each batch takes.
    assert abs(flow.pipelined_s - simulated_s) < 2 * (edge_s + cloud_s)


def test_only_one_process_is_shared(scenario: Scenario) -> None:
    fast = replace(scenario, link=LinkSpec(), batches=1000, epochs=1)
    apart, together = (
        training_cost(replace(fast, one_process=shared), HIERARCHICAL) for shared in (False, True)
    )
    shorter_s, longer_s = sorted((apart.edge_s, apart.cloud_s))
    assert apart.epoch_s == pytest.approx(longer_s, rel=2e-3)
    assert together.epoch_s == pytest.approx(longer_s + 0.5 * shorter_s, rel=2e-3)
    assert together.sequential_s == apart.sequential_s  # nothing runs beside anything
    alone = [training_cost(replace(fast, one_process=on), FULL_EDGE) for on in (False, True)]
    assert alone[0] == alone[1]


# The link


def test_a_link_without_limits_takes_no_time(scenario: Scenario) -> None:
    for way in ALL:
        cost = training_cost(replace(scenario, link=LinkSpec()), way)
        assert cost.link_s == 0
        assert cost.bytes_up == training_cost(scenario, way).bytes_up
        assert cost.epoch_s <= training_cost(scenario, way).epoch_s


@pytest.mark.parametrize("candidate", [w for w in ALL if w != FULL_EDGE], ids=str)
def test_a_lossy_link_costs_more(scenario: Scenario, candidate: Candidate) -> None:
    # So slow that nothing the edge does beside hides it, in packets without a part that is empty
    slow = replace(scenario.link, up_bps=128.0, packet_bytes=1)
    link = replace(slow, up_j_per_bit=1.0, down_j_per_bit=1.0)
    power = Power(busy_w=1.0, idle_w=1.0)
    costs = [
        training_cost(replace(scenario, link=replace(link, loss=p), power=power), candidate)
        for p in (0.0, 0.1, 0.5)
    ]
    for name in ("epoch_s", "sequential_s", "link_s", "energy_j"):
        figures = [getattr(cost, name) for cost in costs]
        assert figures == sorted(set(figures)), name
    assert costs[2].link_s == pytest.approx(2 * costs[0].link_s)  # half of all is sent again
    assert costs[2].bytes_up == costs[0].bytes_up


def test_what_is_not_sent_has_no_delay() -> None:
    link = LinkSpec(up_bps=1.0, down_bps=1.0, delay_s=100.0, loss=0.5)
    flow = Flow.of(Phase(batches=3, ahead_s=1.0), link)
    assert flow.sequential_s == 1
    assert flow.pipelined_s == 3
    both = Flow.of(Phase(batches=3, ahead_s=1.0, cloud_s=1.0), link)  # on two machines
    assert both.pipelined_s == 4


@pytest.mark.parametrize(
    ("slow", "bound"), [("edge", "edge"), ("cloud", "cloud"), ("link", "link")]
)
def test_what_an_epoch_waits_for(scenario: Scenario, slow: str, bound: str) -> None:
    if slow == "link":
        where = replace(scenario, link=replace(scenario.link, up_bps=1.0))
    else:
        where = _slower(scenario, slow, 1000.0)
    cost = training_cost(where, HIERARCHICAL)
    assert cost.bound == bound
    assert getattr(cost, f"{bound}_s") == pytest.approx(cost.epoch_s, rel=0.02)


# Energy


def test_energy_is_that_of_work_rest_and_radio(scenario: Scenario) -> None:
    link = replace(scenario.link, up_j_per_bit=0.5, down_j_per_bit=0.25)
    known = replace(scenario, link=link, power=Power(busy_w=10.0, idle_w=2.0))
    cost = training_cost(known, SPLIT)
    radio_j = 8 * (cost.bytes_up * 0.5 + cost.bytes_down * 0.25)
    expected_j = 10 * cost.edge_s + 2 * (cost.epoch_s - cost.edge_s) + radio_j
    assert cost.energy_j == pytest.approx(expected_j)
    on_edge = training_cost(known, FULL_EDGE)
    assert on_edge.energy_j == pytest.approx(10 * on_edge.edge_s)


def test_energy_is_not_known_without_watts_and_joules_per_bit(scenario: Scenario) -> None:
    power = Power(busy_w=10.0, idle_w=2.0)
    up_only = replace(scenario.link, up_j_per_bit=1e-6)
    both = replace(up_only, down_j_per_bit=1e-6)
    known = {
        (way.method, link is not scenario.link, link is both)
        for way in (FULL_EDGE, HIERARCHICAL, SPLIT)
        for link in (scenario.link, up_only, both)
        if training_cost(replace(scenario, link=link, power=power), way).energy_j is not None
    }
    assert known == {
        # What sends nothing needs no radio, what gets no answer none for reception.
        *(("full-edge", False, False), ("full-edge", True, False), ("full-edge", True, True)),
        *(("hierarchical", True, False), ("hierarchical", True, True)),
        ("split", True, True),
    }
    assert training_cost(replace(scenario, link=both), FULL_EDGE).energy_j is None


# Memory


def test_memory_by_the_formula_and_as_measured(scenario: Scenario) -> None:
    cost = training_cost(scenario, HIERARCHICAL)
    # 4 k P, with what is not trained; what is kept of 4 examples, and whatever the batch; inputs.
    assert cost.memory_bytes == 12 * (10 + 5) + 9 + 4 * (1200 + 0.5) + (3 + 16) + 4 * 192
    assert cost.cloud_memory_bytes == 12 * 150 + 16 + 4 * 34 + 12 + 4 * 4 * 64
    assert cost.peak_bytes == 30_000
    assert training_cost(scenario, FULL_EDGE).peak_bytes == 50_000
    # Adversaries come on top of what was measured: the peak is one to reckon with at least.
    assert training_cost(scenario, PRIPHIT).peak_bytes == scenario.edge.peak_bytes["b"] == 30_000
    for way in (FULL_CLOUD, SPLIT):  # whose edge parts were not what was measured
        assert training_cost(scenario, way).peak_bytes is None
    fewer = replace(scenario, edge=replace(scenario.edge, peak_bytes={}))
    assert training_cost(fewer, HIERARCHICAL).peak_bytes is None


# Inference


@pytest.mark.parametrize("down_bps", [16 * 1024, 128])
def test_a_query_takes_its_way_and_an_epoch_of_them_is_pipelined(
    scenario: Scenario, total: Total, down_bps: float
) -> None:
    link = replace(scenario.link, down_bps=down_bps)
    cost = inference_cost(replace(scenario, link=link), HIERARCHICAL)
    edge_s = total(scenario.edge, "a.infer b.infer b:int8.encode")
    cloud_s = total(scenario.cloud, "b:int8.decode c.infer head.infer")
    up_s, down_s = 4 * 68 / 1024, 8 * (64 + 4 * 4 * 5) / down_bps
    assert cost.latency_s == edge_s + up_s + 0.25 + cloud_s + down_s + 0.25
    assert cost.sequential_s == 5 * cost.latency_s  # an epoch's worth, not a run's
    slowest_s = max(edge_s, up_s, cloud_s, down_s)
    assert cost.epoch_s == pytest.approx(cost.latency_s + 4 * slowest_s)
    assert cost.bytes_per_sample == 68
    assert cost.samples == 20
    assert cost.peak_bytes is None


@pytest.mark.parametrize("candidate", ANSWERING, ids=str)
def test_answers_do_not_depend_on_training(scenario: Scenario, candidate: Candidate) -> None:
    cost = inference_cost(scenario, candidate)
    assert cost == inference_cost(replace(scenario, epochs=1), candidate)
    if candidate.method in ONCE:
        assert cost == inference_cost(scenario, replace(candidate, send="once"))


# What cannot be


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (Candidate(method="magic"), "unknown method to train by 'magic'"),
        (Candidate(method="siamese", cut="b"), "unknown method to train by 'siamese'"),
        (replace(HIERARCHICAL, cut="x"), "unknown cut 'x'; choose from: "),
        (replace(HIERARCHICAL, cut="head"), "unknown cut 'head'; choose from: "),
        (replace(HIERARCHICAL, codec="int2"), "the codec 'int2' at 'b', only for: int8, int4;"),
        (replace(FULL_CLOUD, codec="jpeg"), "the codec 'jpeg' at 'input', only for: raw, png;"),
        (replace(FULL_CLOUD, codec=None), "this method sends something: name a codec"),
        (replace(SPLIT, send="once"), "split cannot send once, only: hierarchical, full-cloud"),
        (replace(FULL_EDGE, send="once"), "full-edge cannot send once, only: hierarchical"),
    ],
)
def test_training_that_cannot_be(scenario: Scenario, candidate: Candidate, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_cost(scenario, candidate)


def test_an_unknown_way_to_answer(scenario: Scenario) -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'magic'; choose from: .*siamese"):
        inference_cost(scenario, Candidate(method="magic"))


def test_a_net_that_was_only_counted_has_no_cost(scenario: Scenario) -> None:
    untimed = tuple(replace(stage, times=None) for stage in scenario.cloud.stages)
    blind = replace(scenario, cloud=replace(scenario.cloud, stages=untimed))
    with pytest.raises(ConfigError, match="the profile holds no times"):
        training_cost(blind, FULL_CLOUD)
    assert training_cost(blind, FULL_EDGE) == training_cost(scenario, FULL_EDGE)


# Laws


def test_every_method_is_in_the_laws() -> None:
    assert {way.method for way in ALL} == set(TRAINING)


@st.composite
def links(draw: st.DrawFn) -> LinkSpec:
    rates = st.floats(10, 1e7) | st.just(inf)
    return LinkSpec(
        up_bps=draw(rates),
        down_bps=draw(rates),
        delay_s=draw(st.just(0.0) | st.floats(0, 2)),
        loss=draw(st.just(0.0) | st.floats(0, 0.5)),
    )


def _times(cost: Cost) -> tuple[float, ...]:
    return (cost.epoch_s, cost.sequential_s, cost.latency_s, cost.link_s, cost.edge_s)


def _expect_no_more(better: Cost, worse: Cost) -> None:
    for ours, theirs in zip(_times(better), _times(worse), strict=True):
        assert ours <= theirs * (1 + 1e-9)


@BY_NAME
@FEWER
@given(link=links(), factor=st.floats(1, 100), one_process=st.booleans())
def test_a_faster_link_never_makes_an_epoch_slower(
    scenario: Scenario, candidate: Candidate, link: LinkSpec, factor: float, one_process: bool
) -> None:
    faster = replace(link, up_bps=factor * link.up_bps, down_bps=factor * link.down_bps)
    where = replace(scenario, one_process=one_process)
    better, worse = (training_cost(replace(where, link=x), candidate) for x in (faster, link))
    _expect_no_more(better, worse)
    assert better.bytes_up == worse.bytes_up


@BY_NAME
@FEWER
@given(
    link=links(),
    factor=st.floats(1, 100),
    one_process=st.booleans(),
    side=st.sampled_from(["edge", "cloud"]),
)
def test_a_slower_machine_never_makes_an_epoch_faster(
    scenario: Scenario,
    candidate: Candidate,
    link: LinkSpec,
    factor: float,
    one_process: bool,
    side: str,
) -> None:
    where = replace(scenario, link=link, one_process=one_process)
    slower = _slower(where, side, factor)
    _expect_no_more(training_cost(where, candidate), training_cost(slower, candidate))


@BY_NAME
@FEWER
@given(link=links(), batches=st.integers(1, 50), epochs=st.integers(1, 9))
def test_an_epoch_lasts_as_long_as_its_longest_side_at_least(
    scenario: Scenario, candidate: Candidate, link: LinkSpec, batches: int, epochs: int
) -> None:
    where = replace(scenario, link=link, batches=batches, epochs=epochs)
    cost = training_cost(where, candidate)
    # Up and down are one after the other where both are used, in split.
    for side_s in (cost.edge_s, cost.link_s, cost.cloud_s):
        assert cost.epoch_s >= side_s * (1 - 1e-9)
    together = training_cost(replace(where, one_process=True), candidate)
    _expect_no_more(cost, together)
    more = training_cost(replace(where, batches=batches + 1), candidate)
    assert more.epoch_s > cost.epoch_s
    # Each batch goes its whole way; only what the edge learns from a batch hides some of it.
    hidden_s = 0 if candidate.method in ("full-cloud", "full-edge", "split") else cost.edge_s
    assert cost.epoch_s <= (cost.sequential_s + hidden_s) * (1 + 1e-9)


@pytest.mark.parametrize("candidate", ANSWERING, ids=str)
@FEWER
@given(link=links(), factor=st.floats(1, 100))
def test_a_faster_link_never_answers_later(
    scenario: Scenario, candidate: Candidate, link: LinkSpec, factor: float
) -> None:
    faster = replace(link, up_bps=factor * link.up_bps, down_bps=factor * link.down_bps)
    better, worse = (inference_cost(replace(scenario, link=x), candidate) for x in (faster, link))
    _expect_no_more(better, worse)


def test_a_link_that_carries_both_ways_at_once_is_no_busier_than_its_busier_way(
    scenario: Scenario,
) -> None:
    link = LinkSpec(up_bps=1e3, down_bps=2e3)
    way = Candidate(method="full-cloud", codec="raw")
    cost = inference_cost(replace(scenario, link=link), way)
    up_s, down_s = 8 * cost.bytes_up / 1e3, 8 * cost.bytes_down / 2e3
    assert cost.link_s == pytest.approx(max(up_s, down_s))
    assert min(up_s, down_s) > 0
