r"""DataMix: inference on privately mixed inputs.

The net is divided in three, f3 . f2 . f1; the edge has the ends, the cloud the middle::

    h_i = f1(x_i)                       i = 1..K              edge
    q_j = sum_i C_ji h_i                C secret, K x K, fresh for every group
    r_j = f2(q_j)                       K queries, an ordinary batch      cloud
    z_i = sum_j (C^-1)_ij r_j ;  y_i = f3(z_i)                            edge

    L   = mean_i CE(f3(sum_j (C^-1)_ij f2(sum_k C_jk f1(x_k))), y_i)      C drawn again each step

The answer is exact where f2 is linear on what a group spans, and f2 is trained to be good enough.
Training happens in one place, where the data may be; nothing is sent in it. The paper is known from
its abstract; sizes, laws and schedules are ours. Laws of C: :mod:`eaves.privacy.mixing`. What this
does **not** protect: ``docs/threat_model.md``.

Dimension key:  B batch   G groups   K inputs of a group   ... shape of the features
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import final

import torch
from torch import Tensor, nn

from eaves.core.net import SplitNet, StagedNet, output_shape, split_at
from eaves.core.optimise import Optimised
from eaves.core.roles import EdgeLearner, EdgePredictor
from eaves.core.shield import Reveal, Shield
from eaves.errors import ConfigError, PayloadError
from eaves.methods.adversaries import adversaries_of
from eaves.methods.baselines import WholeEdge
from eaves.methods.hiding import HidingAnswers, HidingEdge
from eaves.methods.setup import INPUT, CloudAnswers, EdgeAnswers, Method, Mixed, Setup
from eaves.privacy.mixing import Mixing, MixingLaw, Stock
from eaves.privacy.sources import Pseudo, Source

_LEARNT = 32  # examples of a step that dummies learn from
_MOMENTUM = 0.01  # the last hundred steps count


@final
class Dummies(nn.Module):
    """Synthetic features for groups that real ones do not fill.

    Gaussian fields with the mean and the power spectrum that training features have on average. An
    edge half holds these two and no example: what fills a group gives no training input away.
    """

    mean: Tensor
    power: Tensor
    seen: Tensor

    def __init__(self, feature_shape: tuple[int, ...]):
        super().__init__()
        self._along = tuple(range(-len(feature_shape) + 1, 0))  # the sides of a map
        mean = torch.zeros(feature_shape)
        self.register_buffer("mean", mean)
        self.register_buffer("power", self._spectrum(mean[None]).abs()[0])
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        # torch gives this method no types.
        self.register_load_state_dict_pre_hook(_without_examples)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def learn(self, features: Tensor) -> None:
        """Bring mean and spectrum nearer to those of features (B, ...) of one training step."""
        self.seen += 1
        weight = torch.clamp(1 / self.seen.float(), min=_MOMENTUM)
        some = features[:_LEARNT].detach().to(self.mean)
        self.mean.lerp_(some.mean(dim=0), weight)
        self.power.lerp_(self._spectrum(some - self.mean).abs().square().mean(dim=0), weight)

    @torch.no_grad()
    def some(self, n: int, source: Source) -> Tensor:
        """Return ``n`` new ones."""
        white = source.normal((n, *self.mean.shape)).to(self.mean)
        if not n:  # MKL refuses to transform nothing
            return white
        values = prod(self.mean.shape[1:])  # white noise has this power at every frequency
        coloured = self._spectrum(white) * (self.power / values).sqrt()
        if self._along:
            sides = self.mean.shape[1:]
            coloured = torch.fft.irfftn(coloured, s=sides, dim=self._along)
        found: Tensor = self.mean + coloured
        return found

    def _spectrum(self, features: Tensor) -> Tensor:
        """Return the Fourier transform along the sides of maps; vectors have none."""
        return torch.fft.rfftn(features, dim=self._along) if self._along else features


def _without_examples(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Make statistics of the ``stock`` of training features that a bundle of Eaves 0.1 holds."""
    stock = state_dict.pop(f"{prefix}stock", None)
    if stock is not None:
        learnt = Dummies(tuple(stock.shape[1:]))
        learnt.learn(stock)
        state_dict.update({f"{prefix}{name}": x for name, x in learnt.state_dict().items()})


