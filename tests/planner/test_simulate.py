"""Simulated fleets: against queueing theory, against runs worked out by hand, and their laws."""

import random
import subprocess
import sys
from dataclasses import replace
from math import inf, nan, sqrt
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.core.specs import LinkSpec
from eaves.errors import ConfigError
from eaves.planner.simulate import Fleet, Outcome, md1_wait_s, simulate

# One edge, one upload a second; a link and a cloud that take no time.
ONE = Fleet(
    edges=1,
    uploads=6,
    period_s=1.0,
    upload_bytes=1000,
    link=LinkSpec(),
    shared_link=True,
    serve_fixed_s=0.0,
    serve_each_s=0.0,
)


def _link(transfer_s: float, *, delay_s: float = 0.0) -> LinkSpec:
    """Return a link that carries an upload of ``ONE`` in ``transfer_s``."""
    return LinkSpec(up_bps=8000 / transfer_s if transfer_s else inf, delay_s=delay_s)


# Theory


def _expect_mean(samples: list[float], expected: float, *, slack: float = 0.0) -> None:
    """Compare independent replications with ``expected``, by Student's t with 15 degrees.

    Six standard errors: a false alarm in 3 of 100 000 runs, were the seeds not fixed.
    """
    assert len(samples) == 16
    tolerance = 6 * stdev(samples) / sqrt(len(samples)) + slack * expected
    assert abs(mean(samples) - expected) < tolerance < 0.25 * expected


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_for_the_cloud_is_that_of_m_d_1(load: float) -> None:
    # Starting empty lowers the mean of 4000 waits by less than 1 %: small beside 6 errors.
    fleet = replace(ONE, uploads=4000, poisson=True, serve_fixed_s=load / 4, serve_each_s=load / 4)
    fleet = replace(fleet, period_s=0.5)
    waits_s = [simulate(replace(fleet, seed=seed)).wait_mean_s for seed in range(16)]
    _expect_mean(waits_s, md1_wait_s(2.0, load / 2))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_for_a_shared_link_is_that_of_m_d_1(load: float) -> None:
    # Some edges end before others, after which the load is lower. By Lindley's recursion, apart
    # from this code, that lowers the mean by 2 to 3 % for 1000 uploads each.
    fleet = replace(ONE, edges=5, uploads=1000, period_s=5.0, poisson=True, link=_link(load))
    outcomes = [simulate(replace(fleet, seed=seed)) for seed in range(16)]
    assert {outcome.wait_mean_s for outcome in outcomes} == {0.0}  # none for the cloud
    queued_s = [outcome.latency_mean_s - load for outcome in outcomes]
    _expect_mean(queued_s, md1_wait_s(1.0, load), slack=0.03)


