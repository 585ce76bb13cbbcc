"""A small net on two machines, in figures written by hand.

Every time is another number, and all their sums are exact: a sum says which times are in it, and
how often.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

from eaves.core.specs import LinkSpec
from eaves.planner.profile import (
    INPUT,
    CodecCost,
    Profile,
    Seconds,
    Stage,
    StageTimes,
    Subject,
    reply_to,
)
from eaves.planner.scenario import Scenario

# Names, output shapes, weights, bytes of buffers, MACs forward; `b` pools, so it has no weights.
_STAGES = (
    ("a", (4, 8, 8), 10, 8, 4096.0),
    ("b", (4, 4, 4), 0, 0, 0.0),
    ("c", (2, 4, 4), 100, 16, 8192.0),
    ("head", (5,), 50, 0, 64.0),
)
# Bytes kept for each example, and whatever the batch
_KEPT = {"a": (1000.0, 1.0), "b": (200.0, 2.0), "c": (30.0, 4.0), "head": (4.0, 8.0)}
_EXIT_PARAMS = {"a": 3, "b": 5, "c": 7}
_CODECS = {
    INPUT: {"raw": 193.0, "png": 97.0},
    "a": {"int8": 260.0, "int4": 132.0},
    "b": {"int8": 68.0, "int4": 36.0},
    "c": {"int8": 33.0, "int4": 17.0},
    reply_to("a"): {"fp16": 513.0},
    reply_to("b"): {"fp16": 129.0},
    reply_to("c"): {"fp16": 65.0},
}


def _figures(seed: int) -> Iterator[Seconds]:
    """Yield times below 1 s and their spreads, in multiples of 2**-20 s."""
    rng = random.Random(seed)
    while True:
        yield Seconds(rng.randrange(1, 2**20) / 2**20, rng.randrange(1, 2**20) / 2**20)


def _stage(
    name: str, shape: tuple[int, ...], params: int, buffer_bytes: int, macs: float, seed: int
) -> Stage:
    figures = _figures(seed)
    kept_bytes, kept_fixed_bytes = _KEPT.get(name, (0.5, 16.0))
    return Stage(
        name=name,
        output_shape=shape,
        params=params,
        buffer_bytes=buffer_bytes,
        forward_macs=macs,
        backward_macs=2 * macs,
        backward_leaf_macs=macs,
        kept_bytes=kept_bytes,
        kept_fixed_bytes=kept_fixed_bytes,
        moved_bytes=256.0,
        operations=3,
        times=StageTimes(*(next(figures) for _ in range(5))),
    )


def _profile(seed: int) -> Profile:
    figures = _figures(seed)
    exits = {
        cut: _stage(f"exit {cut}", (5,), params, 1, 128.0, seed + 10 + params)
        for cut, params in _EXIT_PARAMS.items()
    }
    codecs = {
        where: tuple(
            CodecCost(codec=name, bytes_per_sample=n, encode=next(figures), decode=next(figures))
            for name, n in sizes.items()
        )
        for where, sizes in _CODECS.items()
    }
    subject = Subject(
        net="made",
        stem=None,
        input_shape=(3, 8, 8),
        classes=5,
        batch_size=4,
        precision="fp32",
        exit="conv",
        version="0",
        structure="0",
    )
    return Profile(
        subject=subject,
        machine={},
        payloads_from="nowhere",
        samples=None,
        fetch=next(figures),
        contention=1.5,
        stages=tuple(_stage(*facts, seed + i) for i, facts in enumerate(_STAGES, 1)),
        exits=exits,
        codecs=codecs,
        peak_bytes={"a": 3_000, "b": 30_000, "c": 40_000, "head": 50_000},
    )


def _by_name(profile: Profile) -> dict[str, float]:
    """Return all times: ``fetch``, ``a.forward``, ``exit-a.forward``, ``a:int8.encode``."""
    found = {"fetch": profile.fetch.median_s}
    exits = {f"exit-{cut}": stage for cut, stage in profile.exits.items()}
    for name, stage in [*((s.name, s) for s in profile.stages), *exits.items()]:
        assert stage.times is not None
        times = asdict(stage.times)
        found |= {f"{name}.{kind}": time["median_s"] for kind, time in times.items()}
    for where, costs in profile.codecs.items():
        for cost in costs:
            found[f"{where}:{cost.codec}.encode"] = cost.encode.median_s
            found[f"{where}:{cost.codec}.decode"] = cost.decode.median_s
    return found


def _total(profile: Profile, names: str) -> float:
    known = _by_name(profile)
    return sum(known[name] for name in names.split())


@pytest.fixture(scope="session")
def edge() -> Profile:
    return _profile(100)


@pytest.fixture(scope="session")
def cloud() -> Profile:
    return _profile(200)


@pytest.fixture(scope="session")
def total() -> Callable[[Profile, str], float]:
    """Return the sum of times by name, as in ``total(edge, "fetch a.forward a:int8.encode")``."""
    return _total


@pytest.fixture(scope="session")
def scenario(edge: Profile, cloud: Profile) -> Scenario:
    """Return a link of 1 kB/s up and 2 kB/s down, and a run of 8 epochs of 5 batches."""
    link = LinkSpec(up_bps=8 * 1024, down_bps=16 * 1024, delay_s=0.25)
    return Scenario(edge=edge, cloud=cloud, link=link, batches=5, epochs=8)
