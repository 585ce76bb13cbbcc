import re
from typing import Any
from xml.etree import ElementTree

import pytest

from eaves.core.rates import Rate
from eaves.report.tradeoff import Point, draw_tradeoff


def point(number: int, method: str = "priphit", **changes: Any) -> Point:
    facts: dict[str, Any] = {
        "number": number,
        "method": method,
        "accuracy": Rate.of(900 - 10 * number, 1000).as_json(),
        "attack": Rate.of(600 + 20 * number, 1000).as_json(),
        "chance": 0.614,
        "label_alone": 0.65,
    }
    return Point(**(facts | changes))


def texts(svg: bytes) -> list[str]:
    """Return what is written in a figure: matplotlib keeps it beside the shapes of the letters."""
    return re.findall(r"<!-- (.*?) -->", svg.decode())


def test_points_carry_the_number_of_their_run_and_the_look_of_their_method() -> None:
    found = texts(draw_tradeoff([point(11), point(12), point(13, "hierarchical")]))
    assert {"11", "12", "13"} <= set(found)
    assert [found.count(name) for name in ("priphit", "hierarchical", "other")] == [1, 1, 0]
    assert "task accuracy of the cloud, %" in found
    assert found.count("chance") == 1  # the same for all three
    assert found.count("label alone") == 1


def test_chance_is_drawn_for_each_data_set() -> None:
    found = texts(draw_tradeoff([point(1), point(2, chance=0.5, label_alone=None)]))
    assert found.count("chance") == 2
    assert found.count("label alone") == 1


@pytest.mark.parametrize("method", ["$\\frac{", "_hidden", "\N{SNOWMAN}"])
def test_a_method_that_nobody_knows_is_another(method: str) -> None:
    assert "other" in texts(draw_tradeoff([point(1, method)]))


def test_the_figure_is_whole_and_points_nowhere() -> None:
    svg = draw_tradeoff([point(1)])
    root = ElementTree.fromstring(svg)
    links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith(("href", "src"))]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not list(root.iter("{http://www.w3.org/2000/svg}text"))  # letters are shapes
