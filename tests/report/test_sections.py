import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eaves.report.runs import read_runs
from eaves.report.sections import COST_HEADS, RUN_HEADS, View, view_of

Folder = Callable[..., Path]
Json = dict[str, Any]


def view(folder: Path, *, gallery: bool = True) -> View:
    return view_of(read_runs([folder])[0], gallery=gallery)


def test_the_lines_of_a_run(run_folder: Folder) -> None:
    found = view(run_folder())
    assert dict(zip(RUN_HEADS, found.cells, strict=True)) == {
        "#": "1",
        "run": "run",
        "method": "priphit",
        "net": "small",
        "cut": "layer2",
        "data": "faces:Smiling",
        "accuracy %": "89.3 ±1.9",
        "exit %": "88.0 ±2.0",
        "best attack %": "Male 65.1 ±2.9, Hat 65.1 ±2.9",
        "balanced %": "Male 65.1 ±2.9, Hat 65.1 ±2.9",
        "ε, one value: release, total": "1.25, 2.5",
        "ε, tensor: release, total": "77.12, infinite",
    }
    assert dict(zip(COST_HEADS, found.costs, strict=True)) == {
        "#": "1",
        "run": "run",
        "sent, a sample": "102 B",
        "sent, all": "1.2 MB",
        "edge memory": "8.7 MB",
        "edge busy": "30 s",
        "cloud busy": "90 s",
        "edge's share of computing time": "25 %",
        "wall time": "100 s",
    }


def test_the_place_in_the_trade_off(run_folder: Folder) -> None:
    point = view(run_folder()).points["Male"]
    assert (point.number, point.method) == (1, "priphit")
    assert (point.accuracy["value"], point.attack["value"]) == (0.893, 0.651)
    assert (point.chance, point.label_alone) == (0.614, 0.571)


def test_a_run_that_nobody_attacked(run_folder: Folder, run_json: Json) -> None:
    folder = run_folder(audited=False)
    run_json |= {"privacy": None, "cut": None}
    run_json["accuracy"]["cloud"] = None
    run_json["bytes"]["per_sample_up"] = None
    run_json["time"] |= {"edge_busy_s": 0.0, "cloud_busy_s": 0.0}
    (folder / "record.json").write_text(json.dumps(run_json))
    found = view(folder)
    assert found.points == {}
    assert [found.cells[4], found.cells[6], *found.cells[8:]] == ["-"] * 6
    assert (found.costs[2], found.costs[-2]) == ("-", "-")
    text = found.section
    assert "This run was not attacked yet. Do: eaves audit run" in text
    assert "no formal guarantee" in text


def test_an_audit_that_is_not_to_be_relied_on_says_so(run_folder: Folder, audit_json: Json) -> None:
    assert 'class="warning"' not in view(run_folder("whole"), gallery=False).section
    audit_json["complete"] = False
    interrupted = view(run_folder("part"), gallery=False).section
    assert '<p class="warning">The audit was interrupted' in interrupted
    audit_json["complete"] = True
    audit_json["attributes"]["Male"]["control"]["sound"] = False
    broken = view(run_folder("broken"), gallery=False).section
    assert '<p class="warning">Control: with shuffled labels' in broken


def test_whose_it_is_has_a_part_of_its_own(run_folder: Folder, audit_json: Json) -> None:
    text = view(run_folder("new"), gallery=False).section
    assert "<h3>Whose it is</h3>" in text
    assert "mean rank / 4,000" in text
    assert "differential privacy" in text
    del audit_json["identity"]  # as in an audit that was made before there was one
    assert "Whose it is" not in view(run_folder("old"), gallery=False).section
    audit_json["subject"]["method"] = "datamix"
    mixed = view(run_folder("mixed"), gallery=False).section
    assert "mixtures have no owner" in mixed
    assert "mean rank" not in mixed


def test_a_run_can_be_repeated_from_what_is_said(run_folder: Folder) -> None:
    text = view(run_folder()).section
    for fact in (
        "eaves train --method priphit --data faces:Smiling --epochs 30 --private Male,Hat",
        "eaves audit RUN --attacks all --max-attack 0.7",
        "eaves 0.1.0, torch 2.0; Some CPU, 2 cores",
        "configuration c0ffee",
    ):
        assert fact in text
    assert "some/where" not in text  # a place on a machine is private
