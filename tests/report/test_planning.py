"""A planning session as a stranger meets it: profiles, plans, probes, figures, files, mistakes."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eaves.commands.main import main
from eaves.experiments.config import load_config
from eaves.planner.devices import DEVICES
from eaves.planner.profile import Profile, load_profile, parse_profile
from eaves.planner.search import OBJECTIVES
from eaves.report import planning

Eaves = Callable[..., Any]  # the command: takes its words, returns how it ended

WRONG: tuple[Any, ...] = (None, "many", "[/b]", -1, 0, 1.5, 1e300, True, [], {}, [1], {"a": 1})
TAKEN = ("--input", "1x8x8", "--batch-size", "16", "--codecs", "int8,int4+zstd", "--device", "cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a profile that the command took of this machine."""
    path = tmp_path_factory.mktemp("profile") / "here.json"
    assert main(["profile", "--out", str(path), "--seconds", "0", *TAKEN]) == 0
    return path


def facts(ended: Any) -> dict[str, Any]:
    """Return the plan that was printed as one line of JSON, without NaN or infinity."""
    assert ended.code == 0, ended.err

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    [line] = ended.out.splitlines()
    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return found


def in_words(row: dict[str, Any]) -> str:
    once = "once" if row["send"] == "once" else None
    return " ".join(filter(None, (row["method"], row["cut"], row["codec"], once)))


# Profiles


def test_a_profile_that_was_taken(eaves: Eaves, measured: Path) -> None:
    found = load_profile(measured)
    assert found.measured
    assert (found.subject.net, found.subject.input_shape) == ("small", (1, 8, 8))
    assert found.subject.batch_size == 16
    assert found.machine["gpu"] is None
    assert found.machine["threads_per_side"] == 1


def test_a_profile_is_printed(eaves: Eaves, tmp_path: Path) -> None:
    out = tmp_path / "[out]" / "p.json"  # brackets are markup to some
    ended = eaves("profile", "--seconds", "0", "--out", out, *TAKEN)
    assert ended.code == 0
    for text in ("conv1", "exit at conv3", "training peak", "int4+zstd", "conv2/reply", str(out)):
        assert text in ended.out
    hint = ended.out.splitlines()[-1].partition("plan with it: eaves ")[2]
    assert eaves(*hint.split()).code == 0  # what is recommended works
    line = eaves("profile", "--seconds", "0", "--json", *TAKEN)
    assert line.code == 0
    [text] = line.out.splitlines()
    printed, written = json.loads(text), json.loads(out.read_text())
    assert printed["subject"] == written["subject"]
    assert printed.keys() == written.keys() | {"on_device"}
    assert parse_profile(text, "printed").subject == load_profile(out).subject


def test_what_a_cut_costs_the_device_is_shown_of_a_profile(
    eaves: Eaves, profile_file: Path, tmp_path: Path
) -> None:
    """Also of one that knew nothing of it; with the figures that a plan has."""
    words = ("profile", "--show", profile_file, "--components", "16", "--watts", "6/2")
    ended, line = eaves(*words), eaves(*words, "--json")
    assert ended.code == line.code == 0
    for text in ("On the device, in inference, batch 128", "16 numbers, int8", "of a profile that"):
        assert text in ended.out
    rows = json.loads(line.out)["on_device"]
    assert [row["cut"] for row in rows] == ["conv1", "conv1", "conv2", "conv2", "conv3", "conv3"]
    planned = facts(
        eaves(
            *("plan", "--edge", profile_file, "--cloud", "a100", "--inference", "--json"),
            *("--methods", "siamese", "--components", "16"),
        )
    )["rows"]
    held = {row["cut"]: (row["bytes_per_sample"], row["memory_bytes"]) for row in planned}
    assert held == {
        row["cut"]: (row["bytes_per_input"], row["memory_bytes"])
        for row in rows
        if row["embedding"] == "16 numbers"
    }
    for row in rows:
        assert row["energy_j"] == pytest.approx(6 * row["time"]["median_s"] / 128)
    copy = tmp_path / "copy.json"
    assert eaves(*words, "--out", copy).code == 0
    assert load_profile(copy) == load_profile(profile_file)


