"""Training that begins with the weights of a net that already works."""

from pathlib import Path

from torch import Tensor, nn

from eaves.core.methods import METHODS
from eaves.errors import ConfigError, StateError
from eaves.experiments.build import Job
from eaves.experiments.bundle import bundle_in, read_manifest, read_weights
from eaves.experiments.halves import open_origin


def start(job: Job, source: Path) -> None:
    """Give the net of ``job``, a run of siamese, the weights in ``source``, wherever that was cut.

    Raises:
        ConfigError: no bundle of a whole net, or of another net.
        StateError: the bundle is damaged.
    """
    weights = whole_weights(source)
    edge, cloud = (
        modules[side]
        for side, modules in (
            ("edge", job.method.edge_modules),
            ("cloud", job.method.cloud_modules),
        )
    )
    assert isinstance(edge, nn.Sequential)
    assert isinstance(cloud, nn.Sequential)
    for part, prefix in ((edge[0], ""), (cloud[-1], "1.")):
        wanted = part.state_dict()
        found = {name: weights.get(prefix + name) for name in wanted}
        for name, value in found.items():
            if value is None or value.shape != wanted[name].shape:
                raise ConfigError(
                    f"expected --start with a bundle of the net {job.config.net} for these data; "
                    f"that in {source} {'lacks' if value is None else 'has another'} {name}"
                )
        part.load_state_dict(found)


def session_of(source: Path | None) -> str:
    """Return the session of a bundle to start from; empty where it is not there (any more)."""
    if source is None:
        return ""
    try:
        return str(read_manifest(bundle_in(source)).get("session", ""))
    except StateError:
        return ""


def whole_weights(source: Path) -> dict[str, Tensor]:
    """Return the weights of both halves of a bundle, by the names that the whole net has for them.

    Raises:
        ConfigError: there is no bundle, or none of a whole net.
        StateError: the bundle is damaged.
    """
    origin = open_origin(source)
    spec = origin.config.spec
    if origin.bundle is None or spec.whole_net is None or origin.config.bottleneck is not None:
        what = "a configuration" if origin.bundle is None else f"a bundle of {spec.name}"
        known = ", ".join(name for name, spec in METHODS.items() if spec.whole_net is not None)
        raise ConfigError(
            f"expected --start with a bundle of {known} without a bottleneck, got "
            f"{what} in {source}"
        )
    renamed: dict[str, Tensor] = {}
    for side in {prefix.partition(".")[0] for prefix in spec.whole_net}:
        for name, value in read_weights(origin.bundle, side).items():
            for prefix, instead in spec.whole_net.items():
                if name.startswith(prefix):
                    renamed[instead + name.removeprefix(prefix)] = value
    return renamed
