"""One attack from its first step to its finding, and what the finding says."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar, final

import pytest
import torch
from torch import Tensor

from eaves.audit.decoder import Decoder, DecoderPlan
from eaves.audit.findings import Progress, Reconstruction
from eaves.audit.inverters import Inverter
from eaves.audit.reconstruction import rebuilding_control, reconstruct
from eaves.audit.scene import Pictures, Scene, WhiteBox, mean_images
from eaves.audit.similarity import likeness
from eaves.audit.trial import Allowance
from eaves.audit.verdict import Planted
from eaves.audit.viewer import ViewerPlan
from eaves.codecs.base import parse_codec
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

VIEWER = ViewerPlan(allowance=Allowance(time_s=600.0, rounds=6, batch_size=32), width=8)


@final
class _Inverse(Inverter):
    """The exact inverse of an edge part that hides nothing; remembers what it was given."""

    name: ClassVar[str] = "inverse"

    def __init__(self, most: int | None = None, batch_size: int = 40):
        self.most, self.batch_size = most, batch_size
        self.own: Pictures | None = None
        self.batches: list[Tensor] = []

    @property
    def rounds(self) -> int:
        return 3

    @property
    def planned(self) -> int:
        return 4

    @property
    def ended_by_time(self) -> bool:
        return True

    def learn(
        self, scene: Scene, own: Pictures, *, generator: torch.Generator
    ) -> Iterator[Progress]:
        self.own = own
        yield Progress(attack=self.name, attacker="learning", done=1, total=1, figure=0.0)

    def invert(self, seen: Tensor, labels_B: Tensor, *, generator: torch.Generator) -> Tensor:
        self.batches.append(seen)
        return ((seen + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _found(
    inverter: Inverter, scene: Scene, seed: int = 0
) -> tuple[Reconstruction, list[Progress]]:
    generator = torch.Generator().manual_seed(seed)
    *progress, found = reconstruct(inverter, scene, viewer=VIEWER, generator=generator)
    assert isinstance(found, Reconstruction)
    return found, [p for p in progress if isinstance(p, Progress)]


def test_an_exact_inverse(scene: Callable[..., Scene]) -> None:
    open_scene = scene(known=256, victims=64)
    found, progress = _found(_Inverse(), open_scene)
    assert (found.likeness.mse.value, found.likeness.psnr_db.value) == (0, 100)
    assert found.likeness.ssim.value == pytest.approx(1, abs=1e-5)
    assert found.likeness.mse.n == 64
    assert found.beats_chance
    assert found.read is not None
    assert (found.read.attribute, found.read.attack) == ("left", "inverse")
    assert found.read.reading.rate.value > 0.95
    assert (found.effort.known, found.effort.rounds) == (256, 3)
    assert found.effort.time_s > 0
    assert [p.attacker for p in progress[:2]] == ["learning", "inverting"]
    assert json.loads(json.dumps(found.as_json()))["attack"] == "inverse"


def test_chance_is_that_of_mean_images(scene: Callable[..., Scene]) -> None:
    s = scene()
    found, _ = _found(_Inverse(), s)
    mean = s.known.images.float().mean(0).round().to(torch.uint8).expand(64, -1, -1, -1)
    assert found.mean_image.mse.value == pytest.approx(likeness(mean, s.victims.images).mse.value)
    of_label = mean_images(s.known, 2)[s.victims.labels].round().to(torch.uint8)
    assert found.mean_image_of_label is not None
    assert found.mean_image_of_label.mse.value == pytest.approx(
        likeness(of_label, s.victims.images).mse.value
    )
    assert found.mean_image_of_label.mse.value < found.mean_image.mse.value


def test_what_is_kept_is_not_learned_from(scene: Callable[..., Scene]) -> None:
    """A quarter is kept; it is rebuilt from fresh noise, three times where it is for lessons."""
    s, inverse = scene(known=200, victims=40, scale=0.01), _Inverse()
    _found(inverse, s)
    assert inverse.own is not None
    assert len(inverse.own) == 150
    victims, *kept = inverse.batches
    assert len(victims) == 40
    assert sum(len(batch) for batch in kept) == 3 * 40 + 10
    learned = {x.numpy().tobytes() for x in inverse.own.images}
    others = {x.numpy().tobytes() for x in s.known.images} - learned
    rebuilt = inverse.invert(torch.cat(kept), torch.zeros(130), generator=torch.Generator())
    nearest = torch.cdist(rebuilt.flatten(1).float(), s.known.images.flatten(1).float()).argmin(1)
    assert {s.known.images[i].numpy().tobytes() for i in nearest.tolist()} == others
    assert len({x.numpy().tobytes() for x in torch.cat(kept)}) == 130  # no noise came twice


def test_the_same_images_are_kept_for_every_scene(scene: Callable[..., Scene]) -> None:
    """So a generator of images may serve a second scene: it has not seen what is kept there."""
    first, second = _Inverse(), _Inverse()
    _found(first, scene(), seed=1)
    _found(second, scene(scale=0.5), seed=2)
    assert first.own is not None
    assert second.own is not None
    assert torch.equal(first.own.images, second.own.images)


def test_an_inverter_short_of_time_takes_some_victims(scene: Callable[..., Scene]) -> None:
    inverse = _Inverse(most=20, batch_size=8)
    found, _ = _found(inverse, scene(victims=64))
    assert found.likeness.mse.n == 20
    assert found.mean_image.mse.n == 20
    assert found.note == "20 of 64 victims; features without noise and codec"
    assert [len(batch) for batch in inverse.batches] == [8, 8, 4, 8, 8, 4]
    assert inverse.own is not None
    assert len(inverse.own) == 192  # all but a quarter, though only 20 of those are rebuilt


def test_the_effort_says_what_was_planned_and_that_time_ended_it(
    scene: Callable[..., Scene],
) -> None:
    found, _ = _found(_Inverse(), scene())
    assert (found.effort.rounds, found.effort.planned, found.effort.ended_by_time) == (3, 4, True)
    assert found.read is not None
    assert found.read.effort.ended_by_time
    hurried = DecoderPlan(allowance=Allowance(time_s=1e-6, rounds=9, batch_size=32), width=4)
    decoded = Decoder(hurried)
    list(decoded.learn(scene(), scene().known, generator=torch.Generator().manual_seed(0)))
    assert (decoded.rounds, decoded.planned, decoded.ended_by_time) == (0, 9, True)


# The positive control


def _controlled(inverter: Inverter, s: Scene) -> Planted:
    *_, found = rebuilding_control(inverter, s, generator=torch.Generator().manual_seed(0))
    assert isinstance(found, Planted)
    return found


@pytest.mark.parametrize("codec", ["", "int8", "int1:tensor"])
def test_a_decoder_rebuilds_what_an_early_cut_holds(
    scene: Callable[..., Scene], codec: str
) -> None:
    """However much noise there is on what it attacks."""
    plan = DecoderPlan(allowance=Allowance(time_s=600.0, rounds=20, batch_size=32), width=8)
    hidden = scene(known=400, scale=1000.0)
    path = replace(hidden.box.path, codec=parse_codec(codec) if codec else None, batch_size=32)
    found = _controlled(Decoder(plan), replace(hidden, box=WhiteBox(hidden.box._edge, path)))
    assert found.passed
    assert (found.attack, found.attacker) == ("decoder", "decoder")
    assert found.found > found.chance + 0.05


def test_who_rebuilds_nothing_does_not_pass(scene: Callable[..., Scene]) -> None:
    """Its inverse is of another edge part: it makes something, and nothing like the images."""
    plan = DecoderPlan(allowance=Allowance(time_s=600.0, rounds=1, batch_size=400), width=4)
    assert not _controlled(Decoder(plan), scene(known=400)).passed


def test_no_image_of_a_control_was_learned_from(scene: Callable[..., Scene]) -> None:
    first, second = _Inverse(), Decoder(DecoderPlan(allowance=Allowance(rounds=1), width=4))
    s = scene(known=200)
    _found(first, s)
    assert first.own is not None
    learned = {x.numpy().tobytes() for x in first.own.images}
    given: list[Pictures] = []
    learn = second.learn

    def spy(early: Scene, own: Pictures, *, generator: torch.Generator) -> Iterator[Progress]:
        given.append(early.victims)
        yield from learn(early, own, generator=generator)

    second.learn = spy  # type: ignore[assignment,method-assign]
    _controlled(second, s)
    [victims] = given
    assert not {x.numpy().tobytes() for x in victims.images} & learned


def test_noise_hides_the_attribute(scene: Callable[..., Scene]) -> None:
    """The decoder draws what it can; nobody reads more from it than chance would.

    False alarms: a sound reading lies above the 95 % interval in 2.5 % of seeds, each of two
    viewers; this one is fixed.
    """
    hidden = scene(known=300, victims=200, scale=1000.0)
    plan = DecoderPlan(allowance=Allowance(time_s=600.0, rounds=4, batch_size=32), width=8)
    found, _ = _found(Decoder(plan), hidden)
    assert not found.beats_chance
    assert found.read is not None
    assert not found.read.reading.beats_chance


def test_repeatable(scene: Callable[..., Scene]) -> None:
    plan = DecoderPlan(allowance=Allowance(time_s=600.0, rounds=2, batch_size=32), width=4)
    noisy, before = scene(known=64, victims=20, scale=0.5), torch.get_rng_state()

    def figures(seed: int) -> Reconstruction:
        found, _ = _found(Decoder(plan), noisy, seed)
        assert found.read is not None
        return replace(found, effort=None, read=replace(found.read, effort=None))  # type: ignore[arg-type]

    assert figures(1) == figures(1) != figures(2)
    assert torch.equal(before, torch.get_rng_state())


def test_too_few(scene: Callable[..., Scene]) -> None:
    with pytest.raises(ConfigError, match="expected 40 or more images of the attacker's own"):
        _found(_Inverse(), scene(known=39))
    with pytest.raises(ConfigError, match="expected 2 victims or more, got 1"):
        _found(_Inverse(), scene(victims=1))
