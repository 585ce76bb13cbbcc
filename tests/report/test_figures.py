"""Figures of a plan: in the format asked for, with every way in them, or refused in words."""

import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.core.rates import Rate
from eaves.errors import ConfigError, StorageError
from eaves.experiments.planconfig import PlanConfig
from eaves.experiments.planning import plan
from eaves.planner.profile import Profile
from eaves.planner.search import Plan
from eaves.report.figures import draw_plan, expect_figure, pareto, rank_curve
from eaves.report.plans import shown

BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF-", ".svg": b"<?xml"}
POINTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30)


@pytest.fixture(scope="module")
def limited(figures: Profile) -> Plan:
    """Return a plan that refuses some ways."""
    return plan(PlanConfig(cloud="a100", max_bytes=300), figures)


def texts(path: Path) -> list[str]:
    """Return what is written in an SVG: matplotlib names the text of each group of glyphs."""
    return [unescape(text) for text in re.findall(r"<!-- (.*?) -->", path.read_text())]


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_the_ending_is_the_format(limited: Plan, tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new folder" / f"plan{ending}"
    for _ in range(2):  # over what is there
        draw_plan(limited, path)
        assert path.read_bytes().startswith(BEGINNINGS[ending])
    assert list(path.parent.iterdir()) == [path]


def test_every_way_is_in_the_picture(limited: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.svg"
    draw_plan(limited, path)
    found = texts(path)
    first, *_ = verdicts = shown(limited, everything=False)
    assert f"best: {first.row.candidate}" in found
    refused = [text for text in found if text.startswith("refused: ")]
    assert len(refused) == sum(bool(v.refused) for v in verdicts) > 0
    ways = {str(v.row.candidate): v for v in limited.verdicts}
    assert all(ways[text.removeprefix("refused: ")].refused for text in refused)
    drawn = {text.rpartition(": ")[2] for text in found}
    assert {str(v.row.candidate) for v in verdicts} <= drawn
    assert "small, 1x8x8" in found
    assert {"edge", "link", "cloud", "seconds per epoch", "memory, MB"} <= set(found)


def test_answers_are_drawn_too(figures: Profile, tmp_path: Path) -> None:
    path = tmp_path / "plan.svg"
    draw_plan(plan(PlanConfig(inference=True, edge="phone", cloud="h200"), figures), path)
    assert any("siamese" in text for text in texts(path))


def test_a_way_alone_is_drawn(figures: Profile, tmp_path: Path) -> None:
    """Which sends nothing: an axis has to bear a single 0."""
    path = tmp_path / "plan.svg"
    draw_plan(plan(PlanConfig(methods="full-edge"), figures), path)
    assert "best: full-edge" in texts(path)


def test_a_way_that_takes_far_longer_leaves_the_picture_with_its_time(
    figures: Profile, tmp_path: Path
) -> None:
    found = plan(PlanConfig(cloud="a100", link="0.001", methods="full-edge,split"), figures)
    slowest = max(v.row.cost.epoch_s for v in shown(found, everything=False))
    path = tmp_path / "plan.svg"
    draw_plan(found, path)
    assert slowest > 1000 * found.best.cost.epoch_s
    assert f"{slowest:,.0f} s" in texts(path)


def ranked(noise: float, snr_db: float | None) -> dict[str, Any]:
    return {
        "noise": noise,
        "snr_db": snr_db,
        "accuracy": Rate.of(900 - round(20 * noise), 1000).as_json(),
        "privacy": Rate.of(round(100 * noise), 1000).as_json(),
        "log_rank": 0.1 + noise / 10,
        "at_rank_1": 1 / (1 + noise),
        "chance": 0.5,
    }


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_whose_it_is_is_drawn_against_the_noise(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rank{ending}"
    rows = [ranked(2.0, -3.0), ranked(0.0, None), ranked(0.1, 10.0)]
    rank_curve(rows, path, title="faces")
    assert path.read_bytes().startswith(BEGINNINGS[ending])
    if ending == ".svg":
        found = texts(path)
        assert {"faces", "task accuracy", "mean rank / candidates", "found first, share"} <= set(
            found
        )
        ratios = [text for text in found if text in ("none", "10.0", "-3.0")]
        assert ratios == ["none", "10.0", "-3.0"]  # in the order of the noise, 0 included
        assert "mean rank by chance" in found


@pytest.mark.parametrize("rows", [[ranked(0.0, None)], [ranked(0.5, 3.0)]])
def test_one_noise_alone_is_drawn(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    rank_curve(rows, tmp_path / "rank.svg")
    assert "task accuracy" in texts(tmp_path / "rank.svg")


def test_no_noise_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected rows to draw, got none"):
        rank_curve([], tmp_path / "rank.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plan.txt", "plan", "plan.png.gz", ".png"])
def test_other_formats_are_refused(limited: Plan, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"expected a figure in \.png, \.pdf, \.svg, got .*plan|\."
    ):
        draw_plan(limited, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_what_to_install(
    limited: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r'figures need matplotlib: pip install "eaves\[lab\]"'
    with pytest.raises(ConfigError, match=message):
        draw_plan(limited, tmp_path / "plan.png")
    with pytest.raises(ConfigError, match=message):
        expect_figure(tmp_path / "plan.png")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(limited: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(StorageError, match=r"cannot write .*plan\.svg"):
        draw_plan(limited, tmp_path / "file" / "plan.svg")
    assert (tmp_path / "file").read_text() == "here"


@given(POINTS)
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        return any(
            other != point and other[0] <= point[0] and other[1] <= point[1] for other in points
        )

    assert pareto(points) == sorted({point for point in points if not beaten(point)})
