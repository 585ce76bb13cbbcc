"""What a bundle exposes: its edge half, the features it sends, and the attacker's own examples.

Dimension key:  N examples   R releases of each   ... the shape of the features
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from eaves.audit.knowledge import Exposure, Known, Victims
from eaves.audit.release import ReleasePath
from eaves.audit.scene import Pictures, Scene, WhiteBox
from eaves.codecs.base import Codec
from eaves.core.roles import PrivateLabels
from eaves.data.load import DATASETS, load_dataset
from eaves.data.source import Source, subset
from eaves.errors import ConfigError
from eaves.experiments.auditconfig import REBUILDING, AuditConfig
from eaves.experiments.build import build_method, wire_of
from eaves.experiments.bundle import read_manifest, read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import load_weights, open_origin
from eaves.privacy.bounds import Clip
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Keyed

_AT_ONCE = 256
_IMAGE_CHANNELS = (1, 3)
_ANY_WIDTH = 0.49
OPEN = Mechanism(bound=Clip(1e30), law="none", scale=0.0)
"""What does nothing to features: that of a method that shields none."""
OPEN_PATH = ReleasePath(mechanism=OPEN)
"""A path on which nothing is done to features: neither noise nor codec."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Raw inputs, what the edge part makes of them before any shield, and labels.

    The net was trained on none of the first ``unseen``.
    """

    images: Tensor
    features: Tensor
    labels: Tensor
    private: PrivateLabels
    unseen: int = 0


@final
class Subject:
    """A trained bundle, opened by an attacker who has everything but the noise.

    Raises:
        ConfigError: nothing is sent, no private attribute is named where one is to be read, an
            attack cannot be made, or the data are of another shape.
        DataError: the data set is missing or damaged.
        StateError: the bundle is damaged.
    """

    def __init__(self, source: Path, config: AuditConfig):
        origin = open_origin(source, net=config.net)
        if origin.bundle is None:
            raise ConfigError(f"expected a bundle, or the folder of a run, got {source}")
        self.folder, self.config, self._audit = origin.bundle, _of(origin.config, config), config
        if self.config.spec.sends != "features":
            what = {"nothing": "nothing", "inputs": "the inputs themselves"}[self.config.spec.sends]
            raise ConfigError(f"{self.config.method} sends {what}: there are no features to audit")
        _expect_attackable(self.config, config)
        self.dataset = load_dataset(
            self.config.data,
            root=self.config.data_root,
            image_size=self.config.image_size,
            private=self.config.privacy.attributes,
        )
        interface = origin.interface or self.dataset.interface
        if interface.input_shape != self.dataset.train.input_shape:
            raise ConfigError(
                f"the bundle is for inputs {interface.input_shape}; {self.config.data} has inputs "
                f"{self.dataset.train.input_shape}"
            )
        built = build_method(replace(origin.config, device="cpu"), interface, net=origin.net)
        load_weights(origin, "edge", built.method.edge_modules)
        self.edge: nn.Module = built.method.edge_modules["edge"]
        self.mechanism = OPEN if built.hiding is None else built.hiding.mechanism
        self.codec: Codec = wire_of(self.config).codec
        self.path = ReleasePath(
            mechanism=self.mechanism,
            codec=self.codec,
            batch_size=config.sent_batch or self.config.batch_size,
        )
        self._origin = origin
        rebuilding = [name for name in config.named if name in REBUILDING]
        if rebuilding and not self.sees_images:
            raise ConfigError(
                f"{self.config.data} is not made of images, which alone are rebuilt: leave out "
                f"{', '.join(rebuilding)}"
            )

    @property
    def sees_images(self) -> bool:
        """Whether inputs are images, which alone can be rebuilt and shown."""
        return self.dataset.train.input_shape[0] in _IMAGE_CHANNELS

    @property
    def shields(self) -> bool:
        """Whether the method does anything to features before they leave."""
        return self.mechanism is not OPEN

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says of the bundle."""
        config, manifest = self.config, read_manifest(self.folder)
        return {
            **{name: getattr(config, name) for name in ("method", "net", "bottleneck")},
            "data": self.dataset.name,
            **{name: getattr(config, name) for name in ("codec", "train_samples", "seed")},
            "cut": manifest["cut"],
            "accuracy": self._origin.accuracy,
            "law": self.mechanism.law,
            "scale": self.mechanism.scale,
            "privacy": manifest.get("privacy"),
            "classes": list(self.dataset.classes),
            "terms": DATASETS[config.data.partition(":")[0]].terms,
            "session": self._origin.session,
            "folder": str(self.folder),
        }

    def cloud_for(self, attribute: str, *, answers: int | None = None) -> nn.Module:
        """Return the cloud part with an answer for each class of ``attribute``, or so many.

        Its weights are new; where features were tuned, those of the bundle, but for layers that
        had other answers: the transfer attack of the paper.
        """
        classes = self.dataset.private_classes[attribute]
        if answers is not None:
            classes = tuple(map(str, range(answers)))
        interface = replace(self.dataset.interface, classes=classes)
        seeded = replace(self._origin.config, seed=self._audit.seed, device="cpu")
        method = build_method(seeded, interface, net=self._origin.net).method
        if self.config.tunes:
            _transfer(self.folder, method.cloud_modules)
        head = method.edge_modules.get("head", nn.Identity())  # what follows the cloud, if anything
        return nn.Sequential(method.cloud_modules["cloud"], head)

    def attacker(self) -> Examples:
        """Return the attacker's examples: of the training and the validation set.

        First what the net was not trained on, as far as there is any: the rest of the training set,
        and the validation set.
        """
        train, valid, most = self.dataset.train, self.dataset.valid, self._audit.known
        order = subset(len(train), len(train))
        trained = min(self.config.train_samples or len(train), len(train))
        rest = order[trained:][:most]
        parts = [self._examples(train, rest)] if len(rest) else []
        if valid is not None:
            parts.append(self._examples(valid, subset(len(valid), min(most, len(valid)))))
        unseen = sum(len(part.features) for part in parts)
        if not self._audit.unseen and len(rest) < most:
            parts.append(self._examples(train, order[:trained][: most - len(rest)]))
        if not parts:
            raise ConfigError(
                f"expected examples that the net was not trained on, for --unseen; it was trained "
                f"on all {len(train)}: leave --unseen out"
            )
        return replace(_together(parts), unseen=unseen)

    def victims(self) -> Examples:
        """Return the test set."""
        return self._examples(self.dataset.test, torch.arange(len(self.dataset.test)))

    def _examples(self, source: Source, rows: Tensor) -> Examples:
        images, features, labels, private = [], [], [], []
        edge = self.edge.eval()
        for rows_B in torch.split(rows, _AT_ONCE):
            batch = source.fetch(rows_B)
            with torch.no_grad():
                features.append(edge(batch.inputs).float())
            images.append(batch.inputs)
            labels.append(batch.labels)
            none_B0 = torch.zeros(len(rows_B), 0, dtype=torch.int64)  # nothing private was named
            private.append(none_B0 if batch.private is None else batch.private.labels_BA)
        return Examples(
            images=torch.cat(images),
            features=torch.cat(features),
            # Where training is in one place no label travels, and the attacker has none.
            labels=torch.zeros(len(rows)).long() if self.config.in_one_place else torch.cat(labels),
            private=PrivateLabels(torch.cat(private), self.dataset.private),
        )

    def sent(self, features: Tensor) -> Tensor:
        """Return what the cloud decodes for features (N, ...), all releases: (N, R, ...)."""
        return self.path.released(
            self.mechanism.bounded(features),
            releases=self._audit.releases,
            source=Keyed.from_seed(self._audit.seed),
            seed=self._audit.seed,
        )


