"""A generator of images, trained against a critic on the attacker's own: what faces look like.

Hinge losses, spectral norm in the critic and an average of the generator's weights: that trains
reliably without tuning, and costs no gradient of a gradient.

Source: Radford et al. 2016 (DCGAN) for the layers; Miyato et al. 2018 for critic and losses.

Dimension key:  N draws   B batch   D latents   C channels   H, W height and width
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean
from typing import final

import torch
from torch import Tensor, nn

from eaves.audit.convnets import Upward, as_shares, channels_last, critic, fast
from eaves.audit.findings import Progress
from eaves.audit.learners import drawing_from
from eaves.audit.pace import Epochs
from eaves.audit.scene import Pictures
from eaves.audit.trial import Allowance
from eaves.errors import ConfigError

_ALLOWANCE = Allowance(rounds=20, time_s=240.0, batch_size=64)
_CRITIC = 4.0  # times the generator's learning rate: the critic is to stay ahead
_SETTLING = 20  # batches that set the BatchNorm statistics of the averaged generator


@final
@dataclass(frozen=True, kw_only=True)
class GanPlan:
    """How a generator is trained; ``decay`` is that of the average of its weights, per step."""

    allowance: Allowance = _ALLOWANCE
    latents: int = 64
    width: int = 16
    """Channels of the generator's last map, and of the critic's first."""
    lr: float = 2e-4
    decay: float = 0.995

    def __post_init__(self) -> None:
        if self.latents < 1 or self.width < 1 or not self.lr > 0 or not 0 <= self.decay < 1:
            raise ConfigError(
                "expected 1 or more latents, width of 1 or more, lr above 0 and decay in [0, 1), "
                f"got {self.latents}, {self.width}, {self.lr} and {self.decay}"
            )


@final
class Gan:
    """A generator, (B, D) normal latents -> images in [0, 1], and the critic that teaches it."""

    def __init__(self, plan: GanPlan, image_shape: tuple[int, ...], *, generator: torch.Generator):
        self.plan = plan
        self.epochs = 0
        """That were made in full."""
        self.ended_by_time = False
        """Whether there was no time for all of them."""
        with drawing_from(generator):
            self._raw = channels_last(Upward((plan.latents,), image_shape, width=plan.width))
            self._judge = channels_last(critic(image_shape, width=plan.width))
        self._averaged = deepcopy(self._raw)
        # No momentum: each is a moving target for the other.
        self._raw_steps, self._judge_steps = (
            torch.optim.Adam(net.parameters(), lr=lr, betas=(0.0, 0.99))
            for net, lr in ((self._raw, plan.lr), (self._judge, _CRITIC * plan.lr))
        )

    @property
    def net(self) -> nn.Module:
        """The generator whose weights are averaged, in evaluation mode."""
        return self._averaged.eval().requires_grad_(False)

    def latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Return (n, D) draws of the prior."""
        return torch.randn(n, self.plan.latents, generator=generator)

    def learn(self, own: Pictures, *, generator: torch.Generator) -> Iterator[Progress]:
        """Train both; yield after each epoch, with the critic's loss: 2 where it is fooled."""
        allowance = self.plan.allowance
        epochs = Epochs(len(own), allowance, generator=generator)
        self.epochs, self.ended_by_time = 0, True  # time may be over before the first epoch
        for done, batches in epochs:
            losses = [
                self._step(
                    as_shares(own.images[rows_B]), self.latents(len(rows_B), generator=generator)
                )
                for rows_B, _ in batches
            ]
            self.epochs, self.ended_by_time = epochs.made, epochs.ended_by_time
            yield Progress(
                attack="gan",
                attacker="generator",
                done=done,
                total=allowance.rounds,
                figure=fmean(losses),
            )
        self._settle(self.latents(_SETTLING * allowance.batch_size, generator=generator))

    def _step(self, x_BCHW: Tensor, z_BD: Tensor) -> float:
        self._raw.train()
        with fast():
            made_BCHW = self._raw(z_BD)
            scores = self._judge(torch.cat([x_BCHW, made_BCHW.detach()])).float()
        real_B1, fake_B1 = scores.chunk(2)
        loss = (1 - real_B1).relu().mean() + (1 + fake_B1).relu().mean()
        self._judge_steps.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._judge_steps.step()
        self._judge.requires_grad_(False)
        with fast():
            fooled = self._judge(made_BCHW).float().mean()
        self._judge.requires_grad_(True)
        self._raw_steps.zero_grad(set_to_none=True)
        torch.autograd.backward(-fooled)
        self._raw_steps.step()
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        pairs = zip(self._averaged.parameters(), self._raw.parameters(), strict=True)
        for averaged, raw in pairs:
            averaged.lerp_(raw, 1 - self.plan.decay)

    @torch.no_grad()
    def _settle(self, z_ND: Tensor) -> None:
        """Measure the BatchNorm statistics that belong to the averaged weights."""
        norms = [m for m in self._averaged.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        self._averaged.train()
        for z_BD in torch.split(z_ND, self.plan.allowance.batch_size):
            with fast():
                self._averaged(z_BD)
