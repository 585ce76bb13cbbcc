r"""Siamese fine-tuning: features that hold the main task and little else, few numbers of them sent.

Source: Osia, Shahin Shamsabadi, Sajadmanesh, Taheri, Katevas, Rabiee, Lane, Haddadi, *A Hybrid Deep
Learning Architecture for Privacy-Preserving Mobile Analytics* (2020), arXiv:1703.02952. Losses,
projection and noise follow its authors' code; schedules and sizes are ours::

    train:  L = CE(C(E(x)), y)                                     the net as it would be anyway
    tune:   L = CE(a) + CE(b) + w L_con,   pairs (a, b), similar where the *task* labels are equal
            L_con = 1 / (2 N) sum_n [ s d^2 + (1 - s) max(m - d, 0)^2 ],  d = |E(a) - E(b)|
    fit:    P: the leading principal components of E(x) over the training examples
    adapt:  L = CE(C(P^T z~), y),  z~ = bound(P E(x)) + noise      C alone learns

    in use: edge sends z~, d numbers;  cloud answers C(P^T z~)

Five embeddings are five settings of this: *simple* (no pairs, no projection, no noise), *reduced*
(projection), *Siamese* (pairs), *reduced Siamese*, and *noisy reduced Siamese*. All is trained in
one place, where the data may be; nothing is sent in it.

Dimension key:  B batch   N pairs   F values of one example's features   K classes
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.net import output_shape
from eaves.core.optimise import InTurn, OneCycle, Optimised
from eaves.core.roles import Batch, EdgeLearner, EdgePredictor, Losses
from eaves.core.state import State, joined, parted
from eaves.errors import ConfigError, StateError
from eaves.methods.hiding import HidingAnswers
from eaves.methods.setup import (
    CloudAnswers,
    EdgeAnswers,
    Hiding,
    Lesson,
    Method,
    Setup,
    Tuning,
    classify,
    share_right,
)
from eaves.privacy.projection import IncrementalPCA, Project, Projection, Restore
from eaves.privacy.sources import Pseudo

Contrast = Callable[[Tensor, Tensor, float], Tensor]


def random_pairs(h_BF: Tensor, labels_B: Tensor, margin: float) -> Tensor:
    """Return the authors' loss on B // 2 pairs: the first half of a shuffled batch with the second.

    >>> h_BF, labels_B = torch.tensor([[0.0], [0.0], [3.0], [4.0]]), torch.tensor([0, 0, 0, 1])
    >>> float(random_pairs(h_BF, labels_B, 10.0))  # (3^2 + (10 - 4)^2) / (2 * 2)
    11.25
    """
    half = len(h_BF) // 2
    a_NF, b_NF = h_BF[:half].float(), h_BF[half : 2 * half].float()
    squared_N = (a_NF - b_NF).square().sum(dim=1)
    alike_N = labels_B[:half] == labels_B[half : 2 * half]
    return _contrast(squared_N, alike_N, margin)


def all_pairs(h_BF: Tensor, labels_B: Tensor, margin: float) -> Tensor:
    """Return the same loss on all B (B - 1) / 2 pairs of a batch, through one matrix of products.

    >>> h_BF, labels_B = torch.tensor([[0.0], [3.0], [4.0]]), torch.tensor([0, 0, 1])
    >>> float(all_pairs(h_BF, labels_B, 10.0))  # (3^2 + (10 - 4)^2 + (10 - 1)^2) / (2 * 3)
    21.0
    """
    h_BF = h_BF.float()
    i, j = torch.triu_indices(len(h_BF), len(h_BF), offset=1, device=h_BF.device)
    h_BF = h_BF - h_BF.mean(dim=0)  # distances stay, and less of them is lost to rounding
    norms_B = h_BF.square().sum(dim=1)
    squared_BB = norms_B[:, None] + norms_B - 2 * h_BF @ h_BF.T
    alike_BB = labels_B[:, None] == labels_B
    return _contrast(squared_BB[i, j].clamp(min=0), alike_BB[i, j], margin)


CONTRASTS: dict[str, Contrast | None] = {
    "random": random_pairs,
    "all": all_pairs,
    "none": None,
}
"""Which pairs of a batch are compared in fine-tuning; None: none, as a control."""


def _contrast(squared_N: Tensor, alike_N: Tensor, margin: float) -> Tensor:
    # The root has no gradient at 0; what is added is far below any distance that counts.
    short_N = (margin - (squared_N + 1e-12).sqrt()).clamp(min=0)
    return torch.where(alike_N, squared_N, short_N.square()).mean() / 2


@final
class Hybrid:
    """The net in two parts with the projection between them, and what is done to what is sent.

    Each part has its own copy of the projection, as on two machines.
    """

    def __init__(self, setup: Setup, tuning: Tuning):
        split = setup.split()
        shape = output_shape(split.edge, setup.input_shape)
        self.tuning, self.hiding = tuning, setup.hiding
        self.projections: tuple[Projection, ...] = ()
        self.pca: IncrementalPCA | None = None
        edge: list[nn.Module] = [split.edge]
        cloud: list[nn.Module] = [split.cloud]
        if tuning.components or setup.hiding is not None:
            down, up = (Projection(shape, tuning.components) for _ in range(2))
            self.projections = (down, up)
            self.pca = IncrementalPCA(len(down.mean), tuning.components)
            edge.append(Project(down))
            cloud.insert(0, Restore(up))
        self.features, self.answers = split.edge, split.cloud
        self.edge, self.cloud = nn.Sequential(*edge), nn.Sequential(*cloud)
        modules = {"edge": self.edge, "cloud": self.cloud}
        self.part = Optimised(modules, _schedule(setup.edge_schedule, tuning), setup.device)
        self.generator = torch.Generator(setup.device).manual_seed(int(torch.randint(2**31, ())))

    def released(self, x: Tensor) -> Tensor:
        """Return what would leave for inputs (B, ...), with noise for training."""
        z: Tensor = self.edge(x).float()
        if self.hiding is None:
            return z
        return self.hiding.mechanism.release(z, Pseudo(self.generator))


Teach = Callable[[Hybrid, Batch], Losses]


@final
class Course(EdgeLearner):
    """One lesson of a net; all lessons of the same net save and load the same state."""

    one_way: ClassVar[bool] = True

    def __init__(self, hybrid: Hybrid, teach: Teach):
        self._hybrid, self._teach = hybrid, teach

    @property
    def part(self) -> Optimised:
        """The whole net."""
        return self._hybrid.part

    def step(self, batch: Batch) -> tuple[None, Losses]:
        """Take one batch; nothing is sent.

        Raises:
            ConfigError: pairs are wanted, and all examples are of one class.
        """
        return None, self._teach(self._hybrid, batch)

    def state(self) -> State:
        """Return a copy of the net's state, and of the components found so far."""
        pca, drawn = self._hybrid.pca, {"training": self._hybrid.generator.get_state()}
        parts = {"part": self.part.state(), "noise": State(drawn)}
        return joined(parts | {"pca": State() if pca is None else pca.state()})

    def load_state(self, state: State) -> None:
        """Go on from ``state``; raises ``StateError`` where it does not fit."""
        states = parted(state, ("part", "noise", "pca"))
        self.part.load_state(states["part"])
        try:
            self._hybrid.generator.set_state(states["noise"].tensors["training"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise StateError(f"the saved state belongs to another edge: {error!r}") from error
        if self._hybrid.pca is not None:
            self._hybrid.pca.load_state(states["pca"])


def train(hybrid: Hybrid, batch: Batch) -> Losses:
    """Learn the task from one batch, as any net does."""
    whole = nn.Sequential(hybrid.features, hybrid.answers)
    return classify(hybrid.part, whole, batch.inputs, batch.labels)


def tune(hybrid: Hybrid, batch: Batch) -> Losses:
    """Pull the features of each class together, and those of different classes apart.

    Raises:
        ConfigError: all examples of the batch are of one class, so that no pair is dissimilar.
    """
    part, tuning = hybrid.part, hybrid.tuning
    x, y_B = batch.inputs.to(part.device), batch.labels.to(part.device)
    contrast = CONTRASTS[tuning.pairs]
    if contrast is not None and bool((y_B == y_B[0]).all()):
        raise ConfigError(
            f"expected two or more classes in a batch of pairs, got {len(y_B)} examples of "
            f"class {int(y_B[0])} alone; raise --batch-size, or train on more classes"
        )
    part.modules.train()
    with part.forward():
        h = hybrid.features(x)
        logits_BK = hybrid.answers(h)
        loss = cross_entropy(logits_BK, y_B)
    apart = torch.zeros(())
    if contrast is not None:
        apart = contrast(h.flatten(1), y_B, tuning.margin)
        loss = loss + tuning.weight * apart
    value, accuracy = part.descend(loss), share_right(logits_BK, y_B)
    return {"loss": value, "accuracy": accuracy, "contrast": float(apart.detach())}


def fit(hybrid: Hybrid, batch: Batch) -> Losses:
    """Take one batch into account for the principal components; the net stays as it is."""
    assert hybrid.pca is not None
    hybrid.part.modules.eval()
    with torch.no_grad():
        pca = hybrid.pca.update(hybrid.features(batch.inputs.to(hybrid.part.device)))
    if pca.count >= pca.components:
        down, up = hybrid.projections
        down.fit(pca)
        up.load_state_dict(down.state_dict())
    return {}


def adapt(hybrid: Hybrid, batch: Batch) -> Losses:
    """Let the cloud's part learn from one batch as it will be sent; the edge part stays."""
    part, y_B = hybrid.part, batch.labels.to(hybrid.part.device)
    part.modules.train()
    hybrid.edge.eval()
    with part.forward():
        with torch.no_grad():
            sent = hybrid.released(batch.inputs.to(part.device))
        logits_BK = hybrid.cloud(sent)
        loss = cross_entropy(logits_BK, y_B)
    return {"loss": part.descend(loss), "accuracy": share_right(logits_BK, y_B)}


def siamese(setup: Setup) -> Method:
    """Build both halves, and the lessons in which they are trained.

    Raises:
        ConfigError: a bottleneck as well, or more components than there are features.
    """
    if setup.tuning is None:
        raise ConfigError("this method tunes features: say how, in [siamese]")
    if setup.bottleneck is not None:
        raise ConfigError(
            "siamese projects the features to --components numbers: leave --bottleneck out"
        )
    hybrid = Hybrid(setup, setup.tuning)
    return Method(
        edge=Course(hybrid, train),
        cloud=None,
        edge_predictor=_predictor(hybrid.edge, setup.hiding, setup.device),
        cloud_predictor=CloudAnswers(hybrid.cloud, setup.device),
        edge_modules={"edge": hybrid.edge},
        cloud_modules={"cloud": hybrid.cloud},
        course=_course(hybrid),
    )


def _schedule(schedule: OneCycle, tuning: Tuning) -> InTurn:
    """Return one cycle for each lesson with gradients."""
    first = schedule.over(tuning.steps["train"])
    later = replace(first, lr=first.lr * tuning.rate)
    return InTurn.of(first, later.over(tuning.steps["tune"]), later.over(tuning.steps["adapt"]))


def _course(hybrid: Hybrid) -> tuple[Lesson, ...]:
    lessons = {"train": train, "tune": tune, "fit": fit, "adapt": adapt}
    if hybrid.pca is None:
        del lessons["fit"]
    steps = hybrid.tuning.steps
    return tuple(
        Lesson(name=name, learner=Course(hybrid, teach), steps=steps[name], augmented=name != "fit")
        for name, teach in lessons.items()
        if steps[name]
    )


def _predictor(edge: nn.Module, hiding: Hiding | None, device: torch.device) -> EdgePredictor:
    if hiding is None:
        return EdgeAnswers(edge, None, device)
    return HidingAnswers({"edge": edge}, hiding, device)
