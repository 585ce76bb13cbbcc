"""An intercept refuses what does not fit its queries."""

from typing import Any

import pytest
import torch

from eaves.audit.intercept import Intercept
from eaves.errors import ConfigError

QUERIES = torch.zeros(3, 2, 1, 4, 4)


def test_knowledge_that_fits() -> None:
    seen = Intercept(
        queries=QUERIES,
        noise_std=0.5,
        own=torch.zeros(9, 1, 4, 4),
        plaintext=torch.zeros(3, 1, 4, 4),
        matrices=torch.zeros(3, 2, 2),
    )
    assert seen.mix is None


@pytest.mark.parametrize(
    "queries",
    [
        torch.zeros(3, 1, 1, 4, 4),  # one source is not mixed
        torch.zeros(3, 2, 4, 4),
        torch.zeros(0, 2, 1, 4, 4),
        torch.zeros(3, 2, 1, 4, 4, dtype=torch.uint8),
        torch.full((3, 2, 1, 4, 4), float("nan")),
    ],
)
def test_queries_that_are_none(queries: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"expected finite queries \(G, K, C, H, W\)"):
        Intercept(queries=queries)


@pytest.mark.parametrize(
    ("knowledge", "shape"),
    [
        ({"own": torch.zeros(3, 1, 4, 4)}, r"\(4, 1, 4, 4\) or more"),  # two groups or more
        ({"own": torch.zeros(9, 3, 4, 4)}, r"\(4, 1, 4, 4\) or more"),
        ({"plaintext": torch.zeros(4, 1, 4, 4)}, r"\(3, 1, 4, 4\), as"),
        ({"plaintext": torch.full((3, 1, 4, 4), float("inf"))}, r"\(3, 1, 4, 4\), as"),
        ({"matrices": torch.zeros(3, 2, 3)}, r"\(3, 2, 2\), as"),
    ],
)
def test_knowledge_that_does_not_fit(knowledge: dict[str, Any], shape: str) -> None:
    with pytest.raises(ConfigError, match=f"finite and of shape {shape}"):
        Intercept(queries=QUERIES, **knowledge)


@pytest.mark.parametrize("noise_std", [-0.1, float("nan"), float("inf")])
def test_noise_that_cannot_be(noise_std: float) -> None:
    with pytest.raises(ConfigError, match="expected noise_std"):
        Intercept(queries=QUERIES, noise_std=noise_std)