@pytest.mark.parametrize(
    ("arrivals_per_s", "service_s", "wait_s"),
    [(0.0, 5.0, 0.0), (1.0, 0.0, 0.0), (0.5, 1.0, 0.5), (8.0, 0.1, 0.2), (0.9, 1.0, 4.5)],
)
def test_the_formula_of_m_d_1(arrivals_per_s: float, service_s: float, wait_s: float) -> None:
    assert md1_wait_s(arrivals_per_s, service_s) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    ("arrivals_per_s", "service_s", "message"),
    [
        (1.0, 1.0, "expected a load below 1, got 1/s x 1 s = 1"),
        (3.0, 2.0, "expected a load below 1, got 3/s x 2 s = 6"),
        (-1.0, 1.0, "expected arrivals_per_s of 0 or more, got -1.0"),
        (inf, 0.0, "expected arrivals_per_s of 0 or more, got inf"),
        (nan, 1.0, "expected arrivals_per_s of 0 or more, got nan"),
        (0.1, -1.0, "expected service_s of 0 or more, got -1.0"),
        (0.0, inf, "expected service_s of 0 or more, got inf"),
    ],
)
def test_no_wait_without_a_limit(arrivals_per_s: float, service_s: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        md1_wait_s(arrivals_per_s, service_s)


# Times whose sums are exact in binary
SIXTEENTHS = st.integers(0, 64).map(lambda n: n / 16)


@given(
    edge_s=SIXTEENTHS.filter(bool),
    link_s=st.sampled_from([0.0, 0.125, 0.5, 1.0, 4.0]),
    cloud_s=SIXTEENTHS,
    delay_s=SIXTEENTHS,
    uploads=st.integers(1, 40),
    depth=st.integers(1, 5),
)
def test_a_steady_edge_takes_the_time_of_a_tandem_of_queues(
    edge_s: float, link_s: float, cloud_s: float, delay_s: float, uploads: int, depth: int
) -> None:
    link = _link(link_s, delay_s=delay_s)
    fleet = replace(ONE, uploads=uploads, period_s=edge_s, link=link, serve_each_s=cloud_s)
    slowest_s = max(edge_s, link_s, cloud_s)
    duration_s = edge_s + link_s + delay_s + cloud_s + (uploads - 1) * slowest_s
    for poor in (fleet, replace(fleet, depth=depth)):
        assert simulate(poor).duration_s == duration_s


# Runs worked out by hand


def test_the_cloud_takes_what_there_is_when_a_worker_is_free() -> None:
    fleet = replace(ONE, serve_fixed_s=3.0, serve_each_s=0.5, max_batch=4)
    outcome = simulate(fleet)
    # Arrivals at 1 to 6. {1} from 1 to 4.5; {2, 3, 4} from 4.5 to 9; {5, 6} from 9 to 13.
    assert outcome.duration_s == 13
    assert outcome.batch_fill == 2
    assert outcome.wait_mean_s == (2.5 + 1.5 + 0.5 + 4 + 3) / 6
    assert outcome.latency_mean_s == (3.5 + 7 + 6 + 5 + 8 + 7) / 6
    assert outcome.latency_p50_s == 6.5
    assert outcome.cloud_busy == 12 / 13
    assert outcome.edge_busy == 6 / 13
    assert (outcome.link_busy, outcome.blocked) == (0, 0)


def test_the_first_of_a_batch_waits_so_long_and_no_longer() -> None:
    fleet = replace(ONE, uploads=5, serve_each_s=0.125, max_batch=3, max_wait_s=1.5)
    outcome = simulate(fleet)
    # {1, 2} at 2.5, {3, 4} at 4.5, and {5} alone at 6.5, though nothing else will come.
    assert outcome.batch_fill == 5 / 3
    assert outcome.wait_mean_s == (1.5 + 0.5 + 1.5 + 0.5 + 1.5) / 5
    assert outcome.duration_s == 6.625


def test_a_full_batch_does_not_wait() -> None:
    outcome = simulate(replace(ONE, serve_fixed_s=0.25, max_batch=2, max_wait_s=1000.0))
    assert outcome.batch_fill == 2
    assert outcome.wait_mean_s == 0.5  # 1 s for the first of each, 0 for the second
    assert outcome.duration_s == 6.25


def test_waiting_for_a_worker_counts_as_waiting_for_others() -> None:
    fleet = replace(ONE, uploads=3, serve_fixed_s=4.0, max_batch=3, max_wait_s=1.5)
    # {1, 2} from 2.5 to 6.5; 3 has waited 3.5 s by then, and starts at once.
    assert simulate(fleet).duration_s == 10.5


@pytest.mark.parametrize(("workers", "wait_s"), [(1, 2.5), (2, 0.0), (3, 0.0)])
def test_workers_serve_side_by_side(workers: int, wait_s: float) -> None:
    outcome = simulate(replace(ONE, serve_fixed_s=2.0, workers=workers))
    assert outcome.wait_mean_s == wait_s
    assert outcome.cloud_busy == 12 / (workers * outcome.duration_s)


def test_the_cloud_serves_in_order() -> None:
    outcome = simulate(replace(ONE, serve_fixed_s=2.0))
    # Latencies of 2 to 7 s, and the percentiles between them.
    assert outcome.latency_mean_s == 4.5
    assert outcome.latency_p50_s == 4.5
    assert outcome.latency_p95_s == pytest.approx(2 + 0.95 * 5)
    assert outcome.latency_p99_s == pytest.approx(2 + 0.99 * 5)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_an_edge_whose_link_is_slow_is_blocked(depth: int) -> None:
    fleet = replace(ONE, uploads=40, link=_link(4.0), serve_fixed_s=0.5, depth=depth)
    outcome = simulate(fleet)
    assert outcome.bottleneck == "link"
    # The last upload gets into the queue when the one `depth` before it leaves.
    put_at_s = 1 + (40 - depth - 1) * 4
    assert outcome.blocked == (put_at_s - 40) / outcome.duration_s
    assert outcome.link_busy == 160 / outcome.duration_s
    # Once the queue is full: blocked for the rest of a transfer, then `depth` more, then its own.
    assert outcome.latency_p50_s == 3 + depth * 4 + 4 + 0.5 == outcome.latency_p99_s


def test_links_of_their_own_carry_side_by_side() -> None:
    # Far more than the link bears: 8 uploads a second, where it carries 1 in 4 s.
    shared = replace(ONE, edges=8, uploads=20, link=_link(4.0))
    own = replace(shared, shared_link=False)
    assert simulate(own).duration_s == pytest.approx(81, abs=1)  # 1 + 20 * 4, and the start
    assert simulate(shared).duration_s == pytest.approx(641, abs=1)
    assert simulate(shared).link_busy == pytest.approx(640 / 641, abs=0.002)
    assert simulate(own).link_busy == pytest.approx(80 / 81, abs=0.02)


def test_a_link_serves_in_order_and_all_edges_alike() -> None:
    fleet = replace(ONE, edges=4, uploads=50, link=_link(1.0), depth=1)
    outcome = simulate(fleet)
    # In turn. Each edge has a transfer every 4 s: it works for 1, and waits 3 for room. Its upload
    # then waits for those of all four that are queued before it, and takes 1 s itself.
    assert outcome.latency_p50_s == pytest.approx(3 + 4 + 1)
    assert outcome.latency_p95_s == pytest.approx(3 + 4 + 1)
    # But for the first two of each edge, which find room.
    assert outcome.blocked == pytest.approx(48 * 3 / 201, abs=0.01)


# Chance


def test_edges_start_at_different_moments() -> None:
    fleet = replace(ONE, edges=50, uploads=20, serve_fixed_s=0.01)
    # All at once, they would wait 0.01 s * 49 / 2 on average. At random moments less than M/D/1,
    # since each edge is regular; 0.005 s there.
    assert 0 < simulate(fleet).wait_mean_s < md1_wait_s(50, 0.01)
    assert 20 < simulate(fleet).duration_s <= 21.02


def test_a_fleet_has_one_outcome_for_each_seed() -> None:
    link = LinkSpec(up_bps=80_000.0, delay_s=0.1, jitter_s=0.1, loss=0.2)
    for poisson in (False, True):
        fleet = replace(ONE, edges=3, uploads=50, link=link, serve_fixed_s=0.1, poisson=poisson)
        outcomes = [simulate(replace(fleet, seed=seed)) for seed in (1, 1, 2)]
        assert outcomes[0] == outcomes[1] != outcomes[2]


def test_another_link_leaves_the_steps_as_they_are() -> None:
    fleet = replace(ONE, edges=3, uploads=50, poisson=True)
    lossy = replace(fleet, link=LinkSpec(up_bps=80_000.0, jitter_s=0.1, loss=0.2))
    worked_s = [o.edge_busy * o.duration_s for o in map(simulate, (fleet, lossy))]
    assert worked_s[0] == pytest.approx(worked_s[1], rel=1e-12)


def test_poisson_edges_never_wait_for_the_link() -> None:
    # Of 400 exponential times, the mean is within 5 errors of 1/20 but in 6 of 10 million runs,
    # were the seed not fixed.
    fleet = replace(ONE, uploads=400, link=_link(4.0), poisson=True, depth=1)
    outcome = simulate(fleet)
    assert outcome.blocked == 0
    assert outcome.edge_busy * outcome.duration_s == pytest.approx(400, abs=5 * 20)
    # The link works without a pause; uploads wait for it, the last one for all before it.
    assert outcome.duration_s == pytest.approx(1600, abs=20)
    assert outcome.latency_p99_s == pytest.approx(0.99 * 1200, abs=5 * 20 + 20)


def test_lost_packets_hold_the_link_again() -> None:
    n, loss = 4000, 0.2
    fleet = replace(ONE, uploads=n, link=replace(_link(0.1), loss=loss, packet_bytes=1000))
    outcome = simulate(fleet)
    # Five standard errors of a geometric number: a false alarm in 6 of 10 million runs.
    sent = outcome.link_busy * outcome.duration_s / 0.1 / n
    assert abs(sent - 1 / (1 - loss)) < 5 * sqrt(loss / n) / (1 - loss)


# Laws


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    seconds = st.floats(0.001, 10)
    return Fleet(
        edges=draw(st.integers(1, 6)),
        uploads=draw(st.integers(1, 8)),
        period_s=draw(seconds),
        upload_bytes=1000,
        link=_link(draw(st.just(0.0) | seconds), delay_s=draw(st.just(0.0) | seconds)),
        shared_link=draw(st.booleans()),
        serve_fixed_s=draw(st.just(0.0) | seconds),
        serve_each_s=draw(st.just(0.0) | seconds),
        max_batch=draw(st.integers(1, 6)),
        max_wait_s=draw(st.just(0.0) | seconds),
        workers=draw(st.integers(1, 3)),
        depth=draw(st.integers(1, 3)),
        poisson=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


def _transfer_s(fleet: Fleet) -> float:
    return fleet.link.transfer(fleet.upload_bytes, rng=random.Random(0)).busy_s


@given(fleets())
def test_nothing_is_lost_and_shares_are_shares(fleet: Fleet) -> None:
    outcome = simulate(fleet)
    assert outcome.uploads == fleet.edges * fleet.uploads
    assert outcome.per_second == outcome.uploads / outcome.duration_s
    for name in ("edge_busy", "link_busy", "cloud_busy", "blocked"):
        assert 0 <= getattr(outcome, name) <= 1
    assert outcome.edge_busy + outcome.blocked <= 1 + 1e-9
    assert 1 <= outcome.batch_fill <= fleet.max_batch
    assert not (fleet.poisson and outcome.blocked)


@given(fleets())
def test_each_station_does_all_of_its_work(fleet: Fleet) -> None:
    outcome = simulate(fleet)
    n, each = outcome.uploads, outcome.duration_s
    links, batches = 1 if fleet.shared_link else fleet.edges, outcome.uploads / outcome.batch_fill
    assert outcome.link_busy * each * links == pytest.approx(n * _transfer_s(fleet))
    served_s = batches * fleet.serve_fixed_s + n * fleet.serve_each_s
    assert outcome.cloud_busy * each * fleet.workers == pytest.approx(served_s)
    if not fleet.poisson:
        assert outcome.edge_busy * each * fleet.edges == pytest.approx(n * fleet.period_s)
        assert each >= fleet.uploads * fleet.period_s * (1 - 1e-9)


@given(fleets())
def test_latencies_are_made_of_their_parts(fleet: Fleet) -> None:
    outcome = simulate(fleet)
    parts_s = _transfer_s(fleet) + fleet.link.delay_s + fleet.serve_fixed_s + fleet.serve_each_s
    assert outcome.latency_mean_s >= (parts_s + outcome.wait_mean_s) * (1 - 1e-9)
    assert outcome.latency_p50_s >= parts_s * (1 - 1e-9)
    assert outcome.latency_p50_s <= outcome.latency_p95_s <= outcome.latency_p99_s
    assert outcome.latency_p99_s <= outcome.duration_s


@given(fleets())
def test_with_workers_for_all_nobody_waits_longer_than_allowed(fleet: Fleet) -> None:
    outcome = simulate(replace(fleet, workers=fleet.edges * fleet.uploads))
    assert outcome.wait_mean_s <= fleet.max_wait_s * (1 + 1e-9)
    alone = simulate(replace(fleet, edges=1, uploads=1))
    assert alone.wait_mean_s == pytest.approx(fleet.max_wait_s if fleet.max_batch > 1 else 0.0)


def test_batches_raise_throughput_where_the_fixed_part_dominates() -> None:
    fleet = replace(ONE, edges=20, uploads=20, serve_fixed_s=0.5, serve_each_s=0.01)
    single, batched = (simulate(replace(fleet, max_batch=n)) for n in (1, 16))
    assert single.bottleneck == "cloud"
    assert single.per_second == pytest.approx(1 / 0.51, rel=0.02)
    assert batched.per_second > 8 * single.per_second
    assert batched.batch_fill > 8


@pytest.mark.parametrize(
    ("link_s", "serve_s", "bottleneck"),
    [(0.5, 0.9, "edge"), (1.5, 1.25, "link"), (1.25, 1.5, "cloud"), (0.0, 0.0, "edge")],
)
def test_the_slowest_station_is_the_bottleneck(
    link_s: float, serve_s: float, bottleneck: str
) -> None:
    fleet = replace(ONE, uploads=20, link=_link(link_s), serve_fixed_s=serve_s)
    assert simulate(fleet).bottleneck == bottleneck


def test_a_cloud_busy_with_small_batches_is_not_the_bottleneck() -> None:
    outcome = simulate(replace(ONE, uploads=100, serve_fixed_s=1.5, max_batch=8))
    assert outcome.cloud_busy > outcome.edge_busy
    assert outcome.per_second == pytest.approx(1, rel=0.03)  # what the edge makes
    assert outcome.bottleneck == "edge"


# What is refused

COUNTS = ["edges", "uploads", "upload_bytes", "max_batch", "workers", "depth"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.5, nan, inf, 10**13, 10**400])
def test_counts_are_whole_and_above_0(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} from 1 to 1e\\+12, got"):
        replace(ONE, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["period_s", "serve_fixed_s", "serve_each_s", "max_wait_s"])
@pytest.mark.parametrize("value", [-1.0, nan, inf, -inf, 1e10, "1"])
def test_times_are_finite_and_not_negative(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} from .* to 1e\\+09 s, got {value!r}"):
        replace(ONE, **{name: value})  # type: ignore[arg-type]


def test_a_period_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected period_s from 1e-09 .* got 0\.0"):
        replace(ONE, period_s=0.0)


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5])
def test_a_seed_is_one_of_2_to_the_31(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"expected a seed from 0 to 2147483647, got {seed}"):
        replace(ONE, seed=seed)


def test_a_link_that_never_carries_an_upload_is_refused() -> None:
    for link in (LinkSpec(up_bps=1e-300), LinkSpec(delay_s=1e300)):
        with pytest.raises(ConfigError, match=r"expected a link that carries 1000 bytes within"):
            replace(ONE, link=link)


def test_the_smallest_and_the_largest_numbers_work() -> None:
    tiny = simulate(replace(ONE, uploads=1, upload_bytes=1, period_s=1e-9))
    assert (tiny.duration_s, tiny.uploads, tiny.edge_busy) == (1e-9, 1, 1.0)
    huge = simulate(replace(ONE, period_s=1e9, serve_fixed_s=1e9, serve_each_s=1e9))
    assert huge.duration_s == 1e9 + 6 * 2e9
    assert isinstance(huge, Outcome)


# What it needs


def test_without_simpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simpy", None)
    with pytest.raises(ConfigError, match=r'pip install "eaves\[lab\]"'):
        simulate(ONE)


def test_simulating_needs_no_torch_and_the_numbers_alone_no_simpy() -> None:
    code = "import sys, eaves.planner.simulate; sys.exit(bool({'torch', 'simpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
