"""The shield that does nothing; those that do are tested with their methods."""

import torch

from eaves.core.shield import Open


def test_an_open_shield_changes_nothing() -> None:
    x = torch.randn(3, 2)
    queries, reveal = Open().protect(x)
    assert queries is x
    assert reveal(x) is x
    assert Open().counts == {}
