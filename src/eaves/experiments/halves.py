"""From a configuration or a bundle to one half of a method, for the machine that runs it."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import nn

from eaves.core.net import output_shape
from eaves.core.roles import Upload
from eaves.data.load import interface_of, known_examples
from eaves.data.source import Interface
from eaves.errors import ConfigError, StateError
from eaves.experiments.build import Job, build_job, build_method, uploads_of, wire_of
from eaves.experiments.bundle import (
    bundle_in,
    code_in,
    read_manifest,
    read_weights,
    write_bundle,
)
from eaves.experiments.config import TrainConfig, load_config, net_name, without_places
from eaves.experiments.phases import AugmentedInputs
from eaves.experiments.precision import AUTO, MOST_EXAMPLES, Step, settled
from eaves.experiments.settings import from_values
from eaves.methods.setup import AnswersOnly, Method
from eaves.nets.own import is_own, own_code
from eaves.network.half import Accepts, Half
from eaves.network.keeper import new_session
from eaves.network.policy import Scale, TrainingPolicy
from eaves.network.screening import scale_of
from eaves.network.wire import Terms
from eaves.runtime.files import held

_QUERY_BATCH: Final = 256  # that an edge measures its accuracy with
_PROBES: Final = 8


@final
@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a half is made from: a configuration; or a bundle, with weights and a session."""

    config: TrainConfig
    interface: Interface | None = None
    session: str = ""
    bundle: Path | None = None
    accuracy: Mapping[str, Any] | None = None
    """What the bundle's halves had when it was written; None before training."""
    augment: str = "auto"
    """What suits the data, as an untrained bundle says."""
    train_examples: int | None = None
    """How many the edge's data has, as an untrained bundle says."""
    net: nn.Module | None = None
    """A net that was passed in Python; its weights become those of the half that is built."""
    unfinished: str = ""
    """How far training was, in words, where the bundle was written before its end."""

    @property
    def code(self) -> bytes | None:
        """What is in the file of the net, if it is a user's own."""
        return own_code(self.config.net) if self.net is None and is_own(self.config.net) else None


def open_origin(path: Path, *, net: str | nn.Module | None = None) -> Origin:
    """Read a TOML file, or a bundle (or the folder of a run that has left one).

    ``net`` is the user's own net of a bundle that does not hold its code: ``FILE.py:NAME``, or the
    module. For a TOML file it stands for the net that is named there, which may lie elsewhere on
    this machine. Code that a bundle holds is run when the net is built.

    Raises:
        ConfigError: there is neither, it cannot be, or ``net`` is none of the user's own.
        StateError: the bundle is damaged, or ``net`` is another one.
    """
    if isinstance(net, str) and not is_own(net):
        raise ConfigError(f"expected --net with a net of your own, as FILE.py:NAME, got {net!r}")
    given = None if isinstance(net, str) else net
    if not path.is_dir():
        config = load_config(path)
        if net is not None:
            named = net if isinstance(net, str) else f"own:{type(net).__name__}"
            config = replace(config, net=named)
        return Origin(config=config, net=given)
    folder = bundle_in(path)
    manifest = read_manifest(folder)
    origin = replace(_origin(folder, manifest), net=given)
    config = replace(
        origin.config,
        net=_net(origin, manifest, net),
        data_root=_root_beside(folder, origin.config),
    )
    return replace(origin, config=config)


