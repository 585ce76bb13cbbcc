"""Train and run one neural network divided between an edge device and a cloud.

The names below are the public ones; each is loaded when it is first used, so that importing
``eaves`` alone loads no torch.

>>> import eaves
>>> eaves.cut_points(eaves.build_net("resnet20", classes=10, input_shape=(3, 32, 32)))
('stem', 'layer1', 'layer2', 'layer3')
"""

import sys

__version__ = "0.1.0"

# Neither typing nor importlib is imported: they take longer than all else here, and the command
# line means to handle signals before anyone can press Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eaves.codecs.base import Codec, parse_codec
    from eaves.core.bottleneck import with_bottleneck
    from eaves.core.exits import exit_head
    from eaves.core.net import SplitNet, StagedNet, cut_points, split_at
    from eaves.core.rules import ConfidenceAbove, EntropyBelow
    from eaves.core.specs import LinkSpec, parse_link
    from eaves.data.load import load_dataset
    from eaves.errors import (
        AccessError,
        BudgetExceeded,
        ConfigError,
        CutError,
        DataError,
        DivergedError,
        EavesError,
        MisfitError,
        PayloadError,
        StateError,
        StorageError,
    )
    from eaves.experiments.config import TrainConfig, load_config
    from eaves.experiments.planconfig import PlanConfig, ProfileConfig
    from eaves.experiments.planning import plan
    from eaves.experiments.profiling import take_profile
    from eaves.experiments.record import RunRecord
    from eaves.experiments.run import PhaseProgress, run
    from eaves.nets.build import build_net
    from eaves.planner.profile import Profile, load_profile
    from eaves.planner.search import Plan
    from eaves.planner.simulate import Fleet, simulate

_HOMES = {
    "codecs.base": ("Codec", "parse_codec"),
    "core.bottleneck": ("with_bottleneck",),
    "core.exits": ("exit_head",),
    "core.net": ("SplitNet", "StagedNet", "cut_points", "split_at"),
    "core.rules": ("ConfidenceAbove", "EntropyBelow"),
    "core.specs": ("LinkSpec", "parse_link"),
    "data.load": ("load_dataset",),
    "errors": (
        "AccessError",
        "BudgetExceeded",
        "ConfigError",
        "CutError",
        "DataError",
        "DivergedError",
        "EavesError",
        "MisfitError",
        "PayloadError",
        "StateError",
        "StorageError",
    ),
    "experiments.config": ("TrainConfig", "load_config"),
    "experiments.planconfig": ("PlanConfig", "ProfileConfig"),
    "experiments.planning": ("plan",),
    "experiments.profiling": ("take_profile",),
    "experiments.record": ("RunRecord",),
    "experiments.run": ("PhaseProgress", "run"),
    "nets.build": ("build_net",),
    "planner.profile": ("Profile", "load_profile"),
    "planner.search": ("Plan",),
    "planner.simulate": ("Fleet", "simulate"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AccessError",
    "BudgetExceeded",
    "Codec",
    "ConfidenceAbove",
    "ConfigError",
    "CutError",
    "DataError",
    "DivergedError",
    "EavesError",
    "EntropyBelow",
    "Fleet",
    "LinkSpec",
    "MisfitError",
    "PayloadError",
    "PhaseProgress",
    "Plan",
    "PlanConfig",
    "Profile",
    "ProfileConfig",
    "RunRecord",
    "SplitNet",
    "StagedNet",
    "StateError",
    "StorageError",
    "TrainConfig",
    "__version__",
    "build_net",
    "cut_points",
    "exit_head",
    "load_config",
    "load_dataset",
    "load_profile",
    "parse_codec",
    "parse_link",
    "plan",
    "run",
    "simulate",
    "split_at",
    "take_profile",
    "with_bottleneck",
]


def __getattr__(name: str) -> "Any":
    """Load a public name from its home."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'eaves' has no attribute {name!r}")
    home = f"eaves.{_HOME_OF[name]}"
    __import__(home)
    return getattr(sys.modules[home], name)


def __dir__() -> list[str]:
    return list(__all__)
