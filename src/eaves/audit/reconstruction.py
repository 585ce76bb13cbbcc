"""One attack that rebuilds the victims' images, from the attacker's first step to the finding.

A part of the attacker's images is kept from the inverter. What becomes of them shows the attacker
what its reconstructions are like: from those it learns to read the private attribute in images as
poor as the victims'.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from eaves.audit.findings import Effort, Finding, Likeness, Progress, Reconstruction
from eaves.audit.inverters import Inverter
from eaves.audit.scene import Pictures, Scene, mean_images
from eaves.audit.similarity import likeness
from eaves.audit.viewer import Album, View, ViewerPlan, view
from eaves.errors import ConfigError

_KEPT = 0.25  # of the attacker's images
_TESTS = 0.2  # of the kept ones
_COPIES = 3  # of each kept image, with other noise: more reconstructions to learn from
_FEWEST = 40
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
    if inverter.most is None and scene.box.mechanism.scale > 0:
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
    effort = Effort(known=len(known), rounds=inverter.rounds, time_s=perf_counter() - start_s)
    yield _finding(scene, victims, made, effort, best, inverter)


def _finding(
    scene: Scene, victims: Pictures, made: Pictures, effort: Effort, best: View, by: Inverter
) -> Reconstruction:
    known = scene.known
    of_label = mean_images(known, scene.label_classes)[victims.labels]
    notes = [f"{len(victims)} of {len(scene.victims)} victims", by.note]
    if scene.box.mechanism.scale == 0:
        notes.append("features without noise")
    read = Finding(
        attack=by.name,
        attacker=best.learned_from,
        attribute=scene.attribute,
        reading=best.reading,
        effort=effort,
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
