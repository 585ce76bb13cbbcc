"""How long a cloud trains, and the share of each edge in that."""

from typing import Any

import pytest

from eaves.errors import ConfigError
from eaves.network.policy import TrainingPolicy


@pytest.mark.parametrize(
    ("policy", "edges", "at_once", "steps", "share"),
    [
        ({"run_uploads": 6}, 1, 1, 6, 6),
        ({"run_uploads": 6}, 3, 3, 6, 6),
        ({"run_uploads": 1}, 2, 4, 1, 1),
        ({}, 3, 1, 0, None),
        ({"total_steps": 100}, 1, 1, 0, 100),
        ({"total_steps": 100}, 2, 1, 0, 100),
        ({"total_steps": 100}, 10, 10, 0, 200),
        ({"run_uploads": 6, "final_rate": 0.1}, 1, 1, 6, None),
    ],
)
def test_steps_and_shares(
    policy: dict[str, Any], edges: int, at_once: int, steps: int, share: int | None
) -> None:
    made = TrainingPolicy(**policy)
    assert made.steps(edges=edges, at_once=at_once) == steps
    assert made.share(edges=edges, at_once=at_once) == share


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a merge rule of auto, mean, .* got 'mode'"):
        TrainingPolicy(merge_rule="mode")
    with pytest.raises(ConfigError, match="final rate from 0 to 1, got 2"):
        TrainingPolicy(final_rate=2)
