"""The table of methods, and that the rest of the package asks it instead of comparing names."""

import re
from pathlib import Path

import pytest

from eaves.core.methods import METHODS, PROTECTING, MethodSpec, method_named
from eaves.data.source import Interface
from eaves.errors import ConfigError
from eaves.experiments.build import build_method, builder_of
from eaves.experiments.config import CHOICES, TrainConfig
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.methods.setup import Method

SOURCE = Path(__file__).parents[2] / "src" / "eaves"
DIGITS = Interface(input_shape=(1, 8, 8), classes=tuple("0123456789"))
# Places that still name methods: prices of the planner, doctests, the name of a table of settings.
LEFT = {"planner": 15, "report": 2, "experiments": 6}


def built(spec: MethodSpec) -> Method:
    private = PrivacyConfig(private="high") if spec.protects else PrivacyConfig()
    config = TrainConfig(method=spec.name, privacy=private, mixing=MixingConfig())
    return build_method(config, DIGITS, secret=False).method


@pytest.mark.parametrize("spec", METHODS.values(), ids=lambda spec: spec.name)
def test_the_halves_of_a_method_are_what_its_facts_say(spec: MethodSpec) -> None:
    method = built(spec)
    assert method.edge.one_way is not spec.waits
    assert (method.sender is not None) == (spec.once != "never")
    assert (method.cloud_predictor is None) == (spec.sends == "nothing")
    assert (method.cloud is not None) == spec.networked
    assert method.edge_first == spec.protects
    assert builder_of(spec).__module__ == f"eaves.methods.{spec.builder.partition(':')[0]}"


def test_names_are_those_of_the_table() -> None:
    assert all(name == spec.name for name, spec in METHODS.items())
    assert CHOICES["method"] == tuple(METHODS)
    assert PROTECTING == ("priphit", "nopeek", "disco", "deepobfuscator")
    with pytest.raises(ConfigError, match="unknown method 'spilt'; choose from: split"):
        method_named("spilt")


def test_no_other_file_compares_names_of_methods() -> None:
    quoted = re.compile("|".join(f'"{name}"' for name in METHODS))
    found = dict.fromkeys(LEFT, 0)
    for path in SOURCE.rglob("*.py"):
        package = path.relative_to(SOURCE).parts[0]
        if package == "methods" or path == SOURCE / "core" / "methods.py":
            continue
        mentions = len(quoted.findall(path.read_text(encoding="utf-8")))
        if mentions:
            found[package] += mentions
    assert all(found[package] <= most for package, most in LEFT.items()), found
