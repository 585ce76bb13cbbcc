"""A net that undoes the edge part, trained on the attacker's images with fresh noise.

This is "deep reconstruction": transposed convolutions from features to images, by MSE and Adam.

Dimension key:  N images   B batch   C channels   H, W height and width   K classes of the task
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

from eaves.audit.convnets import Upward, as_bytes, as_shares, channels_last, fast
from eaves.audit.findings import Progress
from eaves.audit.inverters import Inverter
from eaves.audit.learners import drawing_from
from eaves.audit.pace import Epochs, cosine
from eaves.audit.scene import Pictures, Scene
from eaves.audit.trial import Allowance
from eaves.core.ssim import ssim
from eaves.errors import ConfigError

_AT_ONCE = 256  # images that are checked together
_CHECKS = 0.1  # of the attacker's images
_ALLOWANCE = Allowance(rounds=20, time_s=240.0, batch_size=128)


@final
@dataclass(frozen=True, kw_only=True)
class DecoderPlan:
    """How a decoder is trained; ``ssim_weight`` x (1 - SSIM) is added to its MSE in [0, 1]."""

    allowance: Allowance = _ALLOWANCE
    lr: float = 1e-3
    width: int = 32
    """Channels of the last map before the image."""
    ssim_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.width < 1 or not self.ssim_weight >= 0:
            raise ConfigError(
                "expected lr above 0, width of 1 or more and ssim_weight of 0 or more, got "
                f"{self.lr}, {self.width} and {self.ssim_weight}"
            )


@final
class Told(nn.Module):
    """A net on features and the task label, which is sent in the clear.

    The label comes as K more channels, each constant, or as K more values of flat features. These
    are standardised before: beside the noise of some edges, a label of 0 or 1 would be lost.
    """

    def __init__(self, scene: Scene, width: int):
        super().__init__()
        self._classes = scene.label_classes
        shape = scene.feature_shape
        if len(shape) != 3:
            shape = (prod(shape),)
        norm = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
        self.norm = norm(shape[0], affine=False, momentum=None)  # a plain mean over all batches
        joined = (shape[0] + self._classes, *shape[1:])
        self.net = Upward(joined, scene.known.shape, width=width)

    def forward(self, z: Tensor, labels_B: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1]."""
        label = one_hot(labels_B, self._classes).float()
        if z.ndim == 4:
            label = label[:, :, None, None].expand(-1, -1, *z.shape[2:])
        else:
            z = z.flatten(1)
        x_BCHW: Tensor = self.net(torch.cat([self.norm(z), label], dim=1))
        return x_BCHW


@final
class Decoder(Inverter):
    """Features and task label -> image, at once."""

    name: ClassVar[str] = "decoder"

    def __init__(self, plan: DecoderPlan):
        self._plan = plan
        self._net: Told | None = None
        self._rounds, self._early = 0, False

    @property
    def rounds(self) -> int:
        """Epochs that were made in full."""
        return self._rounds

    @property
    def planned(self) -> int:
        """Epochs that were to be made."""
        return self._plan.allowance.rounds

    @property
    def ended_by_time(self) -> bool:
        """Whether there was no time for all of them."""
        return self._early

    def learn(
        self, scene: Scene, own: Pictures, *, generator: torch.Generator
    ) -> Iterator[Progress]:
        """Train a fresh net, and keep it as it was after its best epoch; yield after each.

        The best one is that of the lowest loss on a tenth of ``own`` that it does not learn from.
        """
        plan, box = self._plan, scene.box
        with drawing_from(generator):
            net = channels_last(Told(scene, plan.width))
        optimiser = torch.optim.Adam(net.parameters(), lr=plan.lr)
        check, own = own.part(_CHECKS)
        bounded, best = box.features_of(own.images), float("inf")
        seen = box.seen(box.features_of(check.images), generator=generator)
        epochs = Epochs(len(own), plan.allowance, generator=generator)
        self._rounds, self._early = 0, True  # time may be over before the first epoch
        for done, batches in epochs:
            net.train()
            for rows_B, share in batches:
                optimiser.param_groups[0]["lr"] = plan.lr * cosine(share)
                z = box.seen(bounded[rows_B], generator=generator)
                loss = self._loss(net, z, own.at(rows_B))
                optimiser.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimiser.step()
            self._rounds, self._early = epochs.made, epochs.ended_by_time
            found = self._error(net, seen, check)
            if found < best:
                best, self._net = found, deepcopy(net)
            yield Progress(
                attack=self.name,
                attacker="training",
                done=done,
                total=plan.allowance.rounds,
                figure=found,
            )

    def _loss(self, net: Told, z: Tensor, own: Pictures) -> Tensor:
        target_BCHW = as_shares(own.images)
        with fast():
            x_BCHW = net(z, own.labels)
        loss = mse_loss(x_BCHW, target_BCHW)
        if self._plan.ssim_weight:
            unlike_B = 1 - ssim(x_BCHW, target_BCHW, white=1.0)
            loss = loss + self._plan.ssim_weight * unlike_B.mean()
        return loss

    @torch.no_grad()
    def _error(self, net: Told, seen: Tensor, check: Pictures) -> float:
        net.eval()
        parts = torch.split(torch.arange(len(check)), _AT_ONCE)
        losses = [self._loss(net, seen[rows], check.at(rows)) * len(rows) for rows in parts]
        return float(sum(losses)) / len(check)

    @torch.no_grad()
    def invert(self, seen: Tensor, labels_B: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return what the trained net makes of them; ``generator`` is not drawn from."""
        if self._net is None:
            raise RuntimeError("this decoder has not learned yet: call learn() first")
        self._net.eval()
        with fast():
            return as_bytes(self._net(seen, labels_B))
