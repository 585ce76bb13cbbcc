"""Who looks at reconstructions: a net that reads the private attribute from images.

Dimension key:  N images   K classes of the attribute
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from statistics import fmean
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from eaves.audit.convnets import as_shares, channels_last, classifier, fast
from eaves.audit.findings import Progress, Reading
from eaves.audit.learners import drawing_from
from eaves.audit.pace import Epochs, cosine
from eaves.audit.scene import Pictures
from eaves.audit.trial import Allowance
from eaves.errors import ConfigError

_ALLOWANCE = Allowance(rounds=8, time_s=90.0, batch_size=128)
_AT_ONCE = 512  # images that are looked at together


@final
@dataclass(frozen=True, kw_only=True)
class ViewerPlan:
    """How a net of ``width`` channels after its first convolution learns to read the attribute."""

    allowance: Allowance = _ALLOWANCE
    lr: float = 2e-3
    width: int = 32

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.width < 1:
            raise ConfigError(
                f"expected lr above 0 and width of 1 or more, got {self.lr} and {self.width}"
            )


@final
class Viewer:
    """A net that learns the attribute from some images, and reads it from others."""

    def __init__(
        self,
        plan: ViewerPlan,
        image_shape: tuple[int, ...],
        classes: int,
        *,
        generator: torch.Generator,
    ):
        self._plan, self._draw = plan, generator
        with drawing_from(generator):
            self._net = channels_last(classifier(image_shape, classes, width=plan.width))
        self.ended_by_time = False
        """Whether there was no time for all epochs of any training."""

    def learn(self, attack: str, pictures: Pictures) -> Iterator[Progress]:
        """Learn on; yield after each epoch, with the loss."""
        plan = self._plan
        optimiser = torch.optim.AdamW(self._net.parameters(), lr=plan.lr, weight_decay=1e-2)
        epochs = Epochs(len(pictures), plan.allowance, generator=self._draw)
        for done, batches in epochs:
            self._net.train()
            losses = []
            for rows_B, share in batches:
                optimiser.param_groups[0]["lr"] = plan.lr * cosine(share)
                logits_BK = self._logits(pictures.images[rows_B])
                loss = cross_entropy(logits_BK, pictures.private[rows_B])
                optimiser.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimiser.step()
                losses.append(loss.item())
            yield Progress(
                attack=attack,
                attacker="viewer",
                done=done,
                total=plan.allowance.rounds,
                figure=fmean(losses),
            )
        self.ended_by_time |= epochs.ended_by_time

    @torch.no_grad()
    def logits(self, images_N: Tensor) -> Tensor:
        """Return logits of each image, (N, K)."""
        self._net.eval()
        return torch.cat([self._logits(x) for x in torch.split(images_N, _AT_ONCE)])

    def _logits(self, images_N: Tensor) -> Tensor:
        with fast():
            logits_NK: Tensor = self._net(as_shares(images_N))
        return logits_NK.float()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Album:
    """What a viewer learns from and is shown in one attack: ``originals``, and reconstructions.

    ``lessons`` and ``tests`` are reconstructions of images of the attacker's own that the inverter
    has not learned from; the private classes of ``victims`` score the answers.
    """

    attack: str
    originals: Pictures
    lessons: Pictures
    tests: Pictures
    victims: Pictures
    classes: int


@final
@dataclass(frozen=True, kw_only=True)
class View:
    """How well the attribute was read by a viewer who had ``learned_from`` these images."""

    learned_from: str
    reading: Reading
    held_out: float
    """Accuracy on the attacker's own tests."""
    ended_by_time: bool = False
    note: str = ""


def view(
    album: Album, plan: ViewerPlan, *, generator: torch.Generator
) -> Generator[Progress, None, View]:
    """Train a viewer on originals, then on reconstructions too; return the better of both.

    The better one on the victims, which the attacker could not know: a maximum of two, a little too
    high in its favour.
    """
    viewer = Viewer(plan, album.originals.shape, album.classes, generator=generator)
    views = []
    for name, pictures in (("originals", album.originals), ("reconstructions", album.lessons)):
        yield from viewer.learn(album.attack, pictures)
        right_N = viewer.logits(album.tests.images).argmax(1) == album.tests.private
        logits_NK = viewer.logits(album.victims.images)
        views.append(
            View(
                learned_from=name,
                reading=_reading(logits_NK, album),
                held_out=float(right_N.float().mean()),
                ended_by_time=viewer.ended_by_time,
            )
        )
    best = max(views, key=lambda v: v.reading.rate.value)
    rates = (f"{v.reading.rate.value:.3f} learned from {v.learned_from}" for v in views)
    return replace(best, note=", ".join(rates))


def _reading(logits_NK: Tensor, album: Album) -> Reading:
    """Score logits; those for balanced accuracy are as if all classes were as frequent."""
    counts_K = album.originals.private.bincount(minlength=album.classes).clamp(min=1)
    fair_NK = logits_NK - (counts_K / counts_K.sum()).log()
    return Reading.of(
        logits_NK.argmax(1), album.victims.private, fair_N=fair_NK.argmax(1), scores_NK=fair_NK
    )
