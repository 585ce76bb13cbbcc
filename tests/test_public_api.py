"""What users build on, written out: names, signatures, settings, flags, exit codes.

A test that fails here says that somebody's program may break. To change one of these on purpose,
change the list in the same commit and tell users in CHANGELOG.md; a removal or a new meaning waits
for the next minor version (0.x) and says there what to do instead. An addition needs a line only.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import FunctionType, UnionType
from typing import Annotated, Any, get_args, get_origin

import pytest

import eaves
from eaves.codecs.base import BYTE_STAGES, TENSOR_STAGES
from eaves.commands.main import COMMANDS, main, parse
from eaves.core.exits import EXITS
from eaves.core.methods import METHODS
from eaves.core.specs import LINKS
from eaves.data.augment import AUGMENTS
from eaves.data.load import DATASETS
from eaves.experiments.auditconfig import ATTACKS, AuditConfig
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.netconfig import (
    AUTH,
    LOGS,
    PREFIXES,
    RULES,
    WHEN_FULL,
    AgentConfig,
    InferConfig,
    ServeConfig,
)
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.settings import variable
from eaves.experiments.siameseconfig import SiameseConfig
from eaves.methods.adversaries import AIMS
from eaves.nets.build import NETS
from eaves.planner.devices import DEVICES
from eaves.planner.phases import INFERENCE, TRAINING
from eaves.planner.search import OBJECTIVES

# Calls, without annotations: mypy checks those, and their text differs between Python versions.
FUNCTIONS = {
    "build_net": "(name, *, classes, input_shape, stem=None)",
    "cut_points": "(net, *, example=None)",
    "exit_head": "(kind, feature_shape, classes)",
    "load_config": "(path)",
    "load_dataset": "(name, *, root, train_samples=None, image_size=None, download=False, "
    "private=())",
    "load_profile": "(path)",
    "parse_codec": "(text)",
    "parse_link": "(text)",
    "plan": "(question, profile=None)",
    "run": "(config, *, net=None, stop=None, resume=False, overwrite=False)",
    "simulate": "(fleet)",
    "split_at": "(net, cut, *, example=None)",
    "take_profile": "(config, *, timed=True, together=True, budget_s=10.0)",
    "with_bottleneck": "(split, feature_shape, wanted, *, ends_open=False)",
}
CLASSES = {
    "Codec": "(tensor_stage, byte_stages=())",
    "Codec.decode": "(self, data, *, limit_bytes=268435456)",
    "Codec.dtype": "property",
    "Codec.encode": "(self, x)",
    "Codec.name": "property",
    "Codec.parts": "(self, x)",
    "ConfidenceAbove": "(*, threshold)",
    "ConfidenceAbove.accepts": "(self, logits_BK)",
    "ConfidenceAbove.scores": "(logits_BK)",
    "ConfidenceAbove.takes": "(self, scores_B)",
    "EntropyBelow": "(*, threshold)",
    "EntropyBelow.accepts": "(self, logits_BK)",
    "EntropyBelow.scores": "(logits_BK)",
    "EntropyBelow.takes": "(self, scores_B)",
    "Fleet": "(*, edges, uploads, period_s, upload_bytes, link, shared_link, serve_fixed_s, "
    "serve_each_s, max_batch=1, max_wait_s=0.0, workers=1, depth=4, poisson=False, seed=0)",
    "LinkSpec": "(*, up_bps=inf, down_bps=inf, delay_s=0.0, jitter_s=0.0, loss=0.0, "
    "packet_bytes=1500, up_j_per_bit=None, down_j_per_bit=None)",
    "LinkSpec.energy_j": "(self, size_bytes, *, up=True)",
    "LinkSpec.expected": "(self, size_bytes, *, up=True)",
    "LinkSpec.transfer": "(self, size_bytes, *, up=True, rng)",
    "PhaseProgress": "(phase, steps, epoch_steps, first_step, progress)",
    "Plan": "(*, scenario, objective, inference, verdicts)",
    "Plan.best": "property",
    "Profile": "(*, subject, machine, payloads_from, samples, fetch, contention, stages, exits, "
    "codecs, peak_bytes, infer_peak_bytes=<factory>)",
    "Profile.codec": "(self, cut, name)",
    "Profile.cuts": "property",
    "Profile.measured": "property",
    "Profile.to_json": "(self)",
    "Profile.uncounted": "property",
    "SplitNet": "(edge, cloud, cut)",
    "StagedNet": "(stages)",
    "StagedNet.forward": "(self, x)",
    "StagedNet.stages": "(self)",
}
# Each with its nearest parent.
ERRORS = {
    "AccessError": "EavesError",
    "BudgetExceeded": "EavesError",
    "ConfigError": "EavesError",
    "CutError": "ConfigError",
    "MisfitError": "ConfigError",
    "DataError": "EavesError",
    "DivergedError": "EavesError",
    "EavesError": "Exception",
    "PayloadError": "EavesError",
    "StateError": "EavesError",
    "StorageError": "EavesError",
}
# Settings of a run: keys of the TOML file, and flags with dashes for underscores.
TRAIN_CONFIG = {
    "method": ("str", "hierarchical"),
    "data": ("str", "digits"),
    "data_root": ("Path or None", None),
    "train_samples": ("int or None", None),
    "image_size": ("int or None", None),
    "augment": ("str", "auto"),
    "net": ("str", "small"),
    "stem": ("str or None", None),
    "cut": ("str or None", None),
    "bottleneck": ("int or str or None", None),
    "exit": ("str", "auto"),
    "codec": ("str", "int8+zstd"),
    "input_codec": ("str", "raw"),
    "reply_codec": ("str", "fp16:scaled"),
    "link": ("str", "unlimited"),
    "send": ("str", "auto"),
    "copies": ("int", 1),
    "cloud_epochs": ("int or None", None),
    "feature_augment": ("str", "none"),
    "edge_slowdown": ("float", 1.0),
    "epochs": ("int", 10),
    "max_steps": ("int or None", None),
    "batch_size": ("int", 128),
    "optimiser": ("str", "auto"),
    "lr": ("float or None", None),
    "seed": ("int", 0),
    "precision": ("str", "fp32"),
    "device": ("str", "auto"),
    "threads": ("int", 1),
    "checkpoint_s": ("float", 60.0),
    "privacy": ("PrivacyConfig", MISSING),
    "mixing": ("MixingConfig", MISSING),
    "siamese": ("SiameseConfig", MISSING),
    "compare": ("str", ""),
    "sweep": ("str", ""),
    "out": ("Path", Path("runs/latest")),
}
# Settings of mixing: keys of the table [mixing], and flags of eaves train as they are.
MIXING_CONFIG = {
    "group": ("int", 4),
    "law": ("str", "orthogonal"),
    "max_share": ("float", 0.8),
    "max_condition": ("float", 4.0),
    "shuffle": ("bool", False),
    "hardened": ("bool", False),
    "allow_guessable": ("bool", False),
    "cloud_ends": ("str or None", None),
}
# Settings of siamese: keys of the table [siamese], and flags of eaves train as they are.
SIAMESE_CONFIG = {
    "start": ("Path or None", None),
    "pairs": ("str", "random"),
    "margin": ("float", 10.0),
    "pair_weight": ("float", 0.01),
    "tune_epochs": ("int", 2),
    "tune_rate": ("float", 0.1),
    "components": ("int", 8),
    "adapt_epochs": ("int", 2),
}
# Settings of what is hidden: keys of the table [privacy], and flags of eaves train as they are.
PRIVACY_CONFIG = {
    "private": ("str", ""),
    "bound": ("str", "auto"),
    "bound_limit": ("float or None", None),
    "noise": ("str", "gaussian"),
    "noise_scale": ("float", 1.0),
    "epsilon": ("float or None", None),
    "epsilon_unit": ("str", "tensor"),
    "delta": ("float", 1e-5),
    "budget": ("float or None", None),
    "weight": ("float", 1.0),
    "aim": ("str", "uniform"),
    "adversaries": ("int", 2),
    "adversary_steps": ("int", 1),
    "ramp": ("float", 0.5),
    "restarts": ("int", 0),
    "keep_training": ("bool", False),
}
AUDIT_CONFIG = {
    "data": ("str or None", None),
    "data_root": ("Path or None", None),
    "private": ("str", ""),
    "attacks": ("str", "quick"),
    "known": ("int", 12_000),
    "unseen": ("bool", False),
    "releases": ("int", 1),
    "sent_batch": ("int or None", None),
    "searched": ("int", 200),
    "half_width": ("float or None", None),
    "max_attack": ("float or None", None),
    "max_balanced": ("float or None", None),
    "max_auc": ("float or None", None),
    "max_tpr": ("float or None", None),
    "effort": ("float", 1.0),
    "patience": ("float", 1.0),
    "seeds": ("int or None", None),
    "seed": ("int", 0),
    "threads": ("int", 1),
    "net": ("str or None", None),
    "gallery": ("int", 6),
    "out": ("Path or None", None),
}
# Settings of a profile and of a plan: fields, and flags with dashes for underscores.
PROFILE_CONFIG = {
    "net": ("str or None", None),
    "stem": ("str or None", None),
    "data": ("str or None", None),
    "data_root": ("Path or None", None),
    "input": ("str or None", None),
    "classes": ("int or None", None),
    "exit": ("str or None", None),
    "batch_size": ("int or None", None),
    "precision": ("str or None", None),
    "device": ("str", "auto"),
    "threads": ("int", 1),
    "codecs": ("str or None", None),
    "input_codecs": ("str or None", None),
}
PLAN_CONFIG = {
    "profile": ("Path or None", None),
    "edge": ("str", "this"),
    "cloud": ("str", "this"),
    "watts": ("str or None", None),
    "edge_slowdown": ("float", 1.0),
    "link": ("str", "3g"),
    "methods": ("str or None", None),
    "cuts": ("str or None", None),
    "samples": ("int or None", None),
    "epochs": ("int", 10),
    "inference": ("bool", False),
    "objective": ("str", "time"),
    "max_memory_mb": ("float or None", None),
    "max_bytes": ("float or None", None),
    "max_epoch_s": ("float or None", None),
    "max_latency_ms": ("float or None", None),
    "max_energy_j": ("float or None", None),
    "min_accuracy": ("float or None", None),
    "max_drop": ("float or None", None),
    "probe": ("int or None", None),
    "private": ("str", ""),
    "adversaries": ("int", 2),
    "group": ("int", 4),
    "components": ("int", 8),
    "fleet": ("int or None", None),
    "shared_link": ("bool", False),
}
# Settings of the commands that go over a network: flags, keys of their TOML files, and variables.
SERVE_CONFIG = {
    "listen": ("str", "127.0.0.1:7443"),
    "credentials": ("Path or None", None),
    "auth": ("str", "certificates"),
    "insecure": ("bool", False),
    "out": ("Path", Path("runs/cloud")),
    "edges": ("int", 1),
    "total_steps": ("int or None", None),
    "final_rate": ("float", 0.0),
    "merge": ("int", 1),
    "merge_rule": ("str", "auto"),
    "merge_wait_s": ("float", 2.0),
    "feature_limit": ("float", 10.0),
    "gradient_limit": ("float", 20.0),
    "quarantine": ("int", 3),
    "history": ("int", 8),
    "keep_uploads": ("float", 0.0),
    "checkpoint_s": ("float", 10.0),
    "store_mb": ("float", 16_000.0),
    "max_message_mb": ("float", 64.0),
    "max_edges": ("int", 1000),
    "waiting_mb": ("float", 1000.0),
    "edge_queries": ("int", 64),
    "queries_per_s": ("float or None", None),
    "calls_per_s": ("float", 20.0),
    "uploads_per_s": ("float or None", None),
    "mb_per_s": ("float or None", None),
    "max_queries": ("int", 256),
    "metrics": ("str or None", None),
    "exit_when_done": ("bool", False),
    "threads": ("int", 1),
    "device": ("str", "auto"),
    "log": ("str", "text"),
}
AGENT_CONFIG = {
    "cloud": ("str", "localhost:7443"),
    "credentials": ("Path or None", None),
    "insecure": ("bool", False),
    "name": ("str", "edge-1"),
    "out": ("Path", Path("runs/agent")),
    "spool_mb": ("float", 512.0),
    "spool_memory_mb": ("float", 64.0),
    "when_full": ("str", "block"),
    "checkpoint_s": ("float", 60.0),
    "overwrite": ("bool", False),
    "max_backoff_s": ("float", 30.0),
    "log": ("str", "text"),
}
INFER_CONFIG = {
    "cloud": ("str or None", "localhost:7443"),
    "credentials": ("Path or None", None),
    "insecure": ("bool", False),
    "name": ("str", "edge-1"),
    "deadline_ms": ("float", 500.0),
    "rule": ("str or None", None),
    "threshold": ("float or None", None),
    "batch_size": ("int or None", None),
    "samples": ("int or None", None),
}
NETWORK_SETTINGS: dict[type, tuple[Mapping[str, tuple[str, object]], str]] = {
    ServeConfig: (SERVE_CONFIG, "EAVES_SERVE_MAX_MESSAGE_MB"),
    AgentConfig: (AGENT_CONFIG, "EAVES_AGENT_WHEN_FULL"),
    InferConfig: (INFER_CONFIG, "EAVES_INFER_BATCH_SIZE"),
}
# Fields and methods of each.
SETTINGS: dict[str, tuple[Mapping[str, tuple[str, object]], list[str]]] = {
    "TrainConfig": (
        TRAIN_CONFIG,
        [
            *("hash", "hides", "in_one_place", "link_spec", "mixes", "sends_once", "spec"),
            *("to_dict", "to_toml", "tunes"),
        ],
    ),
    "ProfileConfig": (PROFILE_CONFIG, ["of"]),
    "PlanConfig": (PLAN_CONFIG, ["choices", "limits", "link_spec", "power", "privacy"]),
}
# Keys of record.json.
RUN_RECORD = [
    *("method", "net", "cut", "data", "codec", "link", "send", "epochs", "steps", "samples"),
    *("train_size", "seed", "config_hash", "config", "versions", "hardware", "accuracy"),
    *("time", "bytes", "memory", "complete", "privacy", "network", "better", "notices", "checksum"),
    *("identity", "format"),
]
RUN_RECORD_METHODS = ["as_json", "to_line"]
# What a user may type.
NAMES = {
    "method": [  # that can be trained
        *(
            "datamix",
            "deepobfuscator",
            "disco",
            "full-cloud",
            "full-edge",
            "hierarchical",
            "nopeek",
        ),
        *("priphit", "siamese", "split"),
    ],
    "method to plan": ["full-cloud", "full-edge", "hierarchical", "priphit", "split"],
    "method to answer by": [
        *("datamix", "full-cloud", "full-edge", "hierarchical", "priphit", "siamese", "split"),
    ],
    "objective": ["bytes", "energy", "latency", "memory", "time"],
    "device": [
        *("a100", "h200", "jetson-nano", "jetson-orin-nano", "laptop", "phone"),
        *("raspberry-pi-4", "raspberry-pi-5", "rtx-2080-ti"),
    ],
    "net": [
        *("compact", "ds_cnn", "mobilevit_xxs", "motion", "res8", "resnet18", "resnet20"),
        *("resnet34", "resnet56", "small", "spindle", "vgg11", "vgg16"),
    ],
    "data": [
        *("cifar10", "digits", "faces", "images", "motion", "spoken-digits", "spoken-words"),
    ],
    "exit": ["auto", "conv", "linear", "mlp"],
    "augment": ["auto", "crop", "crop-flip", "flip", "none", "shift"],
    "send": ["auto", "every-epoch", "once"],
    "precision": ["auto", "bf16", "fp32"],
    "optimiser": ["adam", "auto", "sgd"],
    "bound": ["auto", "clip", "l1", "l2", "tanh"],
    "noise": ["gaussian", "laplace", "none"],
    "aim": ["entropy", "reversal", "uniform"],
    "epsilon unit": ["element", "tensor"],
    "attack": ["attribute", "decoder", "gan", "labels", "optimisation", "rank", "unmixing"],
    "auth": ["certificates", "tokens"],
    "when full": ["block", "drop-oldest"],
    "rule": ["confidence", "entropy"],
    "log": ["json", "text"],
    "link": ["3g", "4g", "unlimited", "wifi"],
    "codec": [
        *("bf16", "fp16", "fp32", "int1", "int2", "int4", "int8", "jpeg", "png", "range"),
        *("raw", "zstd"),
    ],
}


def _flags(names: Iterable[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names]


LOCAL = ("--data", "--data-root", "--net")
OPTIONS = {
    "train": [
        *_flags(
            TRAIN_CONFIG.keys() - {"privacy", "mixing", "siamese"}
            | PRIVACY_CONFIG.keys()
            | MIXING_CONFIG.keys()
            | SIAMESE_CONFIG.keys()
        ),
        *("--config", "--help", "--json", "--overwrite", "--resume"),
    ],
    "serve": [
        *_flags(SERVE_CONFIG),
        *("--config", "--forget", "--help", "--json", "--net", "--release", "--rollback"),
    ],
    "agent": [*_flags(AGENT_CONFIG), *LOCAL, "--config", "--help", "--json"],
    "infer": [*_flags(INFER_CONFIG), *LOCAL, "--config", "--help", "--json"],
    "calibrate": [
        *("--cloud", "--credentials", "--data", "--data-root", "--help", "--insecure", "--json"),
        *("--net", "--plot", "--rule", "--target-accuracy", "--target-share"),
    ],
    "bundle": ["--help", "--out"],
    "export": ["--help", "--json", "--net", "--out"],
    "light": [
        *("--batch-size", "--connect", "--credentials", "--deadline-ms", "--help", "--inputs"),
        *("--insecure", "--json", "--name", "--rule", "--threads", "--threshold"),
    ],
    "certs": ["--help"],
    "certs init": ["--days", "--folder", "--help", "--host", "--renew"],
    "certs device": ["--days", "--folder", "--help", "--renew"],
    "certs token": ["--folder", "--help", "--renew"],
    "certs revoke": ["--folder", "--help"],
    "certs list": ["--folder", "--help", "--json"],
    "audit": [*_flags(AUDIT_CONFIG), "--help", "--json"],
    "report": ["--help", "--no-gallery", "--out"],
    "plan": [
        *_flags(PROFILE_CONFIG | PLAN_CONFIG),
        *("--all", "--help", "--json", "--plot", "--write-config"),
    ],
    "profile": [
        *_flags(PROFILE_CONFIG),
        *("--components", "--help", "--json", "--out", "--seconds", "--show", "--watts"),
    ],
    "nets": ["--help", "--json"],
    "cuts": ["--classes", "--help", "--input", "--json", "--stem"],
    "verify": ["--help", "--json"],
    "devices": ["--help", "--json"],
    "data": ["--data-root", "--download", "--help", "--json", "--synthetic"],
}


def _call(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def _public_members(cls: type) -> list[str]:
    kinds = (FunctionType, property, staticmethod, classmethod)
    own = [name for name, value in vars(cls).items() if isinstance(value, kinds)]
    return sorted(name for name in own if not name.startswith("_"))


def test_the_names_of_the_package() -> None:
    others = ["RunRecord", *SETTINGS, "__version__"]
    classes = [name for name in CLASSES if "." not in name]
    assert sorted(eaves.__all__) == sorted([*FUNCTIONS, *classes, *ERRORS, *others])
    assert dir(eaves) == eaves.__all__
    for name in eaves.__all__:
        getattr(eaves, name)
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        eaves.train  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    assert _call(getattr(eaves, name)) == FUNCTIONS[name]


def test_classes() -> None:
    found = {}
    for name in (name for name in CLASSES if "." not in name):
        cls = getattr(eaves, name)
        found[name] = _call(cls)
        for member in _public_members(cls):
            value = vars(cls)[member]
            called = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            found[f"{name}.{member}"] = "property" if isinstance(value, property) else _call(called)
    assert found == CLASSES


def test_errors() -> None:
    assert {name: getattr(eaves, name).__base__.__name__ for name in ERRORS} == ERRORS
    assert issubclass(eaves.ConfigError, ValueError)


def _described(config: Any) -> dict[str, tuple[str, object]]:
    def text(kind: Any) -> str:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        return " or ".join("None" if k is type(None) else k.__name__ for k in kinds)

    return {field.name: (text(field.type), field.default) for field in fields(config)}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name: str) -> None:
    config, (settings, methods) = getattr(eaves, name), SETTINGS[name]
    found = _described(config)
    assert found == settings
    assert list(found) == list(settings)  # in the order of the help
    assert _public_members(config) == methods


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (PrivacyConfig, PRIVACY_CONFIG),
        (MixingConfig, MIXING_CONFIG),
        (SiameseConfig, SIAMESE_CONFIG),
        (AuditConfig, AUDIT_CONFIG),
    ],
)
def test_settings_of_what_is_hidden_of_mixing_and_of_an_audit(
    config: type, settings: Mapping[str, tuple[str, object]]
) -> None:
    found = _described(config)
    assert found == settings
    assert list(found) == list(settings)


@pytest.mark.parametrize("config", NETWORK_SETTINGS)
def test_settings_over_a_network(config: Any) -> None:
    settings, example = NETWORK_SETTINGS[config]
    found = _described(config)
    assert found == settings
    assert list(found) == list(settings)
    assert example in {variable(PREFIXES[config], name) for name in settings}


def test_fields_of_a_record() -> None:
    assert [field.name for field in fields(eaves.RunRecord)] == RUN_RECORD
    assert {f.name: f.default for f in fields(eaves.RunRecord) if f.default is not MISSING} == {
        "privacy": None,
        "network": None,
        "better": None,
        "checksum": "",
        "identity": None,
        "format": 1,
    }
    assert _public_members(eaves.RunRecord) == RUN_RECORD_METHODS


def test_names_that_users_type() -> None:
    tables: dict[str, Collection[str]] = {
        "method": METHODS,
        "method to plan": TRAINING,
        "method to answer by": INFERENCE,
        "objective": OBJECTIVES,
        "device": DEVICES,
        "net": NETS,
        "data": DATASETS,
        "aim": AIMS,
        "attack": ATTACKS,
        "link": LINKS,
        "codec": TENSOR_STAGES | BYTE_STAGES,
        "auth": AUTH,
        "when full": WHEN_FULL,
        "rule": RULES,
        "log": LOGS,
    }
    for kind, table in tables.items():
        assert sorted(table) == NAMES[kind], kind
    assert sorted(["auto", *AUGMENTS]) == NAMES["augment"]
    assert sorted(["auto", *EXITS]) == NAMES["exit"]
    assert set(NAMES["method to plan"]) == set(METHODS) - {
        "datamix",
        "deepobfuscator",
        "disco",
        "nopeek",
        "siamese",
    }
    assert set(NAMES["method to plan"]) < set(NAMES["method to answer by"])


@pytest.mark.parametrize("setting", ["method", "exit", "augment", "send", "precision", "optimiser"])
def test_a_config_offers_the_names_of_the_tables(setting: str) -> None:
    values: dict[str, Any] = {setting: "no such name"}
    with pytest.raises(eaves.ConfigError) as refused:
        eaves.TrainConfig(**values)
    offered = str(refused.value).partition("choose from: ")[2].split(", ")
    assert sorted(offered) == NAMES[setting]


@pytest.mark.parametrize("setting", ["bound", "noise", "aim", "epsilon_unit"])
def test_what_is_hidden_offers_the_names_of_the_tables(setting: str) -> None:
    values: dict[str, Any] = {setting: "no such name"}
    with pytest.raises(eaves.ConfigError) as refused:
        PrivacyConfig(**values)
    offered = str(refused.value).partition("choose from: ")[2].split(", ")
    assert sorted(offered) == NAMES[setting.replace("_", " ")]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("method to plan", {"methods": "no such name"}),
        ("method to answer by", {"methods": "no such name", "inference": True}),
        ("objective", {"objective": "no such name"}),
        ("device", {"edge": "no such name"}),
    ],
)
def test_a_question_offers_the_names_of_the_tables(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(eaves.ConfigError) as refused:
        eaves.PlanConfig(**settings)
    offered = str(refused.value).partition("choose from: ")[2].split(", ")
    others = {"this", "FILE.json (of eaves profile)"} if kind == "device" else set()
    assert sorted({*offered} - others) == NAMES[kind]


def _help(
    argv: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setenv("COLUMNS", "200")  # of a terminal too narrow, help would break names
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as left:
        parse([*argv, "--help"])
    assert left.value.code == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = [command.rpartition(" ") for command in OPTIONS]
    shown = re.findall(r"^  ([a-z]+) +[A-Z]", _help([], monkeypatch, capsys), re.MULTILINE)
    assert sorted(shown) == sorted({group or name for group, _, name in known})
    usage = re.search(r"\{([a-z,]+)\}", _help(["certs"], monkeypatch, capsys))
    assert usage
    assert sorted(usage[1].split(",")) == sorted(name for group, _, name in known if group)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_a_command_what_its_help_says(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In fewer words: those of the summary are in the help, too."""
    words = {word.strip(".,:;?").lower() for word in COMMANDS[name].split()}
    described = _help([name], monkeypatch, capsys).lower()
    assert {word for word in words if word not in described} <= {"early", "synthetic"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected a command, as in `eaves train`"),
        (["trian"], "did you mean train? the commands are train, serve"),
        (["--json"], "expected a command, got '--json'"),
    ],
)
def test_no_command_is_a_usage_error(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"eaves {eaves.__version__}\n"


def test_help_of_a_plan_names_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(_help(["plan"], monkeypatch, capsys).split())
    for flag, kind in (("methods", "method to answer by"), ("objective", "objective")):
        described = text.partition(f"--{flag} ")[2].partition("(default")[0]
        for name in NAMES[kind]:
            assert re.search(rf"\b{name}\b", described), name


@pytest.mark.parametrize("command", OPTIONS)
def test_flags(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _help(command.split(), monkeypatch, capsys)
    # A flag that is described begins its line, after the frame around the list.
    found = re.findall(r"^\W*(?:-[a-z](?: PATH)?, )?(--[a-z][a-z-]*)", text, re.MULTILINE)
    assert sorted(found) == sorted(OPTIONS[command])


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["data", "digits"], 0),
        (["data", "cifar10"], 1),  # no data root: the world lacks something
        (["train", "--epochs", "0"], 2),
        (["cuts", "no-such-net"], 2),
        (["devices"], 0),
        (["plan", "--edge", "no-such-device"], 2),
        (["plan", "--edge", "no-such-file.json"], 2),
        (["plan", "--edge", "phone", "--cloud", "a100", "--profile", __file__], 1),  # no profile
        (["profile", "--batch-size", "0"], 2),
        (["serve", "no-such-file.toml"], 2),
        (["serve", "no-such-file.toml", "--listen", "7443"], 2),
        (["agent", "no-such-file.toml"], 2),
        (["infer", "no-such-bundle"], 2),
        (["infer", str(Path(__file__).parent)], 1),  # a folder that holds no bundle
        (["calibrate", "no-such-bundle"], 2),
        (["audit", "no-such-bundle"], 2),
        (["audit", "no-such-bundle", "--attacks", "no-such-attack"], 2),
        (["train", "--method", "priphit"], 2),
        (["plan", "--methods", "priphit", "--probe", "1", "--data", "digits"], 2),
        (["bundle", "no-such-file.toml", "--out", "never-made"], 2),
        (["export", "no-such-bundle", "--out", "never-made"], 2),
        (["export", str(Path(__file__).parent), "--out", "never-made"], 1),  # holds no bundle
        (["light", "no-such-folder", "--inputs", "none.npy"], 2),
        (["light", str(Path(__file__).parent), "--inputs", "none.npy"], 1),  # no device.json
        (["audit", str(Path(__file__).parent)], 1),  # a folder that holds no bundle
        (["report"], 2),
        (["report", str(Path(__file__).parent)], 1),  # a folder that holds no run
        (["certs", "list", "--folder", "no-such-folder"], 2),
        (["certs", "device", "nobody", "--folder", "no-such-folder"], 2),
    ],
)
def test_exit_codes(argv: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EAVES_DATA", raising=False)
    assert main(argv) == code


def test_exit_code_of_a_flag_that_does_not_exist() -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "--no-such-flag"])
    assert left.value.code == 2


def test_exit_code_of_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(argv: Sequence[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eaves.commands.main.parse", interrupt)
    assert main([]) == 130
