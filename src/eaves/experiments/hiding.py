"""From the settings of privacy to what an edge hides, by which noise, and what that proves."""

from collections.abc import Mapping
from math import prod, sqrt
from typing import Any

from eaves.experiments.config import TrainConfig
from eaves.methods.setup import Hiding
from eaves.privacy.accounting import Budget, guarantee, scale_for, statement
from eaves.privacy.bounds import bound_named
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Keyed

_ANSWERS = 2**31  # seeds of runs are below it
_NORMS = 1.5  # times the usual size of what siamese sends: few examples are cut, none goes far


def hiding_for(
    config: TrainConfig,
    feature_shape: tuple[int, ...],
    private_classes: Mapping[str, tuple[str, ...]],
    *,
    edge_steps: int,
    secret: bool,
) -> Hiding:
    """Return what the edge hides.

    With ``secret`` the keys of the noise are random and kept secret. Without, they come from
    the seed, so that a run can be repeated, and whoever knows the configuration can take the noise
    off: for runs in which nothing leaves the machine.

    Raises:
        BudgetExceeded: training would give away more than the budget allows.
        ConfigError: settings that do not go together.
    """
    privacy, steps = config.privacy, edge_steps * config.privacy.adversary_steps
    hiding = Hiding(
        mechanism=_mechanism(config, feature_shape),
        source=Keyed.secret() if secret else Keyed.from_seed(config.seed),
        answer_source=Keyed.secret() if secret else Keyed.from_seed(config.seed + _ANSWERS),
        attributes={name: len(classes) for name, classes in private_classes.items()},
        loss=privacy.aim,
        weight=privacy.weight,
        adversaries=privacy.adversaries,
        adversary_steps=privacy.adversary_steps,
        ramp_steps=round(privacy.ramp * edge_steps),
        restart_steps=steps // (privacy.restarts + 1) if privacy.restarts else 0,
        keeps_training=privacy.keep_training,
    )
    if privacy.budget is not None:
        budget = Budget(epsilon=privacy.budget, delta=privacy.delta, unit=privacy.epsilon_unit)
        release = hiding.mechanism.release_of(feature_shape)
        budget.expect_within(release, releases=releases(config))
    return hiding


def releases(config: TrainConfig) -> int:
    """Return how often each example travels in training, each time with fresh noise.

    Where it is in one place none does; what is counted is one query in use.
    """
    if config.in_one_place:
        return 1
    return config.copies if config.sends_once else config.cloud_epochs or config.epochs


def _mechanism(config: TrainConfig, feature_shape: tuple[int, ...]) -> Mechanism:
    privacy = config.privacy
    bound = bound_named(*_bound(config, feature_shape))
    if privacy.epsilon is None:
        scale = 0.0 if privacy.noise == "none" else privacy.noise_scale
        return Mechanism(bound=bound, law=privacy.noise, scale=scale)
    # The sensitivities do not depend on the scale.
    release = Mechanism(bound=bound, law=privacy.noise, scale=1.0).release_of(feature_shape)
    scale = scale_for(
        privacy.noise,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sensitivity=release.sensitivity(privacy.epsilon_unit),
        releases=releases(config),
    )
    return Mechanism(bound=bound, law=privacy.noise, scale=scale)


def _bound(config: TrainConfig, feature_shape: tuple[int, ...]) -> tuple[str, float]:
    """Return name and limit of the bound."""
    name, limit = config.privacy.bound, config.privacy.bound_limit
    if name == "auto":
        # Of what siamese sends, this norm reaches half as far as a clip of each value at 3 standard
        # deviations, and does not depend on how the components are turned.
        name = "l2" if config.tunes else "tanh"
    if limit is not None:
        return name, limit
    if not config.tunes:
        return name, 1.0
    reach = {"l2": sqrt(prod(feature_shape)), "l1": prod(feature_shape)}
    return name, _NORMS * reach.get(name, 2.0)


def privacy_facts(
    config: TrainConfig, hiding: Hiding, feature_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return what a record says of what was hidden: the noise, its epsilons, and in words."""
    release = hiding.mechanism.release_of(feature_shape)
    sent, delta = releases(config), config.privacy.delta
    costs = {
        unit: {
            name: _finite(guarantee(release, unit=unit, releases=n, delta=delta).epsilon)
            for name, n in (("per_release", 1), ("total", sent))
        }
        for unit in ("element", "tensor")
    }
    return {
        "private": list(hiding.attributes),
        "bound": _bound(config, feature_shape)[0],
        "noise": hiding.mechanism.law,
        "scale": hiding.mechanism.scale,
        "values": release.values,
        "releases": sent,
        "delta": delta,
        "epsilon": costs,
        "source": hiding.source.about,
        "statement": statement(
            release,
            releases=sent,
            delta=delta,
            source=hiding.source.about,
            labels_sent=not config.in_one_place,
        ),
    }


def _finite(epsilon: float) -> float | None:
    """Return None for infinity, which JSON has no word for."""
    return epsilon if epsilon < float("inf") else None
