"""DeepObfuscator: the reconstructor, what the edge makes it rebuild, and both opponents together.

Dimension key:  B batch   C channels   H, W height and width
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from eaves.core.roles import Batch
from eaves.core.ssim import ssim
from eaves.errors import ConfigError
from eaves.methods.deepobfuscator import Reconstruction, Reconstructor, deepobfuscator
from eaves.methods.setup import Hiding, Method, Setup
from eaves.privacy.sources import Pseudo

Hide = Callable[..., Hiding]
Toy = Callable[..., Setup]
Bits = Callable[..., Batch]
CPU = torch.device("cpu")


def _noise() -> Pseudo:
    return Pseudo(torch.Generator().manual_seed(0))


def _reconstruction(hiding: Hiding) -> Reconstruction:
    torch.manual_seed(0)
    return Reconstruction((4, 4, 4), (1, 8, 8), hiding, CPU)


def _features(batch: Batch) -> Tensor:
    """Return features (B, 4, 4, 4) that hold the whole image."""
    return nn.functional.pixel_unshuffle(batch.inputs.float() / 127.5 - 1, 2)


def _net(reconstruction: Reconstruction) -> Reconstructor:
    net = reconstruction.part.modules["reconstructor"]
    assert isinstance(net, Reconstructor)
    return net


def _likeness(reconstruction: Reconstruction, z: Tensor, x_BCHW: Tensor) -> float:
    with torch.no_grad():
        return ssim(_net(reconstruction)(z), x_BCHW, white=1).mean().item()


@pytest.mark.parametrize(
    ("features", "image"),
    [
        ((4, 4, 4), (1, 8, 8)),
        ((2, 8, 8), (3, 64, 64)),
        ((8, 3, 5), (3, 21, 30)),
        ((6, 8, 8), (1, 8, 8)),
        ((2, 9, 9), (1, 5, 7)),
        ((10,), (3, 12, 12)),
    ],
)
def test_it_rebuilds_images_of_any_size_from_any_features(
    features: tuple[int, ...], image: tuple[int, ...]
) -> None:
    net = Reconstructor(features, image)
    rebuilt_BCHW = net(torch.randn(2, *features))
    assert rebuilt_BCHW.shape == (2, *image)
    assert rebuilt_BCHW.min() >= 0
    assert rebuilt_BCHW.max() <= 1
    assert net.noise_CHW.shape == image
    assert 0 <= net.noise_CHW.min() < net.noise_CHW.max() <= 1


def test_inputs_that_are_no_images_are_refused(hide: Hide) -> None:
    with pytest.raises(ConfigError, match=r"hides images \(C, H, W\), got inputs \(40,\)"):
        Reconstruction((4,), (40,), hide(), CPU)


def test_the_reconstructor_learns_to_rebuild(hide: Hide, bits: Bits) -> None:
    reconstruction, batch = _reconstruction(hide(adversary_steps=2)), bits(0)
    z, x_BCHW = _features(batch), batch.inputs / 255
    before = _likeness(reconstruction, z, x_BCHW)
    figures = [reconstruction.learn(z, _noise(), batch)["ssim"] for _ in range(30)]
    assert reconstruction.part.steps == 60
    after = _likeness(reconstruction, z, x_BCHW)
    assert before < 0.3
    assert after > 0.6
    assert figures[0] < 0.3
    assert figures[-1] == pytest.approx(after, abs=0.05)


def test_it_learns_from_features_with_fresh_noise(hide: Hide, bits: Bits) -> None:
    batch, figures = bits(0), []
    for noise in (0.0, 3.0):
        reconstruction = _reconstruction(hide(noise=noise))
        z = _features(batch)
        for _ in range(40):
            found = reconstruction.learn(z, _noise(), batch)
        figures.append(found["ssim"])
    assert figures[1] < figures[0] - 0.1


def test_the_penalty_is_likeness_to_the_input_less_likeness_to_noise(
    hide: Hide, bits: Bits
) -> None:
    reconstruction, batch = _reconstruction(hide()), bits(0)
    z, net = _features(batch), _net(reconstruction)
    value = reconstruction.penalty(z, batch)
    noise_BCHW = net.noise_CHW.repeat(64, 1, 1, 1)
    rebuilt_BCHW = net(z)
    like_input = ssim(255 * rebuilt_BCHW, batch.inputs).mean()
    like_noise = ssim(255 * rebuilt_BCHW, 255 * noise_BCHW).mean()
    assert value.item() == pytest.approx((like_input - like_noise).item(), abs=1e-5)


def test_down_the_penalty_the_image_is_rebuilt_less_well(hide: Hide, bits: Bits) -> None:
    reconstruction, batch = _reconstruction(hide()), bits(0)
    z, x_BCHW = _features(batch), batch.inputs / 255
    for _ in range(60):
        reconstruction.learn(z, _noise(), batch)
    noise_BCHW = _net(reconstruction).noise_CHW.repeat(64, 1, 1, 1)
    sent = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reconstruction.penalty(sent, batch), sent)
    step = 2 * gradient / gradient.norm()
    for target_BCHW, sign in ((x_BCHW, 1), (noise_BCHW, -1)):
        down, up = (_likeness(reconstruction, z + s, target_BCHW) for s in (-step, step))
        assert sign * (up - down) > 1e-3


def test_the_penalty_leaves_the_reconstructor_as_it_is(hide: Hide, bits: Bits) -> None:
    reconstruction, batch = _reconstruction(hide()), bits(0)
    net, z = _net(reconstruction), _features(batch)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    sent = z.clone().requires_grad_()
    torch.autograd.backward(reconstruction.penalty(sent, batch))
    assert sent.grad is not None
    assert sent.grad.abs().sum() > 0
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    reconstruction.learn(z, _noise(), batch)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == before.keys() - {"noise_CHW"}


def test_the_image_of_noise_is_saved_with_the_weights(hide: Hide, toy: Toy) -> None:
    method, other = (deepobfuscator(toy(hide(), seed=seed)) for seed in (0, 1))
    key = "defence0/weights/reconstructor.noise_CHW"
    saved = method.edge.state()
    assert not torch.equal(saved.tensors[key], other.edge.state().tensors[key])
    other.edge.load_state(saved)
    assert torch.equal(saved.tensors[key], other.edge.state().tensors[key])


def test_attributes_are_hidden_by_reversal_whatever_the_aim(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    losses = []
    for aim in ("uniform", "entropy", "reversal"):
        method = deepobfuscator(toy(hide(loss=aim)))
        losses.append([method.edge.step(bits(i, 16))[1] for i in range(3)])
    assert losses[0] == losses[1] == losses[2]
    assert losses[0][0].keys() == {"loss", "accuracy", "ssim", "adversary"}


def test_without_adversaries_the_reconstructor_is_the_only_opponent(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    method = deepobfuscator(toy(hide(adversaries=0)))
    batch = bits(0)
    _, losses = method.edge.step(Batch(batch.inputs, batch.labels))
    assert losses.keys() == {"loss", "accuracy", "ssim"}


def _rebuilt(method: Method, hiding: Hiding, bits: Bits) -> float:
    """Return how like the victims a fresh reconstructor rebuilds them."""
    attacker, known, victims = _reconstruction(hiding), bits(10_001, 1000), bits(10_002, 500)
    z, _ = method.edge_predictor.predict(known.inputs)
    sent, _ = method.edge_predictor.predict(victims.inputs)
    assert z is not None
    assert sent is not None
    for _ in range(200):
        attacker.learn(z, _noise(), known)
    return _likeness(attacker, sent, victims.inputs / 255)


@pytest.mark.slow
def test_less_of_the_image_and_of_the_private_bit_can_be_read(
    hide: Hide, toy: Toy, bits: Bits, read: Callable[[Method], tuple[float, float]]
) -> None:
    found = []
    for weight in (0.0, 1.0):
        # With one step each the edge outruns the reconstructor, and a fresh one sees more.
        hiding = hide(noise=0.5, weight=weight, adversaries=0, adversary_steps=3, ramp_steps=40)
        method = deepobfuscator(toy(hiding, steps=150))
        for i in range(150):
            method.edge.step(bits(i))
        found.append((*read(method), _rebuilt(method, hide(), bits)))
    (task, attack, likeness), (hidden_task, hidden_attack, hidden_likeness) = found
    assert min(task, hidden_task) > 0.97
    assert hidden_attack < attack - 0.1
    assert hidden_likeness < likeness - 0.05
