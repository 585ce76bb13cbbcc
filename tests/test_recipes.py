"""The recipes of the published figures are configurations that can be built."""

from pathlib import Path

import pytest

from eaves.experiments.build import wire_of
from eaves.experiments.compare import compared
from eaves.experiments.config import load_config

RECIPES = sorted((Path(__file__).parents[1] / "benchmarks" / "recipes").glob("*.toml"))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 4


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_and_all_that_it_compares_can_be_configured(path: Path) -> None:
    config = load_config(path)
    runs = compared(config)
    assert "full-cloud" in runs
    for one in (config, *runs.values()):
        assert wire_of(one).codec.name
    text = (path.parents[2] / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert path.name in text
