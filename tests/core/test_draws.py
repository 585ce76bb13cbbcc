"""Parts that draw random numbers in their layers: each from a state of its own."""

import threading

import torch
from torch import Tensor, nn

from eaves.core.draws import Draws
from eaves.core.optimise import OneCycle, Optimised

CPU = torch.device("cpu")


def test_what_others_draw_changes_nothing() -> None:
    torch.manual_seed(0)
    draws = Draws(CPU)
    with draws.own():
        first = torch.rand(3)
    torch.rand(100)  # the rest of the program draws too
    with draws.own():
        second = torch.rand(3)

    torch.manual_seed(0)
    alone = Draws(CPU)
    with alone.own():
        both = torch.rand(6)
    assert torch.equal(torch.cat([first, second]), both)


def test_the_rest_of_the_program_is_not_disturbed() -> None:
    draws = Draws(CPU)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with draws.own():
        torch.rand(50)
    assert torch.equal(torch.rand(2), expected)


def test_a_part_that_does_not_draw_never_waits_for_one_that_does() -> None:
    quiet = Draws(CPU)
    with quiet.own():
        pass
    done = threading.Event()

    def go() -> None:
        with quiet.own():
            done.set()

    drawing = Draws(CPU)
    with drawing.own():
        torch.rand(1)
        thread = threading.Thread(target=go)
        thread.start()
        assert done.wait(10)
    thread.join()


def _trained(steps: int, noise: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    part = Optimised({"net": net}, OneCycle(total_steps=10), CPU)
    x = torch.arange(12.0).reshape(3, 4) / 12
    for i in range(steps):
        if noise:
            torch.rand(7)
        if i == 2:  # as a run that is interrupted and resumed
            part.load_state(part.state())
        with part.forward():
            loss = part.modules["net"](x).square().mean()
        part.descend(loss)
    return part.state().tensors


def test_dropout_is_repeated_whatever_else_draws_and_across_a_saved_state() -> None:
    quiet, noisy = _trained(5, noise=False), _trained(5, noise=True)
    assert quiet.keys() == noisy.keys()
    assert all(torch.equal(quiet[name], noisy[name]) for name in quiet)