def exposure_of(
    subject: Subject, attribute: str, known: Examples, victims: Examples, config: AuditConfig
) -> Exposure:
    """Return one attribute as the cloud could see it."""
    return Exposure(
        attribute=attribute,
        known=Known(
            features=subject.mechanism.bounded(known.features),
            labels=known.labels,
            private=known.private.of(attribute),
            unseen=known.unseen,
        ),
        victims=Victims(
            features=subject.sent(victims.features),
            labels=victims.labels,
            private=victims.private.of(attribute),
        ),
        path=subject.path,
        half_width=config.half_width or _ANY_WIDTH,
    )


def unshielded(exposure: Exposure, known: Examples, victims: Examples) -> Exposure:
    """Return the same with the features as they are before bound, noise and codec."""
    return replace(
        exposure,
        known=replace(exposure.known, features=known.features),
        victims=replace(exposure.victims, features=victims.features.unsqueeze(1)),
        path=OPEN_PATH,
    )


def scene_of(subject: Subject, exposure: Exposure, known: Examples, victims: Examples) -> Scene:
    """Return the same as images, for attacks that rebuild them."""
    return Scene(
        attribute=exposure.attribute,
        known=_pictures(known, exposure.attribute),
        victims=_pictures(victims, exposure.attribute),
        features=exposure.victims.features,
        box=WhiteBox(subject.edge, subject.path, releases=exposure.victims.releases),
    )


def _pictures(examples: Examples, attribute: str) -> Pictures:
    return Pictures(
        images=examples.images, labels=examples.labels, private=examples.private.of(attribute)
    )


def _transfer(bundle: Path, modules: Mapping[str, nn.Module]) -> None:
    """Load the weights of the bundle's cloud half into what has their shape."""
    part = nn.ModuleDict(dict(modules))
    shapes = {name: value.shape for name, value in part.state_dict().items()}
    known = read_weights(bundle, "cloud")
    fitting = {name: value for name, value in known.items() if shapes.get(name) == value.shape}
    part.load_state_dict(fitting, strict=False)


def _of(config: TrainConfig, audit: AuditConfig) -> TrainConfig:
    """Return the bundle's configuration with the data and attributes of the audit."""
    private = audit.private or config.privacy.private
    base = config.data.partition(":")[0]  # as in --data faces: the bundle's own task on them
    return replace(
        config,
        data=audit.data if audit.data and audit.data != base else config.data,
        data_root=audit.data_root or config.data_root,
        privacy=replace(config.privacy, private=private),
    )


def _expect_attackable(config: TrainConfig, audit: AuditConfig) -> None:
    """Refuse an attack that was named and cannot be made; a set of attacks goes without it."""
    if audit.reads and not (config.privacy.attributes or config.mixes):
        raise ConfigError(
            "name what an attacker would like to know, as in --private Male; or ask for no "
            "more than whose it is: --attacks rank"
        )
    if "unmixing" in audit.named and not config.mixes:
        raise ConfigError(f"{config.method} does not mix: leave the attack unmixing out")
    if "rank" in audit.named and config.mixes:
        raise ConfigError(
            f"{config.method} sends mixtures, and mixtures have no owner: leave the attack rank out"
        )


def _together(parts: list[Examples]) -> Examples:
    if len(parts) == 1:
        return parts[0]
    return Examples(
        images=torch.cat([part.images for part in parts]),
        features=torch.cat([part.features for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        private=PrivateLabels(
            torch.cat([part.private.labels_BA for part in parts]), parts[0].private.names
        ),
    )