def _origin(folder: Path, manifest: Mapping[str, Any]) -> Origin:
    """Return what a manifest says, without this machine's part in it."""
    try:
        return Origin(
            config=from_values(TrainConfig, manifest["config"], str(folder / "manifest.json")),
            interface=_interface(manifest["input_shape"], manifest["classes"]),
            session=str(manifest["session"]),
            bundle=folder,
            accuracy=manifest["accuracy"],
            augment=str(manifest.get("augment", "auto")),
            train_examples=_count(manifest.get("train_examples")),
            unfinished=str(manifest.get("unfinished", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"the manifest of {folder} is damaged: {error!r}") from error


def _root_beside(bundle: Path, config: TrainConfig) -> Path | None:
    """Return where the data of a bundle lie, if it still is in the folder of its run."""
    try:
        local = load_config(bundle.parent / "config.toml")
    except ConfigError:
        return config.data_root  # a bundle of an older version may say
    same = without_places(local.to_dict()) == without_places(config.to_dict())
    return local.data_root if same else config.data_root


def _net(origin: Origin, manifest: Mapping[str, Any], net: str | nn.Module | None) -> str:
    """Return the name by which the net of a bundle is built on this machine."""
    folder, name = origin.bundle, net_name(origin.config.net)
    assert folder is not None
    if not name.startswith("own:"):
        if net is not None:
            raise ConfigError(f"the net of {folder} is {name}: leave out the net of your own")
        return name
    if isinstance(net, str):
        sha256, found = manifest.get("net_sha256"), hashlib.sha256(own_code(net)).hexdigest()
        if sha256 not in (None, found):
            raise StateError(
                f"{net} is not the code that the bundle in {folder} was made with: expected "
                f"SHA-256 {sha256}, found {found}"
            )
        return net
    code = None if net is not None else code_in(folder, manifest)
    return name if code is None else f"{code}:{name.removeprefix('own:')}"


def _count(found: object) -> int | None:
    if found is not None and not (type(found) is int and found > 0):
        raise ValueError(f"expected a number of examples, got {found!r}")
    return found


def _interface(shape: object, classes: object) -> Interface:
    if not (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and n > 0 for n in shape)
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
    ):
        raise ValueError("expected three sizes of an input, and classes by their names")
    channels, height, width = shape
    return Interface(input_shape=(channels, height, width), classes=tuple(classes))


def cloud_half(
    origin: Origin, device: str, folder: Path | None = None
) -> tuple[Half, Method, Terms]:
    """Build the cloud half; the edge's weights are neither read nor kept.

    Where the precision is to be chosen, that of the cloud half on this machine is, and the choice
    is kept in ``folder``. Without one nothing is to be learnt, and nothing is measured.

    Raises:
        ConfigError: a method or combination that a cloud cannot serve.
        StateError: the bundle does not hold the cloud's half.
    """
    config = replace(origin.config, device=device)
    _refuse(config, trains=origin.bundle is None)
    interface = origin.interface or interface_of(config.data, image_size=config.image_size)
    if origin.bundle is None and config.spec.sends == "inputs" and interface.mean is None:
        raise ConfigError(
            f"{config.method} normalises inputs in the cloud, which does not know their mean here: "
            "make a bundle where the data is, with `eaves bundle`, and start from it"
        )
    config = _settled(config, interface, folder, origin.net)
    built = build_method(config, interface, net=origin.net)
    method = built.method
    terms = terms_of(config, interface, method, built.cut) | built.net.terms()
    assert method.cloud_predictor is not None
    load_weights(origin, "cloud", method.cloud_modules)
    accepts = Accepts(
        feature_shape=tuple(terms["feature_shape"]),
        dtype=torch.uint8 if config.spec.sends == "inputs" else torch.float32,
        classes=len(interface.classes),
        max_batch=config.batch_size,
        query_batch=max(_QUERY_BATCH, config.batch_size),
        codec=wire_of(config).codec.name,
    )
    learner = method.cloud or AnswersOnly()
    policy = TrainingPolicy(run_uploads=run_uploads(origin), probed=probed_scale(method, interface))
    if config.sends_once and config.spec.sends == "inputs":
        learner = AugmentedInputs(learner, _augment(origin), config.seed)
    half = Half(
        learner=learner,
        predictor=method.cloud_predictor,
        accepts=accepts,
        reply_codec=wire_of(config).reply_codec,
        policy=policy,
    )
    if config.mixes and config.mixing.cloud_ends is not None:  # answers are features, no logits
        half = replace(half, answer_codec=half.reply_codec)
    return half, replace(method, edge_modules={}), terms


def _settled(
    config: TrainConfig, interface: Interface, folder: Path | None, net: nn.Module | None
) -> TrainConfig:
    if config.precision != AUTO:
        return config
    if folder is None or config.in_one_place:
        return replace(config, precision="fp32")
    size = min(config.batch_size, MOST_EXAMPLES)

    def step(tried: TrainConfig) -> Step:
        method = build_method(tried, interface, net=deepcopy(net)).method
        cloud = method.cloud
        assert cloud is not None, "a method that is trained over a network has a cloud half"
        shape = terms_of(tried, interface, method, None)["feature_shape"]
        kind = torch.uint8 if tried.spec.sends == "inputs" else torch.float32
        labels_B = torch.arange(size) % len(interface.classes)
        return partial(cloud.step, Upload(torch.zeros(size, *shape, dtype=kind), labels_B))

    return settled(config, step, folder=folder)[0]


def run_uploads(origin: Origin) -> int:
    """Return how many uploads one edge makes in a run, as far as a cloud knows the data; else 0.

    It knows the size by the configuration, by the bundle, by the name of the data set, or because
    the data are on its own machine.
    """
    config = origin.config
    if not config.spec.networked:
        return 0
    known = config.train_samples or origin.train_examples
    known = known or known_examples(config.data, root=config.data_root)
    return uploads_of(config, known) if known else 0


def probed_scale(method: Method, interface: Interface) -> Scale | None:
    """Return how large the features are of an edge part that has not learnt yet.

    Random inputs of the valid range, dark ones and bright ones go through it. None: what leaves
    the edge are bytes, which are bounded, or nothing that this cloud learns from.
    """
    if not method.edge_modules or method.cloud is None:
        return None
    generator = torch.Generator().manual_seed(0)
    shape = (_PROBES, *interface.input_shape)
    inputs = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    inputs[0], inputs[1] = 0, 255
    with torch.random.fork_rng(devices=[]):
        features, _ = method.edge_predictor.predict(inputs)
    if features is None or not features.dtype.is_floating_point:
        return None
    return scale_of(features)


def _augment(origin: Origin) -> str:
    """Return how inputs that travel once are augmented in the cloud."""
    names = [name for name in (origin.config.augment, origin.augment) if name != "auto"]
    if not names:
        raise ConfigError(
            "full-cloud --send once augments in the cloud, which does not know what suits the "
            "data: name an --augment, or start from a bundle that `eaves bundle` has made"
        )
    return names[0]


def edge_job(origin: Origin, *, trains: bool = True) -> tuple[Job, Terms]:
    """Build the edge half and its data, to train with or to answer; the cloud's half is not kept.

    Raises:
        ConfigError: a combination that cannot work, or data that the bundle is not for.
        DataError: the data set is missing or damaged.
        StateError: the bundle does not hold the edge's half.
    """
    _refuse(origin.config, trains=trains)
    job = build_job(origin.config, origin.net, secret=True, trains=trains)
    ours, theirs = job.dataset.interface, origin.interface
    if theirs is not None and (ours.input_shape, ours.classes) != (
        theirs.input_shape,
        theirs.classes,
    ):
        raise ConfigError(
            f"the bundle is for inputs {theirs.input_shape} of the classes "
            f"{', '.join(theirs.classes)}; {job.config.data} has inputs {ours.input_shape} of the "
            f"classes {', '.join(ours.classes)}"
        )
    load_weights(origin, "edge", job.method.edge_modules)
    terms = terms_of(job.config, ours, job.method, job.cut) | job.net.terms()
    method = replace(job.method, cloud=None, cloud_predictor=None, cloud_modules={})
    return replace(job, method=method), terms


def terms_of(
    config: TrainConfig, interface: Interface, method: Method, cut: str | None
) -> dict[str, Any]:
    """Return what both halves must agree on."""
    edge = method.edge_modules.get("edge")
    shape = interface.input_shape if edge is None else output_shape(edge, interface.input_shape)
    return {
        "method": config.method,
        "net": net_name(config.net),
        "stem": config.stem,
        "cut": cut,
        "bottleneck": config.bottleneck,
        "input_shape": list(interface.input_shape),
        "feature_shape": list(shape),
        "classes": list(interface.classes),
        **({"send": "once"} if config.sends_once else {}),
    }


def facts_of_terms(config: TrainConfig, terms: Terms) -> dict[str, Any]:
    """Return what a manifest says of halves that have no record: untrained, or trained by many."""
    return {
        **{name: terms[name] for name in ("method", "net", "cut", "input_shape", "classes")},
        "data": config.data,
        "codec": wire_of(config).codec.name,
        "config": without_places(config.to_dict()),
        "accuracy": None,
    }


def load_weights(origin: Origin, side: str, modules: Mapping[str, nn.Module]) -> None:
    """Load the bundle's weights of one side, if there is a bundle and the side has any.

    Raises:
        StateError: they are missing, damaged, or of another net.
    """
    if origin.bundle is None or not modules:
        return
    try:
        nn.ModuleDict(dict(modules)).load_state_dict(read_weights(origin.bundle, side))
    except RuntimeError as error:
        raise StateError(f"the weights in {origin.bundle / side} are of another net") from error


def write_untrained(config: TrainConfig, folder: Path) -> None:
    """Write a bundle of both halves as training begins with them, from the data at hand.

    Raises:
        ConfigError: a combination that cannot work, or a folder that holds something.
        DataError: the data set is missing or damaged.
        StorageError: the disk is full.
    """
    _refuse(config, trains=True)
    with held(folder, beside=True):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is not empty; choose another --out, or remove it")
        job = build_job(config)
        terms = terms_of(config, job.dataset.interface, job.method, job.cut)
        known = {"augment": job.augment, "train_examples": len(job.dataset.train)}
        facts = {**facts_of_terms(config, terms), **known}
        sides = {"edge": job.method.edge_modules, "cloud": job.method.cloud_modules}
        write_bundle(folder, sides, facts, session=new_session(), code=job.net.code)


def _refuse(config: TrainConfig, *, trains: bool) -> None:
    if config.spec.sends == "nothing":
        raise ConfigError(
            f"{config.method} sends nothing: train it with `eaves train`, on the device"
        )
    if trains and config.in_one_place:
        raise ConfigError(
            f"{config.method} is trained in one place: train it with `eaves train`, where the data "
            "may be, and take its bundle for `eaves serve` and `eaves infer`"
        )