def test_showing_a_profile_needs_no_torch(profile_file: Path) -> None:
    code = (
        "import sys; from eaves.commands.main import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-W", "error", "-c", code, "profile", "--show", str(profile_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "On the device" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--net", "vgg16"], "the profile is not of what is asked for: net vgg16 and small"),
        (["--components", "0"], "expected --components of 1 or more, got 0"),
        (["--watts", "6"], "expected --watts as BUSY/IDLE, as in 10/2"),
        (["--out", "p.txt"], "expected --out to end in .json"),
    ],
)
def test_a_profile_that_cannot_be_shown_is_one_line(
    eaves: Eaves, profile_file: Path, words: list[str], message: str
) -> None:
    ended = eaves("profile", "--show", profile_file, *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"eaves: {message}")


def test_a_batch_of_one_is_a_profile(eaves: Eaves, tmp_path: Path) -> None:
    out = tmp_path / "one.json"
    words = [word if word != "16" else "1" for word in TAKEN]
    ended = eaves("profile", "--seconds", "0", "--out", out, *words)
    assert ended.code == 0, ended.err
    assert "On the device, in inference, batch 1" in ended.out
    assert "by a formula" not in ended.out  # everything was measured
    assert load_profile(out).subject.batch_size == 1


# Plans from a profile