@final
class Mixture(nn.Module):
    """f3 . C^-1 . f2 . C: what training makes of features (B, ...), with a new C each time.

    C is drawn from torch's global generator, which :class:`Optimised` keeps for each part.
    """

    def __init__(self, cloud: nn.Module, head: nn.Module, dummies: Dummies, law: MixingLaw):
        super().__init__()
        self.cloud, self.head, self.dummies, self._law = cloud, head, dummies, law

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K). The last group is filled with others of the batch."""
        h, group = features.float(), self._law.group
        places = torch.arange(-(-len(h) // group) * group) % len(h)
        mixing = self._law.draw(len(places) // group, Pseudo())
        self.dummies.learn(h)
        r = self.cloud(mixing.mix(h[places]))
        logits_BK: Tensor = self.head(mixing.unmix(r.float())[: len(h)])
        return logits_BK


@final
class MixingShield(Shield):
    """Mixes what leaves in groups, and takes the answers apart again."""

    def __init__(
        self, mixed: Mixed, dummies: Dummies, head: nn.Module, answer_shape: tuple[int, ...]
    ):
        self._mixed, self._dummies, self._head = mixed, dummies, head
        self._answer_shape, self._stock = answer_shape, Stock(mixed.law, mixed.source)
        self._counts = Counter({"groups": 0, "dummies": 0, "redrawn": 0})

    @property
    def counts(self) -> Mapping[str, int]:
        """So far: groups, dummies that filled them, and matrices that were drawn again."""
        return dict(self._counts)

    def protect(self, features: Tensor) -> tuple[Tensor, Reveal]:
        """Return queries (G K, ...) for features (B, ...), and what reads the answers."""
        law, source = self._mixed.law, self._mixed.source
        self._dummies.eval()
        filled, missing = features, -len(features) % law.group
        if missing:
            filled = torch.cat([features, self._dummies.some(missing, source).to(features)])
        mixing = self._stock.take(len(filled) // law.group)
        done = {"groups": mixing.groups, "dummies": missing, "redrawn": mixing.redrawn}
        self._counts.update(done)
        queries, order = mixing.mix(filled.float()), None
        if self._mixed.shuffle:
            order = source.normal((len(filled),)).argsort().to(queries.device)
            queries = queries[order]
        secret = Secret(mixing=mixing, order=order, queries=len(filled), inputs=len(features))
        return queries, lambda answers: self._reveal(answers, secret)

    def _reveal(self, answers: Tensor, secret: "Secret") -> Tensor:
        expected = (secret.queries, *self._answer_shape)
        if answers.shape != expected or not answers.is_floating_point():
            raise PayloadError(
                f"expected float answers of shape {expected} to {expected[0]} mixtures, got "
                f"{answers.dtype} of shape {tuple(answers.shape)}"
            )
        if not all(isfinite(float(end)) for end in answers.aminmax()):  # NaN is either's, too
            raise PayloadError("expected finite answers to mixtures, got NaN or infinity")
        if secret.order is not None:
            answers = answers[secret.order.argsort().to(answers.device)]
        z = secret.mixing.unmix(answers.float())[: secret.inputs]
        with torch.no_grad():
            logits: Tensor = self._head.eval()(z)
        return logits


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class Secret:
    """What the edge keeps of a batch until its answers come."""

    mixing: Mixing
    order: Tensor | None
    """Place among the mixtures of each query that was sent, where they were shuffled."""
    queries: int
    inputs: int
    """How many of the answers are wanted: the others are dummies."""


def datamix(setup: Setup) -> Method:
    """Build all three parts; the edge's learner trains them together.

    Where something is to be hidden, features are bounded and noised before they are mixed, in
    training and in use, and trained against adversaries that read them unmixed.
    """
    if setup.mixed is None:
        raise ConfigError("this method mixes inputs: say how, in [mixing]")
    body, head = _without_head(setup, setup.mixed.cloud_ends)
    split = _split(setup, body)
    shape = output_shape(split.edge, setup.input_shape)
    dummies = Dummies(shape)
    edge, predictor = _edge(setup, split.edge, Mixture(split.cloud, head, dummies, setup.mixed.law))
    answer_shape = output_shape(split.cloud, shape)
    return Method(
        edge=edge,
        cloud=None,
        edge_predictor=predictor,
        cloud_predictor=CloudAnswers(split.cloud, setup.device),
        edge_modules={"edge": split.edge, "head": head, "dummies": dummies},
        cloud_modules={"cloud": split.cloud},
        shield=MixingShield(setup.mixed, dummies, head, answer_shape),
    )


def _edge(setup: Setup, edge: nn.Module, mixture: Mixture) -> tuple[EdgeLearner, EdgePredictor]:
    """Return what trains all parts, and what makes features in use."""
    schedule, device = setup.edge_schedule, setup.device
    if setup.hiding is None:
        whole = Optimised({"edge": nn.Sequential(edge, mixture)}, schedule, device)
        return WholeEdge(whole), EdgeAnswers(edge, None, device)
    part = Optimised({"edge": edge, "exit": mixture}, schedule, device)
    defences = adversaries_of(setup.hiding, output_shape(edge, setup.input_shape), device)
    predictor = HidingAnswers({"edge": edge}, setup.hiding, device)
    return HidingEdge(part, defences, setup.hiding), predictor


def _split(setup: Setup, body: StagedNet) -> SplitNet:
    """Divide what is not the head; at :data:`INPUT` the edge normalises and does nothing else."""
    if setup.cut != INPUT:
        return setup.split(body)
    if setup.bottleneck is not None:
        raise ConfigError("a --bottleneck narrows features: name a --cut after a stage for it")
    return SplitNet(setup.normalise, body, INPUT)


def _without_head(setup: Setup, last: str | None) -> tuple[StagedNet, nn.Module]:
    """Divide the net after the cloud's last stage; without one, its answers are the logits."""
    net, cut = setup.net, setup.cut
    if last is None or last == net.names[-1]:
        return net, nn.Identity()
    parts = split_at(net, last, example=setup.input_shape)
    body, head = parts.edge, parts.cloud
    assert isinstance(body, StagedNet)
    if cut not in (INPUT, *body.names[:-1]):
        raise ConfigError(
            f"expected the cloud's last stage (--cloud-ends) after the cut {cut!r}, got {last!r}"
        )
    return body, head
