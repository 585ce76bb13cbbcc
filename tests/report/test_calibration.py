"""A calibration as table, figure and JSON: the choice is in each of them, with its neighbours."""

import json
import re
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from eaves.core.calibration import Scored
from eaves.errors import ConfigError, StorageError
from eaves.experiments.calibrating import Calibration, Target, choose
from eaves.report.calibration import (
    calibration_json,
    calibration_table,
    draw_calibration,
    shown,
)

BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF-", ".svg": b"<?xml"}


def calibration(share: float = 0.4, rule: str = "confidence", n: int = 2000) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    early = torch.rand(n, generator=generator) < scores
    late = torch.rand(n, generator=generator) < 0.9
    scored = Scored(scores=scores, exit_right=early, cloud_right=late)
    return choose(scored, Target(rule=rule, share=share))


def printed(found: Calibration) -> list[str]:
    out = StringIO()
    Console(file=out, width=200).print(calibration_table(found))
    return out.getvalue().splitlines()


def line(lines: list[str], first: str) -> list[str]:
    """Return the cells of the line that begins so."""
    text = next(text.strip() for text in lines if text.strip().startswith(first))
    return text.removeprefix(first).split()


def test_the_table_has_the_choice_and_what_was_measured_of_it() -> None:
    found = calibration()
    lines = printed(found)
    assert "Final: confidence above the threshold" in lines[0]
    for name, point in (("chosen", found.chosen), ("measured", found.measured)):
        rate = point.accuracy
        assert line(lines, name) == [
            f"{found.rule.threshold:.6g}",
            f"{100 * point.share_sent:.1f}",
            f"{100 * rate.value:.1f}",
            f"±{100 * (rate.high - rate.low) / 2:.1f}",
        ]
    assert line(lines, "exit alone")[:2] == ["0.0", f"{100 * found.exit_alone.value:.1f}"]
    assert line(lines, "cloud alone")[:2] == ["100.0", f"{100 * found.cloud_alone.value:.1f}"]
    assert "the 1000 examples that chose the threshold" in " ".join(" ".join(lines).split())
    below = printed(calibration(rule="entropy"))
    assert "Final: entropy below the threshold" in below[0]


@settings(deadline=None, max_examples=40)  # a busy machine is no failure
@given(share=st.floats(0, 1), n=st.integers(2, 400))
def test_a_dozen_points_are_shown_with_the_choice_its_neighbours_and_the_ends(
    share: float, n: int
) -> None:
    found = calibration(share, n=n)
    points, rows = found.curve.points, shown(found.curve, found.chosen)
    at = points.index(found.chosen)
    assert {points[0], points[-1], *points[max(at - 1, 0) : at + 2]} <= set(rows)
    assert [p.sent for p in rows] == sorted({p.sent for p in rows}, reverse=True)
    assert len(rows) <= 14
    if len(points) > 30:
        shares = [p.share_sent for p in rows]
        assert len(rows) >= 9
        gaps = [a - b for a, b in pairwise(shares)]
        assert max(gaps) < 0.2  # no part of the curve is left out


def test_the_json_has_the_choice_and_a_thinned_curve() -> None:
    found = calibration()
    facts = json.loads(json.dumps(calibration_json(found), allow_nan=False))
    curve = facts.pop("curve")
    assert facts == found.as_json()
    assert found.chosen.as_json() in curve
    assert len(found.curve.points) > 900
    assert 190 <= len(curve) <= 200
    assert curve[0]["share_sent"] == 1
    assert curve[-1]["share_sent"] == 0
    few = calibration(n=20)
    assert len(calibration_json(few)["curve"]) == len(few.curve.points) == 11


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_the_ending_is_the_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new folder" / f"curve{ending}"
    for _ in range(2):  # over what is there
        draw_calibration(calibration(), path)
        assert path.read_bytes().startswith(BEGINNINGS[ending])
    assert list(path.parent.iterdir()) == [path]


def test_the_picture_names_what_is_in_it(tmp_path: Path) -> None:
    found, path = calibration(rule="entropy"), tmp_path / "curve.svg"
    draw_calibration(found, path)
    texts = set(re.findall(r"<!-- (.*?) -->", path.read_text()))
    assert f"chosen, others: entropy {found.rule.threshold:.4g}" in texts
    assert {"exit alone, others", "cloud alone, others", "sent to the cloud, %"} <= texts


def test_one_example_in_each_half_is_drawn(tmp_path: Path) -> None:
    draw_calibration(calibration(1.0, n=2), tmp_path / "curve.png")
    assert len(printed(calibration(1.0, n=2))) > 5


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a figure in \.png, \.pdf, \.svg"):
        draw_calibration(calibration(), tmp_path / "curve.txt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("here")
    with pytest.raises(StorageError, match=r"cannot write .*curve\.svg"):
        draw_calibration(calibration(), tmp_path / "file" / "curve.svg")