def test_a_plan_from_a_profile_needs_no_torch(measured: Path) -> None:
    code = (
        "import sys; from eaves.commands.main import main; code = main(sys.argv[1:]); "
        "loaded = {'torch', 'matplotlib', 'simpy', 'sklearn', 'PIL'} & {*sys.modules}; "
        "assert not loaded, loaded; sys.exit(code)"
    )
    words = ["plan", "--edge", str(measured), "--cloud", "rtx-2080-ti", "--json"]
    command = [sys.executable, "-W", "error", "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    found = json.loads(line)
    # 3 cuts x 2 codecs, twice for hierarchical that can send once; raw inputs twice; full-edge.
    assert len(found["rows"]) == 6 + 12 + 2 + 1
    assert len({in_words(row) for row in found["rows"]}) == len(found["rows"])
    [best] = [row for row in found["rows"] if row["best"]]
    assert best["epoch_s"] == min(row["epoch_s"] for row in found["rows"])
    assert found["best"] == {name: best[name] for name in ("method", "cut", "codec", "send")}
    assert all(row["why"] and not row["refused"] for row in found["rows"])


def test_a_plan_is_printed(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100")
    ended, everything, line = eaves(*words), eaves(*words, "--all"), eaves(*words, "--json")
    found = facts(line)
    assert ended.code == everything.code == 0
    assert f"Best in time: {in_words(found['best'])}. The others:" in ended.out
    for row in found["rows"]:
        assert f"  {in_words(row)}: " in everything.out or row["best"]
    assert len(ended.out.splitlines()) < len(everything.out.splitlines())
    assert f"edge: {profile_file}, measured (Some CPU)" in ended.out
    assert DEVICES["a100"].source in ended.out
    assert ended.err == everything.err == line.err == ""


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_best_is_the_least_of_what_was_asked(
    eaves: Eaves, profile_file: Path, objective: str
) -> None:
    key = {
        "time": "epoch_s",
        "bytes": "bytes_per_sample",
        "energy": "energy_j",
        "latency": "answer_s",
    }
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--watts", "9/1", "--json")
    found = facts(eaves(*words, "--objective", objective))

    def value(row: dict[str, Any]) -> float:
        if objective == "memory":
            return float(max(row["memory_bytes"], row["peak_bytes"] or 0))
        return float(row[key[objective]])

    [best] = [row for row in found["rows"] if row["best"]]
    assert value(best) == min(map(value, found["rows"]))


def test_only_what_is_named_is_planned(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--json")
    named = ("--methods", "split,priphit", "--cuts", "conv3,conv1", "--codecs", "int4+zstd")
    ways = {in_words(row) for row in facts(eaves(*words, *named))["rows"]}
    assert ways == {
        *("split conv3 int4+zstd", "split conv1 int4+zstd"),
        *("priphit conv3 int4+zstd", "priphit conv1 int4+zstd"),
        *("priphit conv3 int4+zstd once", "priphit conv1 int4+zstd once"),
    }
    ways = {in_words(row) for row in facts(eaves(*words, "--input-codecs", "png"))["rows"]}
    assert {way for way in ways if "full-cloud" in way} == {"full-cloud png", "full-cloud png once"}


def test_plans_of_answers(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--inference")
    rows = facts(eaves(*words, "--json"))["rows"]
    methods = {row["method"] for row in rows}
    assert methods == {"hierarchical", "full-cloud", "full-edge", "datamix", "siamese"}
    sizes = {row["bytes_per_sample"] for row in rows if row["method"] == "siamese"}
    assert sizes == {8 + 64 / 128}  # eight numbers, a byte each, and an envelope for the batch
    more = facts(eaves(*words, "--json", "--methods", "siamese", "--components", "24"))["rows"]
    assert {row["bytes_per_sample"] for row in more} == {24 + 64 / 128}
    few, many = (
        facts(eaves(*words, "--json", "--methods", "datamix", "--group", group))["rows"]
        for group in ("2", "64")
    )
    time_s = {in_words(row): row["edge_s"] for row in few}
    assert all(row["edge_s"] > time_s[in_words(row)] for row in many)
    assert "Answering" in eaves(*words).out


def test_a_slower_edge(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--json")
    before, after = facts(eaves(*words)), facts(eaves(*words, "--edge-slowdown", "4"))
    edge_s = {in_words(row): row["edge_s"] for row in before["rows"]}
    for row in after["rows"]:
        assert row["edge_s"] == pytest.approx(4 * edge_s[in_words(row)])
    cloud_s = {in_words(row): row["cloud_s"] for row in before["rows"]}
    assert {in_words(row): row["cloud_s"] for row in after["rows"]} == cloud_s
    assert after["edge_slowdown"] == 4


def test_both_on_this_machine_slow_each_other_down(
    eaves: Eaves, figures: Profile, profile_file: Path
) -> None:
    assert figures.contention == 1.5
    way = ("--methods", "hierarchical", "--cuts", "conv2", "--codecs", "int8", "--json")
    here = facts(eaves("plan", "--profile", profile_file, "--link", "unlimited", *way))
    apart = facts(
        eaves("plan", "--edge", profile_file, "--cloud", profile_file, "--link", "unlimited", *way)
    )
    assert (here["edge"], here["cloud"]) == ("this", "this")
    times_s = [
        next(row["epoch_s"] for row in found["rows"] if row["send"] == "every-epoch")
        for found in (here, apart)
    ]
    assert 1.05 * times_s[1] < times_s[0] <= 1.5 * times_s[1]


# Figures that are taken now


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spend no more time on measuring than must be."""
    monkeypatch.setattr(planning, "_PLAN_BUDGET_S", 0.0)


@pytest.mark.usefixtures("quick")
def test_without_a_profile_this_machine_is_measured(eaves: Eaves) -> None:
    found = facts(eaves("plan", "--json", *TAKEN))
    assert found["subject"]["input_shape"] == [1, 8, 8]
    assert (found["payloads_from"], found["batches"]) == ("made-up images", 50_000 // 16)
    assert {row["codec"] for row in found["rows"]} == {"int8", "int4+zstd", "raw", None}


@pytest.mark.usefixtures("quick")
def test_presets_alone_need_the_net_only(eaves: Eaves) -> None:
    words = ("plan", "--edge", "raspberry-pi-5", "--cloud", "h200", "--json", *TAKEN)
    found = facts(eaves(*words))
    assert all(row["energy_j"] > 0 for row in found["rows"])  # a preset has watts, 3G joules
    assert {row["method"] for row in found["rows"]} >= {"hierarchical", "split"}


@pytest.mark.usefixtures("quick")
def test_a_cloud_measured_now_is_measured_as_the_edge_was(eaves: Eaves, measured: Path) -> None:
    found = facts(eaves("plan", "--edge", measured, "--cloud", "this", "--json"))
    assert found["subject"] == asdict(load_profile(measured).subject) | {"input_shape": [1, 8, 8]}
    assert {row["codec"] for row in found["rows"]} == {"int8", "int4+zstd", "raw", None}


# Limits


def test_limits_refuse_with_the_figure(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--max-bytes", "300")
    rows = facts(eaves(*words, "--json"))["rows"]
    for row in rows:
        assert bool(row["refused"]) == (row["bytes_per_sample"] > 300)
    refused = next(row for row in rows if in_words(row) == "hierarchical conv1 int8")
    assert refused["refused"] == ["upload per sample 2.0 kB above 300 B"]
    kept = [not row["refused"] for row in rows]
    assert kept == sorted(kept, reverse=True)  # the refused come last
    assert "hierarchical conv1 int4+zstd: refused: upload per sample 580 B above" in (
        eaves(*words, "--all").out
    )


def test_limits_that_leave_nothing_name_every_cut(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--max-epoch-s", "0.001")
    ended = eaves(*words, "--max-memory-mb", "1")
    assert (ended.code, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert lines[0] == "eaves: no cut is left by these limits:"
    cuts = [f"{method} conv{i}" for method in ("hierarchical", "split") for i in (1, 2, 3)]
    for place in (*cuts, "full-edge", "full-cloud"):
        [line] = [line for line in lines if line.startswith(f"  {place}: ")]
        assert "time per epoch" in line
        assert "above 1 ms" in line
        if place.startswith("full-"):  # which holds inputs alone, or the whole net
            assert ("edge memory" in line) == (place == "full-edge")
    assert len(lines) == 1 + len(cuts) + 2 + 1
    assert lines[-1].startswith("  Raise a limit")


def test_a_preset_has_its_memory_as_a_limit(eaves: Eaves, figures: Profile, tmp_path: Path) -> None:
    """One that no small net reaches; so the net is made to look large."""
    stages = tuple(replace(stage, kept_bytes=1e8) for stage in figures.stages)
    path = tmp_path / "large.json"
    path.write_text(replace(figures, stages=stages).to_json())
    words = ("plan", "--profile", path, "--edge", "jetson-nano", "--cloud", "a100", "--json")
    rows = {in_words(row): row for row in facts(eaves(*words))["rows"]}
    assert rows["full-edge"]["refused"] == ["edge memory 51.2 GB above 4.0 GB"]
    assert not rows["full-cloud raw"]["refused"]
    raised = facts(eaves(*words, "--max-memory-mb", "100000"))["rows"]
    assert not any(row["refused"] for row in raised)


# Probes


PROBED = (
    *("--data", "digits", "--methods", "hierarchical,full-cloud", "--cuts", "conv3"),
    *("--codecs", "int8", "--input-codecs", "raw", "--device", "cpu"),
)


def test_a_probe_gives_every_row_its_accuracy(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", *PROBED, "--probe", "2")
    found = facts(eaves(*words, "--json", "--min-accuracy", "0.01", "--max-drop", "1"))
    assert len(found["rows"]) == 4
    for row in found["rows"]:
        accuracy = row["accuracy"]
        assert accuracy["n"] == 360
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
        assert not row["refused"]
    ended = eaves(*words, "--min-accuracy", "1")
    assert (ended.code, ended.out) == (2, "")
    assert "hierarchical conv3: accuracy 1" in ended.err
    assert "% below 100.0%" in ended.err


def test_a_drop_is_against_full_cloud(eaves: Eaves, profile_file: Path) -> None:
    """Twelve batches teach, and not all ways the same."""
    words = ("plan", "--edge", profile_file, "--cloud", "a100", *PROBED, "--probe", "12", "--json")
    found = facts(eaves(*words, "--max-drop", "0.01"))
    rows = {in_words(row): row for row in found["rows"]}
    whole = rows["full-cloud raw"]["accuracy"]["value"]
    assert not rows["full-cloud raw"]["refused"]
    for row in rows.values():
        below = whole - row["accuracy"]["value"]
        assert bool(row["refused"]) == (below > 0.01)
        assert not row["refused"] or "below full-cloud" in row["refused"][0]


def test_a_drop_is_known_where_full_cloud_is_refused(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", *PROBED, "--probe", "1", "--json")
    found = facts(eaves(*words, "--max-drop", "1", "--max-bytes", "60"))
    rows = {in_words(row): row for row in found["rows"]}
    assert rows["full-cloud raw"]["refused"] == ["upload per sample 65 B above 60 B"]
    assert rows["full-cloud raw"]["accuracy"]["n"] == 360
    assert not rows["hierarchical conv3 int8 once"]["refused"]
    assert rows["hierarchical conv3 int8"]["accuracy"] is None  # refused, so not probed


# What is written


def test_the_best_as_a_configuration(eaves: Eaves, profile_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "best.toml"
    words = ("plan", "--edge", profile_file, "--cloud", "a100", *PROBED, "--link", "wifi,loss=1%")
    ended = eaves(*words, "--write-config", file, "--epochs", "3", "--json")
    best, config = facts(ended)["best"], load_config(file)
    assert (config.method, config.send) == (best["method"], best["send"])
    assert config.cut == best["cut"]
    assert best["codec"] == (config.input_codec if best["method"] == "full-cloud" else config.codec)
    assert (config.data, config.net, config.batch_size) == ("digits", "small", 128)
    assert (config.link, config.epochs) == ("wifi,loss=1%", 3)
    trained = eaves(
        "train", "--config", file, "--max-steps", "1", "--out", tmp_path / "run", "--json"
    )
    assert trained.code == 0
    record = json.loads(trained.out)
    assert (record["method"], record["cut"], record["send"]) == (
        config.method,
        config.cut,
        config.send,
    )
    assert f"Configuration is in {file}" in eaves(*words, "--write-config", file).out


def test_a_figure_beside_the_table(eaves: Eaves, profile_file: Path, tmp_path: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--max-bytes", "300")
    png, svg = tmp_path / "a" / "plan.png", tmp_path / "plan.svg"
    ended = eaves(*words, "--plot", png)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == f"Figure is in {png}"
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    facts(eaves(*words, "--plot", svg, "--json", "--inference"))
    assert svg.read_bytes().startswith(b"<?xml")


def test_a_fleet_is_simulated(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--methods", "hierarchical")
    own = facts(eaves(*words, "--fleet", "50", "--json"))["fleet"]
    shared = facts(eaves(*words, "--fleet", "50", "--shared-link", "--json"))["fleet"]
    assert own["uploads"] == shared["uploads"] == 50 * (1_437 // 128)
    assert (own["edges"], own["shared_link"], shared["shared_link"]) == (50, False, True)
    assert shared["duration_s"] > 5 * own["duration_s"]
    assert shared["bottleneck"] == "link"
    sentence = eaves(*words, "--fleet", "50", "--shared-link").out.splitlines()[-1]
    assert sentence.startswith("50 edges, one cloud, hierarchical conv")
    assert sentence.endswith("What holds them up: the link.")


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--edge", "rtx-2080"], "unknown device 'rtx-2080'; choose from: rtx-2080-ti, "),
        (["--edge", "none.json"], "cannot read the profile none.json: No such file or directory"),
        (["--profile", "."], "cannot read the profile .: Is a directory"),
        (["--net", "resnet20"], "the profile is not of what is asked for: net resnet20 and small."),
        (["--batch-size", "64"], "the profile is not of what is asked for: batch_size 64 and 128"),
        (["--input", "3x32x32"], "the profile is not of what is asked for: input 3x32x32 and 1x8"),
        (["--classes", "5"], "the profile is not of what is asked for: classes 5 and 10"),
        (["--data", "cifar10"], "the profile is not of what is asked for: data cifar10 and digits"),
        (["--data", "digits", "--input", "1x8x8"], "give --data or --input, not both"),
        (["--batch-size", "0"], "expected --batch-size of 1 or more, got 0"),
        (["--max-memory-mb", "-1"], "expected --max-memory-mb from 0 to 1e+15, got -1.0"),
        (["--max-bytes", "nan"], "expected --max-bytes from 0 to 1e+15, got nan"),
        (["--min-accuracy", "0.5"], "--min-accuracy and --max-drop need --probe"),
        (["--link", "0"], "expected up_bps above 0 bit/s, got 0.0"),
        (["--link", "-1"], "unknown link '-1'; choose from: "),
        (["--link", "nan"], "unknown link 'nan'; choose from: "),
        (["--link", "3g,loss=100%"], "expected a loss in [0, 1), got 1.0"),
        (["--cuts", "conv4"], "unknown cut 'conv4'; choose from: conv1, conv2, conv3"),
        (["--methods", "hierachical"], "unknown method to plan 'hierachical'; choose from: hier"),
        (["--methods", "datamix"], "unknown method to plan 'datamix'; choose from: "),
        (["--objective", "speed"], "unknown objective 'speed'; choose from: "),
        (["--objective", "energy"], "the energy is not known for any candidate: it needs"),
        (["--codecs", "int9"], "the profile has no figures for the codec 'int9' at 'conv1', only"),
        (["--codecs", "int2"], "the profile has no figures for the codec 'int2' at 'conv1', only"),
        (["--input-codecs", "jpeg"], "the profile has no figures for the codec 'jpeg' at 'input'"),
        (["--watts", "10"], "expected --watts as BUSY/IDLE, as in 10/2: "),
        (["--watts", "2/10"], "expected --watts as BUSY/IDLE, as in 10/2: "),
        (["--probe", "2"], "training needs data: name them to the plan with --data"),
        (["--write-config", "c.toml"], "training needs data: name them to the plan with --data"),
        (
            ["--write-config", "c.toml", "--data", "digits", "--inference"],
            "--write-config is of training: plan without --inference",
        ),
        (
            ["--write-config", "c.toml", "--data", "digits", "--methods", "priphit"],
            "priphit hides private attributes: name them to the plan with --private",
        ),
        (["--plot", "p.txt"], "expected a figure in .png, .pdf, .svg, got p.txt"),
        (["--fleet", "0"], "expected --fleet of 1 or more, got 0"),
        (["--shared-link"], "--shared-link is that of a --fleet"),
        (["--fleet", "5", "--methods", "full-edge"], "a fleet needs a way that sends and does not"),
        (["--edge-slowdown", "0"], "expected --edge-slowdown from 0.0001 to 10000, got 0.0"),
        (["--device", "gpu", "--profile", "none"], "cannot read the profile none: No such file"),
    ],
)
def test_a_mistake_is_one_line(
    eaves: Eaves,
    profile_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = [] if "--edge" in words else ["--edge", str(profile_file)]
    ended = eaves("plan", *places, "--cloud", "a100", *words)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"eaves: {message}")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [profile_file]  # nothing was begun


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "0"], "expected --batch-size of 1 or more, got 0"),
        (["--data", "digits", "--classes", "5"], "digits has 10 classes, got --classes 5"),
        (["--data", "digits", "--input", "1x8x8"], "give --data or --input, not both"),
        (["--net", "smal"], "unknown net 'smal'; choose from: small, "),
        (["--codecs", "png"], "expected --codecs for features, got 'png'"),
        (["--seconds", "nan"], "expected --seconds from 0 to 86400, got nan"),
        (["--seconds", "-1"], "expected --seconds from 0 to 86400, got -1"),
        (["--seconds", "inf"], "expected --seconds from 0 to 86400, got inf"),
        (["--out", "profile.txt"], "expected --out to end in .json, by which plans know it, got"),
    ],
)
def test_a_profile_that_cannot_be_taken_is_one_line(
    eaves: Eaves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = eaves("profile", *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"eaves: {message}")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_words_are_found_before_anything_is_measured(
    eaves: Eaves, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("this measures")

    monkeypatch.setattr(planning, "_last_of", measure)
    with pytest.raises(AssertionError, match="this measures"):
        eaves("plan")
    for words in (
        ["--methods", "hierachical"],
        ["--group", "0"],
        ["--plot", "p.txt"],
        ["--probe", "2"],
        ["--write-config", "c.toml"],
        ["--max-bytes", "-1"],
        ["--edge", "none.json"],
    ):
        assert eaves("plan", *words).code == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "edge.json is no profile, or damaged"),
        (lambda text: "", "edge.json is no profile, or damaged"),
        (lambda text: "[]", "edge.json: expected a profile of format 1, got None"),
        (
            lambda text: text.replace('"format": 1', '"format": 99'),
            "expected a profile of format 1",
        ),
        (lambda text: text.replace('"params": 352', '"params": -352'), "no profile, or damaged"),
        (lambda text: text.replace('"contention": 1.5', '"contention": NaN'), "or damaged"),
        (lambda text: text.replace('"stages"', '"stage"'), "no profile, or damaged"),
    ],
)
def test_a_damaged_profile_is_the_worlds_fault(
    eaves: Eaves, profile_file: Path, change: Callable[[str], str], message: str
) -> None:
    before = profile_file.read_text()
    profile_file.write_text(change(before))
    assert profile_file.read_text() != before
    ended = eaves("plan", "--edge", profile_file, "--cloud", "a100")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("eaves: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def places(facts: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value in JSON."""
    yield path
    if isinstance(facts, dict | list):
        for key, value in facts.items() if isinstance(facts, dict) else enumerate(facts):
            yield from places(value, (*path, key))


def changed(facts: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return JSON with one value replaced."""
    if not path:
        return value
    copied = facts.copy()
    copied[path[0]] = changed(facts[path[0]], path[1:], value)
    return copied


def test_whatever_one_value_of_a_profile_is_nothing_breaks(
    eaves: Eaves, profile_file: Path
) -> None:
    """A sample of all places and values: each ends with a plan or with one message."""
    rng, facts = random.Random(0), json.loads(profile_file.read_text())
    everywhere = list(places(facts))[1:]
    ends = []
    for _ in range(150):
        path, value = rng.choice(everywhere), rng.choice(WRONG)
        profile_file.write_text(json.dumps(changed(facts, path, value)))
        ended = eaves("plan", "--edge", profile_file, "--cloud", "a100", "--methods", "split")
        assert ended.code in (0, 1, 2), (path, value)
        assert bool(ended.out) == (ended.code == 0)
        assert ended.err.count("\n") == (ended.code != 0), (path, value)
        ends.append(ended.code)
    assert set(ends) >= {0, 1}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"net": "vgg16"}, "net small and vgg16"),
        ({"batch_size": 64}, "batch_size 128 and 64"),
        ({"version": "0.0.1"}, "version 0 and 0.0.1"),
        ({"structure": "1"}, "structure 0 and 1"),
    ],
)
def test_profiles_of_two_nets_are_refused_with_the_difference(
    eaves: Eaves,
    figures: Profile,
    profile_file: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    difference: str,
) -> None:
    other = tmp_path / "cloud.json"
    other.write_text(replace(figures, subject=replace(figures.subject, **changes)).to_json())
    ended = eaves("plan", "--edge", profile_file, "--cloud", other)
    assert (ended.code, ended.out) == (2, "")
    assert f"do not belong together: {difference}. Take both" in ended.err
    assert ended.err.count("\n") == 1


def test_extras_that_are_not_installed_are_named(
    eaves: Eaves, profile_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--methods", "hierarchical")
    for package, flag in (("simpy", ("--fleet", "5")), ("matplotlib", ("--plot", "p.png"))):
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        ended = eaves(*words, *flag)
        assert (ended.code, ended.out) == (2, "")
        assert f'need{"s" if package == "simpy" else ""} {package}: pip install "eaves[lab]"' in (
            ended.err
        )
    assert eaves(*words).code == 0


def test_a_file_that_cannot_be_written(eaves: Eaves, profile_file: Path) -> None:
    words = ("plan", "--edge", profile_file, "--cloud", "a100", "--data", "digits")
    for flag, name in (("--plot", "p.png"), ("--write-config", "c.toml")):
        ended = eaves(*words, flag, profile_file / name)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith(f"eaves: cannot write {profile_file / name}")


# Devices


def test_devices_are_listed(eaves: Eaves) -> None:
    lines = [json.loads(line) for line in eaves("devices", "--json").out.splitlines()]
    assert {line["device"] for line in lines} == set(DEVICES)
    for line in lines:
        assert line["source"]
        assert line["peak_flops"] * line["efficiency"] > 1e9
    text = eaves("devices").out
    assert all(name in text for name in DEVICES)


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_can_be_planned_for(eaves: Eaves, profile_file: Path, device: str) -> None:
    edge = facts(eaves("plan", "--edge", device, "--cloud", profile_file, "--json"))
    cloud = facts(eaves("plan", "--edge", profile_file, "--cloud", device, "--json"))
    assert (edge["edge"], cloud["cloud"]) == (device, device)
    for found in (edge, cloud):
        assert all(row["epoch_s"] > 0 for row in found["rows"])
