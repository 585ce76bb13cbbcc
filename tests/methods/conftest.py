"""What tests of hiding share: images of two independent bits, a small net, a fresh attacker.

Dimension key:  B batch   H, W height and width   D values of one example   K classes
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.net import Normalise, StagedNet
from eaves.core.optimise import OneCycle
from eaves.core.roles import Batch, PrivateLabels
from eaves.methods.setup import Hiding, Method, Setup
from eaves.privacy.bounds import Tanh
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Keyed


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Undo what a test does to torch's random numbers, and let it use one thread.

    With more of them small nets are slower where other tests run too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def hide() -> Callable[..., Hiding]:
    """Return a way to say what is hidden: by default the bit ``b``, without noise."""

    def make(*, noise: float = 0.0, **others: Any) -> Hiding:
        law = "gaussian" if noise else "none"
        return Hiding(
            mechanism=Mechanism(bound=Tanh(1.0), law=law, scale=noise),
            source=Keyed.from_seed(1),
            answer_source=Keyed.from_seed(2),
            **{"attributes": {"b": 2}, **others},
        )

    return make


@pytest.fixture
def toy() -> Callable[..., Setup]:
    """Return a way to build a setup for :func:`bits`; its edge part ends with (width, 4, 4)."""

    def make(
        hiding: Hiding | None,
        *,
        width: int = 4,
        steps: int = 20,
        seed: int = 0,
        bottleneck: int | str | None = None,
        precision: str = "fp32",
    ) -> Setup:
        torch.manual_seed(seed)
        conv = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        stages = [
            ("conv1", nn.Sequential(*conv, nn.MaxPool2d(2))),
            ("conv2", nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), nn.ReLU())),
            ("head", nn.Sequential(nn.Flatten(), nn.Linear(8 * 4 * 4, 2))),
        ]
        schedule = OneCycle(total_steps=steps, lr=0.05, precision=precision)
        return Setup(
            net=StagedNet(stages),
            normalise=Normalise([128.0], [50.0]),
            input_shape=(1, 8, 8),
            classes=2,
            cut="conv1",
            bottleneck=bottleneck,
            exit="mlp",
            edge_schedule=schedule,
            cloud_schedule=schedule,
            device=torch.device("cpu"),
            hiding=hiding,
        )

    return make


def _bits(seed: int, n: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    bits_2B = torch.randint(0, 2, (2, n), generator=generator)
    stripes_HW = (1 - 2 * (torch.arange(8) // 2 % 2)).float().repeat(8, 1)
    task_BHW, private_BHW = (2 * bits_2B - 1)[:, :, None, None] * torch.stack(
        [stripes_HW.T, stripes_HW]
    ).unsqueeze(1)
    noise_BHW = torch.randn(n, 8, 8, generator=generator)
    x_BHW = 128 + 30 * task_BHW + 30 * private_BHW + 20 * noise_BHW
    private = PrivateLabels(bits_2B[1][:, None].clone(), ("b",))
    return Batch(x_BHW.clamp(0, 255).to(torch.uint8).unsqueeze(1), bits_2B[0].clone(), private)


@pytest.fixture
def bits() -> Callable[..., Batch]:
    """Return a way to make images: stripes down for the task, across for the private bit ``b``."""
    return _bits


def _attack(net: nn.Module, known: tuple[Tensor, Tensor], victims: tuple[Tensor, Tensor]) -> float:
    """Return the share of victims that ``net`` gets right, trained on what is known."""
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward(cross_entropy(net(known[0]), known[1]))
        optimiser.step()
    return float((net(victims[0]).argmax(dim=1) == victims[1]).float().mean())


@pytest.fixture
def read() -> Callable[[Method], tuple[float, float]]:
    """Return an audit: the exit's accuracy, and that of the better of two fresh attackers on b.

    Of 1,000 victims, so the standard error is at most 1.6 points.
    """

    def audit(method: Method) -> tuple[float, float]:
        taught, victims = _bits(10_001, 2000), _bits(10_002, 1000)
        z, _ = method.edge_predictor.predict(taught.inputs)
        sent, early_BK = method.edge_predictor.predict(victims.inputs)
        assert z is not None
        assert sent is not None
        assert early_BK is not None
        assert taught.private is not None
        assert victims.private is not None
        values = sent[0].numel()
        torch.manual_seed(5)
        attackers = (
            nn.Linear(values, 2),
            nn.Sequential(nn.Linear(values, 64), nn.ReLU(), nn.Linear(64, 2)),
        )
        known = z.flatten(1), taught.private.of("b")
        against = sent.flatten(1), victims.private.of("b")
        task = float((early_BK.argmax(dim=1) == victims.labels).float().mean())
        return task, max(_attack(net, known, against) for net in attackers)

    return audit
