"""Which precision trains faster on this machine: measured on the halves themselves, and kept.

bfloat16 is several times faster on a processor that has instructions for it, and several times
slower on one that has not. ``--precision auto`` takes a few steps in each and chooses. The choice
lies in the run's folder, so that a run that goes on computes as it began, bit for bit.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import final

from eaves.core.roles import Batch
from eaves.errors import DivergedError, StateError
from eaves.experiments.config import TrainConfig
from eaves.methods.setup import Method
from eaves.runtime.files import write_atomically

AUTO = "auto"
FILE = "precision.json"
MOST_EXAMPLES = 64
"""In a batch that is timed: the ratio of the two does not need more."""
_BUDGET_S = 4.0
_LEAST_ROUNDS = 2
_FASTER = 0.95  # bfloat16 costs digits, so it has to be faster by more than chance

Step = Callable[[], object]


@final
@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and the seconds that a step took in each precision."""

    precision: str
    fp32_s: float
    bf16_s: float | None
    """None where training did not get through a step in bfloat16."""


def settled(
    config: TrainConfig, build: Callable[[TrainConfig], Step], *, folder: Path | None
) -> tuple[TrainConfig, Choice | None]:
    """Return ``config`` with a precision instead of ``auto``, and how it was chosen.

    ``build`` makes one training step of a configuration. A choice for the same configuration in
    ``folder`` is taken up again, else a new one is written there; None: it is not kept.

    Raises:
        StateError: the choice in ``folder`` is damaged.
        StorageError: it cannot be written.
    """
    if config.precision != AUTO:
        return config, None
    choice = None if folder is None else _kept(folder / FILE, config)
    if choice is None:
        choice = measured(config, build)
        if folder is not None:
            facts = {"config_hash": config.hash(), **asdict(choice)}
            write_atomically(folder / FILE, json.dumps(facts, indent=1).encode())
    return replace(config, precision=choice.precision), choice


def measured(config: TrainConfig, build: Callable[[TrainConfig], Step]) -> Choice:
    """Time steps in both precisions in turn, after one of each, within a few seconds."""
    steps = {name: build(replace(config, precision=name)) for name in ("fp32", "bf16")}
    times: dict[str, list[float]] = {name: [] for name in steps}
    started = perf_counter()
    for round_ in range(1000):
        if round_ > _LEAST_ROUNDS and perf_counter() - started > _BUDGET_S:
            break
        for name, step in steps.items():
            begun = perf_counter()
            try:
                step()
            except DivergedError:
                if name == "fp32":
                    raise
                return Choice(precision="fp32", fp32_s=times["fp32"][-1], bf16_s=None)
            times[name].append(perf_counter() - begun)
    fp32_s, bf16_s = (median(times[name][1:]) for name in ("fp32", "bf16"))
    chosen = "bf16" if bf16_s < _FASTER * fp32_s else "fp32"
    return Choice(precision=chosen, fp32_s=fp32_s, bf16_s=bf16_s)


def training_step(method: Method, batch: Batch) -> Step:
    """Return one step of both halves on ``batch``, as far as the method takes them together."""
    edge = method.course[0].learner if method.course else method.edge

    def step() -> None:
        upload, _ = edge.step(batch)
        if upload is None or method.cloud is None:
            return
        reply, _ = method.cloud.step(upload)
        if reply is not None:
            edge.receive(reply)

    return step


def choice_text(facts: Mapping[str, object]) -> str:
    """Return what is said of a choice, as a record keeps it.

    >>> choice_text({"precision": "fp32", "fp32_s": 0.2, "bf16_s": 0.5})
    'precision: fp32 (a step here takes 200 ms in fp32 and 500 ms in bf16)'
    """
    times = [facts[f"{name}_s"] for name in ("fp32", "bf16")]
    fp32, bf16 = (f"{1e3 * x:.0f} ms" if isinstance(x, float) else "none" for x in times)
    return f"precision: {facts['precision']} (a step here takes {fp32} in fp32 and {bf16} in bf16)"


def _kept(path: Path, config: TrainConfig) -> Choice | None:
    try:
        facts = json.loads(path.read_bytes())
        if facts.pop("config_hash") != config.hash():
            return None
        choice = Choice(**facts)
    except FileNotFoundError:
        return None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is damaged ({error!r}); remove it to measure again") from error
    if choice.precision not in ("fp32", "bf16"):
        raise StateError(f"{path} names no precision: {choice.precision!r}; remove it")
    return choice
