"""What a bundle that mixes exposes, and how much of it can be taken apart.

Dimension key:  N examples   G groups   K queries, and sources, of a group   C channels
                H, W height and width
"""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import final

import torch
from torch import Tensor

from eaves.audit.decoder import Decoder, DecoderPlan
from eaves.audit.filters import FILTERS, usable
from eaves.audit.findings import Progress, Stage, Unmixed
from eaves.audit.intercept import Guess, Intercept
from eaves.audit.knowledge import Exposure, Known, Victims
from eaves.audit.recovery import nearest
from eaves.audit.scene import Pictures, Scene, WhiteBox
from eaves.audit.unmixing import BESIDE, UNMIXERS, UnmixPlan, take_apart
from eaves.core.roles import PrivateLabels
from eaves.errors import ConfigError
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.build import law_of
from eaves.experiments.exposing import OPEN_PATH, Examples, Subject
from eaves.privacy.sources import Keyed, Pseudo, Source

_MOST_GROUPS = 128
_MOST_VALUES = 32 * 2**20  # of the attacker's own features: 128 MiB as float32
_POOL = 4


@final
class MixtureAudit:
    """All attempts to take mixtures of the victims' features apart.

    The attacker has the edge part, knows the law of the coefficients and of the noise, and which
    queries form a group. What counts as recovered is a source as it was before any noise.
    """

    def __init__(self, subject: Subject, config: AuditConfig, known: Examples, victims: Examples):
        self._subject, self._config = subject, config
        self._law = law_of(subject.config.mixing)
        self._generator = torch.Generator().manual_seed(config.seed)
        groups = min(_MOST_GROUPS, len(victims.features) // self._law.group)
        groups -= groups % _POOL
        if groups < 2 * _POOL:
            raise ConfigError(
                f"expected {2 * _POOL * self._law.group} victims or more to take mixtures apart, "
                f"got {len(victims.features)}"
            )
        most = max(2 * self._law.group, _MOST_VALUES // prod(known.features.shape[1:]))
        self._victims = self._some(victims, groups * self._law.group)
        self._known = self._some(known, most)
        self._best: tuple[float, str, Guess] | None = None
        self.gallery: dict[str, Tensor] = {}
        """Images (N, C, H, W) uint8: inputs, their mixtures, and what the best attack made of them.
        """

    def run(self) -> Iterator[Stage | Progress | Unmixed]:
        """Yield how much each of :data:`UNMIXERS` recovers, but for those that need larger maps."""
        seen, plan = self._intercept(), self._plan()
        can, sources = usable(seen.queries), self._grouped(_maps(self._victims.features))
        for name in (n for n in UNMIXERS if n not in FILTERS or n in can):
            yield Stage(what=f"mixtures: {name}")
            unmixed, guess = take_apart(name, seen, sources, plan=plan, generator=self._generator)
            found = unmixed.correlation.value
            if name not in BESIDE and (self._best is None or found > self._best[0]):
                self._best = found, name, guess
            yield unmixed
        if self._config.gallery:
            yield Stage(what="mixtures: pictures")
            yield from self._draw(seen, sources)

    def _draw(self, seen: Intercept, sources_GKCHW: Tensor) -> Iterator[Progress]:
        """Show a few mixtures as images, by a decoder of features that were not mixed."""
        n = min(self._config.gallery, len(self._victims.images))
        own, victims = (_pictures(examples) for examples in (self._known, self._victims))
        box, shape = WhiteBox(self._subject.edge, self._subject.path), (-1, *self._shape)
        noised = self._subject.path.seen(
            self._victims.features, releases=1, generator=self._generator
        )[:n]
        few = victims.at(torch.arange(n))
        scene = Scene(attribute="", known=own, victims=few, features=noised.unsqueeze(1), box=box)
        decoder = Decoder(
            DecoderPlan(allowance=replace(self._plan().net.allowance, batch_size=128))
        )
        yield from decoder.learn(scene, own, generator=self._generator)
        assert self._best is not None  # some attack needs no map at all
        _, name, guess = self._best
        made = {
            "mixture": seen.queries,
            f"taken apart by {name}": nearest(guess, sources_GKCHW),
            "without mixing": noised,
        }
        self.gallery = {"mixtures/input": few.images}
        for kind, z in made.items():
            z = z.reshape(shape)[:n].float()
            images = decoder.invert(z, few.labels, generator=self._generator)
            self.gallery[f"mixtures/{kind}"] = images

    def _some(self, examples: Examples, most: int) -> Examples:
        """Return random examples, for data may be in the order of their classes, and bound them."""
        chosen = torch.randperm(len(examples.features), generator=self._generator)[:most]
        private = examples.private
        return Examples(
            images=examples.images[chosen],
            features=self._subject.mechanism.bounded(examples.features[chosen]),
            labels=examples.labels[chosen],
            private=PrivateLabels(private.labels_BA[chosen], private.names),
        )

    @property
    def map_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of one source as a map."""
        return tuple(_maps(self._victims.features).shape[1:])

    @property
    def plan(self) -> UnmixPlan:
        """What attacks on mixtures may spend."""
        return self._plan()

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self._victims.features.shape[1:])

    def _plan(self) -> UnmixPlan:
        plan = UnmixPlan(pool_groups=_POOL, filter=_filter(_maps(self._victims.features)))
        allowance = plan.net.allowance.scaled(self._config.effort, patience=self._config.patience)
        return replace(plan, net=replace(plan.net, allowance=allowance))

    def _intercept(self) -> Intercept:
        """Return what the cloud sees of the victims, after the codec, and what it practises on."""
        source, sources = Keyed.from_seed(self._config.seed), self._victims.features
        mixing = self._law.draw(len(sources) // self._law.group, source)
        queries = mixing.mix(self._noised(sources, source))
        return Intercept(
            queries=self._grouped(_maps(self._subject.path.carried(queries))),
            own=_maps(self._known.features),
            mix=self._practice,
            draw=lambda n, generator: self._law.draw(n, Pseudo(generator)).matrix_GKK,
            plaintext=self._grouped(_maps(sources))[:, 0],
            matrices=mixing.matrix_GKK,
        )

    def _practice(self, sources_BKCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Mix sources of the attacker's own by the public law, and carry them as victims' are."""
        source = Pseudo(generator)
        noisy = self._noised(sources_BKCHW.flatten(0, 1), source)
        mixing = self._law.draw(len(sources_BKCHW), source)
        return self._subject.path.carried(mixing.mix(noisy)).reshape(sources_BKCHW.shape)

    def _noised(self, bounded: Tensor, source: Source) -> Tensor:
        return self._subject.mechanism.noised(bounded, source)

    def _grouped(self, sources_NCHW: Tensor) -> Tensor:
        return sources_NCHW.reshape(-1, self._law.group, *sources_NCHW.shape[1:])


def mixed_exposure(
    subject: Subject,
    exposure: Exposure,
    known: Examples,
    victims: Examples,
    *,
    generator: torch.Generator,
) -> Exposure:
    """Return single mixtures as examples: each has the private class of its strongest source.

    Noise is in them already, so nothing is added to them any more.
    """
    theirs, ours = (
        _queries(subject, examples, exposure.attribute, generator=generator)
        for examples in (victims, known)
    )
    return replace(
        exposure,
        known=Known(features=ours[0], labels=torch.zeros_like(ours[1]), private=ours[1]),
        victims=Victims(
            features=theirs[0].unsqueeze(1), labels=torch.zeros_like(theirs[1]), private=theirs[1]
        ),
        path=OPEN_PATH,
    )


def _queries(
    subject: Subject, examples: Examples, attribute: str, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return mixtures as the cloud decodes them, and a private class for each.

    What does not fill a group is left out.
    """
    law, source = law_of(subject.config.mixing), Pseudo(generator)
    order = torch.randperm(len(examples.features), generator=generator)
    order = order[: len(order) // law.group * law.group]
    noisy = subject.mechanism.release(examples.features[order], source)
    mixing = law.draw(len(order) // law.group, source)
    queries = subject.path.carried(mixing.mix(noisy))
    first = torch.arange(mixing.groups)[:, None] * law.group
    strongest = (first + mixing.matrix_GKK.abs().argmax(dim=2)).flatten()
    return queries, examples.private.of(attribute)[order][strongest]


def _filter(sources_NCHW: Tensor) -> str:
    """Return what ICA looks at: differences of neighbours, where there are neighbours."""
    return "gradient" if "gradient" in usable(sources_NCHW[None]) else "raw"


def _pictures(examples: Examples) -> Pictures:
    """Return examples as images without known labels."""
    nothing = torch.zeros(len(examples.images), dtype=torch.int64)
    return Pictures(images=examples.images, labels=nothing, private=nothing)


def _maps(features: Tensor) -> Tensor:
    """Return features as maps (N, C, H, W), whatever their shape."""
    if features.ndim == 4:
        return features
    return features.reshape(len(features), -1, 1, 1)
