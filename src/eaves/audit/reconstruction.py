"""One attack that rebuilds the victims' images, from the attacker's first step to the finding.

A part of the attacker's images is kept from the inverter. What becomes of them shows the attacker
what its reconstructions are like: from those it learns to read the private attribute in images as
poor as the victims'.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace
from time import perf_counter
from typing import final

import torch
from torch import Tensor, nn

from eaves.audit.findings import Effort, Finding, Likeness, Progress, Reconstruction
from eaves.audit.inverters import Inverter
from eaves.audit.learners import drawing_from
from eaves.audit.scene import Pictures, Scene, WhiteBox, mean_images
from eaves.audit.similarity import likeness
from eaves.audit.verdict import Planted
from eaves.audit.viewer import Album, View, ViewerPlan, view
from eaves.core.ssim import WHITE
from eaves.errors import ConfigError
from eaves.privacy.sources import Pseudo

_KEPT = 0.25  # of the attacker's images
_TESTS = 0.2  # of the kept ones
_COPIES = 3  # of each kept image, with other noise: more reconstructions to learn from
_FEWEST = 40
_CONTROL, _CONTROL_VICTIMS = 1_500, 48  # images of a control
_LARGE = 32  # pixels of a side from which on an early cut halves it
_SEED = 0  # the attacker's images are divided in the same way for every scene


def reconstruct(
    inverter: Inverter,
    scene: Scene,
    *,
    viewer: ViewerPlan | None = None,
    generator: torch.Generator,
) -> Iterator[Progress | Reconstruction]:
    """Let ``inverter`` rebuild the victims' images; yield progress, then what came of it.

    An inverter that can take only so many victims gets a random part of them. The same generator
    state gives the same finding but for its times, on the same machine, unless time ends a
    training or a search.

    Raises:
        ConfigError: fewer than 40 images of the attacker's own, or fewer than 2 victims.
    """
    start_s, known = perf_counter(), scene.known
    own, lessons, tests = _divided(known, inverter.most)
    victims, seen = _chosen(scene, inverter.most, generator)
    yield from inverter.learn(scene, own, generator=generator)
    made = yield from _invert(inverter, seen, victims, generator)
    if inverter.most is None and scene.box.path.varies:
        lessons = lessons.at(torch.arange(len(lessons)).repeat(_COPIES))
    album = Album(
        attack=inverter.name,
        originals=own,
        lessons=(yield from _practise(inverter, scene, lessons, generator)),
        tests=(yield from _practise(inverter, scene, tests, generator)),
        victims=made,
        classes=1 + int(known.private.max()),
    )
    best = yield from view(album, viewer or ViewerPlan(), generator=generator)
    effort = Effort(
        known=len(known),
        rounds=inverter.rounds,
        time_s=perf_counter() - start_s,
        planned=inverter.planned,
        ended_by_time=inverter.ended_by_time,
    )
    yield _finding(scene, victims, made, effort, best, inverter)


def rebuilding_control(
    inverter: Inverter, scene: Scene, *, generator: torch.Generator
) -> Iterator[Progress | Planted]:
    """Positive control: rebuild images from what surely holds them; yield progress, and the result.

    The release is an early one: a single random convolution without noise, behind the codec of the
    attack. Images are a part of the attacker's own, and each round of the attack is made.

    Raises:
        ConfigError: fewer than 40 images of the attacker's own.
    """
    start_s = perf_counter()
    own, kept, _ = _divided(scene.known, None)  # no generator of images has seen what is kept
    own = own.at(torch.arange(min(_CONTROL, len(own))))
    victims = kept.at(torch.arange(min(_CONTROL_VICTIMS, len(kept))))
    box = WhiteBox(EarlyCut(own.shape), scene.box.path.quiet().unbounded())
    bounded = box.features_of(victims.images)
    sent = box.path.released(bounded, releases=1, source=Pseudo(generator), seed=_SEED)
    early = replace(scene, known=own, victims=victims, features=sent, box=box)
    yield from inverter.learn(early, own, generator=generator)
    made = yield from _invert(inverter, early.seen, victims, generator)
    found = Reconstruction(
        attack=inverter.name,
        likeness=likeness(made.images, victims.images),
        mean_image=_likeness_of(own.images.float().mean(0, keepdim=True), victims),
        mean_image_of_label=None,
        effort=Effort(known=len(own), rounds=inverter.rounds, time_s=perf_counter() - start_s),
    )
    yield Planted.rebuilt(inverter.name, found)


@final
class EarlyCut(nn.Module):
    """Images (B, C, H, W) in 0..255 -> features of one random convolution, in [-1, 1].

    It halves the sides of images that have 32 pixels or more, as first layers do.
    """

    def __init__(self, image_shape: tuple[int, ...], *, channels: int = 8):
        super().__init__()
        with drawing_from(torch.Generator().manual_seed(_SEED)):
            stride = 2 if min(image_shape[1:]) >= _LARGE else 1
            self.conv = nn.Conv2d(image_shape[0], channels, 3, stride=stride, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return features (B, 8, H, W)."""
        z: Tensor = self.conv(2 * x_BCHW.float() / WHITE - 1)
        return torch.tanh(2 * z)


