from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from eaves.audit.convnets import Upward, as_bytes
from eaves.audit.findings import Progress
from eaves.audit.generator import Gan, GanPlan
from eaves.audit.latent import LATENTS, LatentPlan, Latents, LatentSearch
from eaves.audit.scene import Pictures, Scene
from eaves.audit.search import Search, SearchPlan
from eaves.audit.similarity import mse
from eaves.audit.trial import Allowance
from eaves.core.ssim import WHITE
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = SearchPlan(
    allowance=Allowance(time_s=600.0, rounds=60, batch_size=64), lr=0.1, weights=(0.0, 0.1)
)
GAN = GanPlan(allowance=Allowance(time_s=600.0, rounds=1, batch_size=32), latents=6, width=4)


def _generator() -> Upward:
    """Return a net that draws clearly different images of 6 latents, untrained."""
    torch.manual_seed(0)
    net = Upward((6,), (3, 8, 8), width=16)
    with torch.no_grad():
        for _ in range(50):
            net(torch.randn(64, 6))  # statistics of BatchNorm
        list(net.body.parameters())[-2].mul_(4)  # of the last layer: more contrast
    return net.eval().requires_grad_(False)


def test_finds_a_latent_of_its_own_generator(scene: Callable[..., Scene]) -> None:
    """Images that the generator can make are found again, far nearer than the pool comes."""
    net, box = _generator(), scene().box
    draw = torch.Generator().manual_seed(1)
    pool, truth = torch.randn(64, 6, generator=draw), torch.randn(16, 6, generator=draw)
    images = as_bytes(net(truth))
    labels = torch.zeros(16, dtype=torch.int64)
    space = Latents(net, pool, box, starts=4)
    seen = box.features_of(images)
    found = Search(space, box, FEW).images(seen, labels, 0.0)
    nearest = as_bytes(net(space.starts(seen, labels)[:, 0]))
    assert mse(found, images).median() < 0.02 * mse(nearest, images).median()


def test_starts_are_the_nearest_of_the_pool(scene: Callable[..., Scene]) -> None:
    net, box = _generator(), scene().box
    pool = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    space = Latents(net, pool, box, starts=3)
    with torch.no_grad():
        seen = box.features(WHITE * net(pool[[5, 20]]))
        far = (box.features(WHITE * net(pool)) - seen[:1]).square().flatten(1).sum(1)
    starts = space.starts(seen, torch.zeros(2, dtype=torch.int64))
    assert starts.shape == (2, 3, 6)
    assert torch.equal(starts[:, 0], pool[[5, 20]])
    assert torch.equal(starts[0], pool[far.argsort()[:3]])


def test_prior_pulls_latents_to_the_middle(scene: Callable[..., Scene]) -> None:
    net, s = _generator(), scene()
    space = Latents(
        net, torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), s.box, starts=1
    )
    labels = torch.zeros(1, dtype=torch.int64)
    middle = as_bytes(net(torch.zeros(1, 6)))
    free, pulled = (
        mse(Search(space, s.box, FEW).images(s.seen[:1], labels, weight), middle).item()
        for weight in (0.0, 1000.0)
    )
    assert pulled < 1 < free


def test_one_generator_serves_two_scenes(scene: Callable[..., Scene]) -> None:
    noisy = scene(known=64, scale=0.5)
    generator = torch.Generator().manual_seed(0)
    attack = LatentSearch(LatentPlan(gan=GAN, search=replace(FEW, tuning=4), pool=8, starts=1))
    first = [p.attacker for p in attack.learn(noisy, noisy.known, generator=generator)]
    gan = attack._gan
    assert attack.note.startswith("generator of 1 epochs, prior weighs 0")
    again = [p.attacker for p in attack.learn(noisy.unshielded(), noisy.known, generator=generator)]
    assert first == ["generator", "tuning", "tuning"]
    assert again == ["tuning", "tuning"]
    assert attack._gan is gan


def test_takes_as_many_victims_as_planned() -> None:
    attack = LatentSearch(LatentPlan(search=replace(FEW, victims=10)))
    assert (attack.most, attack.batch_size, attack.rounds) == (10, 64, 0)
    assert LatentSearch().most == LATENTS.victims


@pytest.mark.parametrize(("pool", "starts"), [(4, 5), (4, 0)])
def test_more_starts_than_there_are(pool: int, starts: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 4 starts"):
        LatentPlan(pool=pool, starts=starts)


def test_the_weight_is_chosen_by_images_that_taught_nothing(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[Pictures] = []
    chose: list[Pictures] = []
    learn, tune = Gan.learn, Search.tune

    def spied_learn(gan: Gan, own: Pictures, *, generator: torch.Generator) -> Iterator[Progress]:
        taught.append(own)
        return learn(gan, own, generator=generator)

    def spied_tune(
        search: Search, name: str, at: Scene, own: Pictures, *, generator: torch.Generator
    ) -> Iterator[Progress]:
        chose.append(own)
        return tune(search, name, at, own, generator=generator)

    monkeypatch.setattr(Gan, "learn", spied_learn)
    monkeypatch.setattr(Search, "tune", spied_tune)
    s = scene(known=64)
    attack = LatentSearch(LatentPlan(gan=GAN, search=replace(FEW, tuning=4), pool=8, starts=1))
    list(attack.learn(s, s.known, generator=torch.Generator().manual_seed(0)))
    assert (len(taught[0]), len(chose[0])) == (60, 4)
    together = torch.cat([chose[0].images, taught[0].images])
    assert torch.equal(together, s.known.images)