def _finding(
    scene: Scene, victims: Pictures, made: Pictures, effort: Effort, best: View, by: Inverter
) -> Reconstruction:
    known = scene.known
    of_label = mean_images(known, scene.label_classes)[victims.labels]
    notes = [f"{len(victims)} of {len(scene.victims)} victims", by.note]
    if scene.box.path.exact:
        notes.append("features without noise and codec")
    read = Finding(
        attack=by.name,
        attacker=best.learned_from,
        attribute=scene.attribute,
        reading=best.reading,
        effort=replace(effort, ended_by_time=effort.ended_by_time or best.ended_by_time),
        held_out=best.held_out,
        note=best.note,
    )
    return Reconstruction(
        attack=by.name,
        likeness=likeness(made.images, victims.images),
        mean_image=_likeness_of(known.images.float().mean(0, keepdim=True), victims),
        mean_image_of_label=_likeness_of(of_label, victims),
        effort=effort,
        read=read,
        note="; ".join(note for note in notes if note),
    )


def _divided(known: Pictures, most: int | None) -> tuple[Pictures, Pictures, Pictures]:
    """Return what the inverter learns from, and what is kept: for lessons and for tests."""
    if len(known) < _FEWEST:
        raise ConfigError(
            f"expected {_FEWEST} or more images of the attacker's own, got {len(known)}"
        )
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(_SEED))
    kept = round(_KEPT * len(known))
    used = min(kept, most or kept)
    tests = round(_TESTS * used)
    return known.at(order[kept:]), known.at(order[tests:used]), known.at(order[:tests])


def _chosen(scene: Scene, most: int | None, generator: torch.Generator) -> tuple[Pictures, Tensor]:
    """Return the victims that are attacked, and what the cloud saw of them."""
    if len(scene.victims) < 2:
        raise ConfigError(f"expected 2 victims or more, got {len(scene.victims)}")
    rows = torch.randperm(len(scene.victims), generator=generator)[:most]
    return scene.victims.at(rows), scene.seen[rows]


def _practise(
    inverter: Inverter, scene: Scene, pictures: Pictures, generator: torch.Generator
) -> Generator[Progress, None, Pictures]:
    """Rebuild images of the attacker's own from what the cloud would see of them."""
    seen = scene.box.seen(scene.box.features_of(pictures.images), generator=generator)
    return (yield from _invert(inverter, seen, pictures, generator))


def _invert(
    inverter: Inverter, seen: Tensor, pictures: Pictures, generator: torch.Generator
) -> Generator[Progress, None, Pictures]:
    """Return ``pictures`` with the images that are rebuilt from ``seen``."""
    parts = list(
        zip(
            torch.split(seen, inverter.batch_size),
            torch.split(pictures.labels, inverter.batch_size),
            strict=True,
        )
    )
    made = []
    for done, (seen_B, labels_B) in enumerate(parts, start=1):
        made.append(inverter.invert(seen_B, labels_B, generator=generator))
        yield Progress(
            attack=inverter.name, attacker="inverting", done=done, total=len(parts), figure=0.0
        )
    return replace(pictures, images=torch.cat(made))


def _likeness_of(means: Tensor, victims: Pictures) -> Likeness:
    """Return how like the victims mean images are: one, or one for each victim."""
    images = means.round().to(torch.uint8).expand_as(victims.images)
    return likeness(images, victims.images)
