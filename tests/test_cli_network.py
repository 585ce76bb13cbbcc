"""`eaves serve`, `agent`, `infer` and the others over a network, as two people run them.

They speak over loopback, with TLS where a test does not say otherwise. What survives an
interruption is in test_cli_survival.py.
"""

import json
import signal
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple, final

import pytest
from tests.conftest import Machine, Started

from eaves.runtime.files import held
from eaves.runtime.sealed import unsealed_json

Eaves = Callable[..., Any]  # the command in this process: takes its words, returns how it ended
Machines = Callable[..., Machine]


SHORT = "train_samples = 256\nbatch_size = 32\nepochs = 4\n"
FILES = {"run": SHORT, "other": SHORT + "cut = 'conv1'\n", "edge": "method = 'full-edge'\n"}
CALM = ("--deadline-ms", 30_000, "--batch-size", 60)  # for an answer in time on a busy machine


def digests(*folders: Path) -> dict[str, str]:
    return {
        path.parent.name: sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in folder.glob("bundle/*/weights.safetensors")
    }


def secrets_in(folder: Path) -> list[str]:
    """Return what must not be in a log: tokens, and the lines of private keys."""
    texts = [path.read_text() for path in (*folder.rglob("*.key"), *folder.rglob("key.pem"))]
    lines = [line for text in texts for line in text.splitlines() if "-----" not in line]
    found = lines + [path.read_text().strip() for path in folder.rglob("token")]
    assert found
    return found


def expect_no_secrets(machine: Machine) -> None:
    for secret in secrets_in(machine.folder):
        for begun in machine.started:
            assert secret not in begun.err + begun.out


@final
class Trained(NamedTuple):
    """A cloud and an agent that have trained on one machine, and `eaves train` on the same."""

    machine: Machine
    port: int
    stopped: Started
    agent: Started
    cloud: Started
    whole: Started

    @property
    def out(self) -> Path:
        return self.machine.folder / "runs"


@pytest.fixture(scope="module")
def trained(machines: Machines, free_port: Callable[[], int]) -> Trained:
    machine, port = machines(**FILES), free_port()
    serve = ("serve", "run.toml", "--listen", f"127.0.0.1:{port}", "--json")
    stopped = machine.start(*serve).says("serving run.toml")  # it makes the credentials
    stopped.signal(signal.SIGTERM).ended()
    agent = machine.start("agent", "run.toml", "--cloud", f"localhost:{port}", "--json")
    agent.says("no connection")
    cloud = machine.start(*serve)
    whole = machine.run("train", "--config", "run.toml", "--json", "--out", "whole")
    agent.ended()
    cloud.signal(signal.SIGTERM).ended()
    return Trained(machine, port, stopped, agent, cloud, whole)


@pytest.fixture(scope="module")
def answering(trained: Trained, machines: Machines) -> Trained:
    """Return the same, with a cloud that has nothing but the cloud's bundle and credentials."""
    machine = machines()
    copytree(trained.out / "cloud" / "bundle", machine.folder / "bundle")
    copytree(trained.machine.folder / "certs" / "server", machine.folder / "server")
    environ = {"EAVES_SERVE_CREDENTIALS": "server", "EAVES_SERVE_EDGES": "0"}
    words = ("serve", "bundle", "--listen", f"127.0.0.1:{trained.port}", "--log", "json")
    machine.start(*words, environ=environ).says("serving bundle")
    return trained


# Training


def test_it_trains_to_the_end_though_the_agent_came_first(trained: Trained) -> None:
    ended = [trained.stopped, trained.agent, trained.cloud, trained.whole]
    assert [begun.ended() for begun in ended] == [0, 0, 0, 0]
    assert "Traceback" not in "".join(begun.err for begun in ended)
    assert "made credentials for this machine in certs" in trained.stopped.err
    assert f"serving run.toml on port {trained.port} with TLS" in trained.cloud.err
    assert trained.agent.result["complete"]


def test_what_a_cloud_prints_says_what_it_did(trained: Trained) -> None:
    assert (trained.stopped.result["uploads"], trained.stopped.result["edges"]) == (0, [])
    printed = trained.cloud.result
    assert (printed["uploads"], printed["samples"], printed["finished"]) == (32, 1024, 1)
    (edge,) = printed["edges"]
    assert (edge["edge"], edge["applied"], edge["durable"], edge["last"]) == ("edge-1", 32, 32, 32)


def test_the_record_is_that_of_the_same_training_here_and_says_how_it_went(
    trained: Trained,
) -> None:
    record, whole = trained.agent.result, trained.whole.result
    assert record == unsealed_json((trained.out / "agent" / "record.json").read_bytes())
    for name in ("codec", "steps", "samples", "accuracy", "bytes", "config_hash"):
        assert record[name] == whole[name], name
    assert record["bytes"]["up"] == trained.cloud.result["bytes_in"]
    assert (whole["link"], whole["network"]) == ("unlimited", None)
    assert record["link"] == "network"
    network = record["network"]
    assert network["cloud"] == f"localhost:{trained.port}"
    assert (network["edge"], network["uploads_sent"], network["connections"]) == ("edge-1", 32, 1)
    assert (network["dropped_uploads"], network["dropped_samples"]) == (0, 0)


def test_both_halves_have_the_weights_of_the_same_training_here(trained: Trained) -> None:
    apart = digests(trained.out / "agent", trained.out / "cloud")
    assert sorted(apart) == ["cloud", "edge"]
    assert apart == digests(trained.machine.folder / "whole")


def test_no_machine_has_the_weights_of_the_other(trained: Trained) -> None:
    manifests = {}
    for side, out in (("edge", "agent"), ("cloud", "cloud")):
        folder = trained.out / out
        manifests[side] = json.loads((folder / "bundle" / "manifest.json").read_bytes())
        assert list(manifests[side]["sha256"]) == [side]
        kept = {path.name.partition("-")[0] for path in folder.rglob("checkpoint/*.safetensors")}
        assert kept == {side}
        assert [path.parent.name for path in folder.glob("bundle/*/*")] == [side]
    assert manifests["edge"]["session"] == manifests["cloud"]["session"]
    assert manifests["edge"]["codec"] == manifests["cloud"]["codec"] == "int8+zstd"


def test_keys_are_for_their_owner_and_in_no_log(trained: Trained) -> None:
    keys = [*trained.machine.folder.rglob("*.key"), *trained.machine.folder.rglob("key.pem")]
    assert len(keys) == 3  # of the authority, the cloud, the edge
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    expect_no_secrets(trained.machine)


def test_what_is_done_stays_done(trained: Trained) -> None:
    """The same command again needs no cloud, takes no step and changes no weight."""
    copytree(trained.out / "agent", trained.machine.folder / "again")
    words = ("agent", "run.toml", "--cloud", f"localhost:{trained.port}", "--out", "again")
    again = trained.machine.start(*words, "--json")
    assert again.ended() == 0
    assert again.result["samples"] == 1024
    assert again.result["complete"]
    assert digests(trained.machine.folder / "again") == digests(trained.out / "agent")


# Answers


def infer(eaves: Eaves, trained: Trained, *words: str | float) -> Any:
    folder = trained.machine.folder
    access = ("--credentials", folder / "certs" / "devices" / "edge-1")
    cloud = ("--cloud", f"localhost:{trained.port}")
    return eaves("infer", folder / "runs" / "agent", *access, *cloud, *words)


def test_the_cloud_answers_what_the_exit_is_not_sure_of(eaves: Eaves, answering: Trained) -> None:
    ended = infer(eaves, answering, "--json", *CALM)
    assert (ended.code, ended.err) == (0, "")
    *lines, summary = [json.loads(line) for line in ended.out.splitlines()]
    assert summary["answered_by"] == {"cloud": 360}
    assert summary["queries"] == {"asked": 6, "late": 0, "skipped": 0, "overdue": 0, "unusable": 0}
    assert summary["accuracy"]["all"] == answering.agent.result["accuracy"]["cloud"]
    assert [line["example"] for line in lines] == list(range(360))
    assert {line["answered_by"] for line in lines} == {"cloud"}
    right = sum(line["label"] == line["class"] for line in lines)
    assert right == round(360 * summary["accuracy"]["all"]["value"])


def test_a_cloud_that_gets_mixtures_says_so_and_answers_with_features(
    eaves: Eaves, machines: Machines, free_port: Callable[[], int]
) -> None:
    mixing = "[mixing]\ngroup = 4\ncloud_ends = 'conv3'\n"
    machine, port = machines(mixed="method = 'datamix'\ncut = 'conv1'\n" + mixing), free_port()
    trained = machine.run("train", "--config", "mixed.toml", "--out", "mixed", "--json")
    listen = ("--listen", f"127.0.0.1:{port}", "--insecure")
    cloud = machine.start("serve", "mixed/bundle", *listen)
    cloud.says("what comes are mixtures of 4 inputs each; none comes alone")
    cloud_at = ("--cloud", f"localhost:{port}", "--insecure")
    ended = eaves("infer", machine.folder / "mixed", *cloud_at, "--json", *CALM)
    summary = json.loads(ended.out.splitlines()[-1])
    assert (summary["answered_by"], summary["shield"]["groups"]) == ({"cloud": 360}, 90)
    # Other coefficients than when the run was evaluated, and answers in 16 bits.
    expected = trained.result["accuracy"]["cloud"]["value"]
    assert summary["accuracy"]["all"]["value"] == pytest.approx(expected, abs=0.05)


def test_the_exit_answers_what_it_is_sure_of(eaves: Eaves, answering: Trained) -> None:
    ended = infer(eaves, answering, "--json", *CALM, "--rule", "confidence", "--threshold", 0)
    summary = json.loads(ended.out.splitlines()[-1])
    assert summary["answered_by"] == {"exit": 360}
    assert (summary["bytes_up"], summary["queries"]["asked"]) == (0, 0)
    assert summary["accuracy"]["all"] == answering.agent.result["accuracy"]["exit"]


def test_a_rule_that_was_calibrated_over_the_network_is_used(
    eaves: Eaves, answering: Trained
) -> None:
    folder = answering.machine.folder
    words = ("--credentials", folder / "certs" / "devices" / "edge-1", "--json")
    cloud = ("--cloud", f"localhost:{answering.port}", "--target-share", 0.3)
    chosen = eaves("calibrate", folder / "runs" / "agent", *words, *cloud)
    assert (chosen.code, chosen.err) == (0, "")
    facts = json.loads(chosen.out)
    ended = infer(eaves, answering, "--json", *CALM)
    summary = json.loads(ended.out.splitlines()[-1])
    assert (summary["rule"], summary["threshold"]) == ("confidence", facts["threshold"])
    shares = [facts[half]["share_sent"] for half in ("chosen", "measured")]  # of 180 examples each
    assert summary["answered_by"]["cloud"] == round(180 * sum(shares))
    assert set(summary["answered_by"]) == {"exit", "cloud"}
    table = infer(eaves, answering, *CALM)
    assert table.code == 0
    assert "the exit, on the edge" in table.out
    assert f"rule: confidence {facts['threshold']:.4g}" in table.out
    (answering.out / "agent" / "bundle" / "rule.json").unlink()


def test_without_the_cloud_the_exit_answers_and_the_record_says_so(
    eaves: Eaves, trained: Trained, free_port: Callable[[], int]
) -> None:
    source = trained.out / "agent"
    words = ("infer", source, "--insecure", "--cloud", f"127.0.0.1:{free_port()}", "--json")
    ended = eaves(*words, "--samples", 25)
    assert (ended.code, ended.err) == (0, "")
    summary = json.loads(ended.out.splitlines()[-1])
    assert summary["answered_by"] == {"exit-late": 25}
    asked = summary["queries"]
    assert asked["asked"] == asked["late"] >= 1
    assert asked["late"] + asked["skipped"] == 25  # a cloud that fails is not asked each time
    table = eaves(*words[:-1], "--samples", 5)
    assert "the exit, because the cloud did not answer in time" in table.out


def test_a_bundle_with_both_halves_needs_no_cloud_to_be_calibrated(
    eaves: Eaves, trained: Trained, tmp_path: Path
) -> None:
    whole, plot = trained.machine.folder / "whole", tmp_path / "curve.svg"
    ended = eaves("calibrate", whole, "--target-accuracy", 0.5, "--plot", plot)
    assert (ended.code, ended.err) == (0, "")
    assert f"The rule is in {whole / 'bundle'}" in ended.out
    assert plot.read_text().startswith("<?xml")
    assert json.loads((whole / "bundle" / "rule.json").read_bytes())["rule"] == "confidence"
    (whole / "bundle" / "rule.json").unlink()
    too_much = eaves("calibrate", whole, "--target-accuracy", 1)
    assert too_much.code == 2
    one_half = eaves("calibrate", trained.out / "agent", "--target-share", 0.5)
    assert (one_half.code, "holds no weights for the cloud" in one_half.err) == (1, True)


# What is refused


def expect_one_message(ended: Any, code: int, words: str) -> None:
    assert ended.code == code, ended
    assert words in ended.err
    told = [line for line in ended.err.splitlines() if line.startswith("eaves: ")]
    assert len(told) == 1, ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_a_cloud_refuses_what_does_not_belong_to_it(
    eaves: Eaves, answering: Trained, tmp_path: Path
) -> None:
    folder = answering.machine.folder
    access = ("--credentials", folder / "certs" / "devices" / "edge-1")
    cloud = ("--cloud", f"localhost:{answering.port}")
    agent = ("agent", *access, *cloud, "--out", tmp_path / "out")
    expect_one_message(eaves(*agent, folder / "other.toml"), 1, "cut")
    expect_one_message(
        eaves(*agent, folder / "run.toml", "--overwrite"), 1, "answers queries and does not train"
    )
    asks = ("infer", folder / "whole", *access, *cloud)
    expect_one_message(eaves(*asks), 1, "their halves were not trained together")


def test_a_port_that_is_taken_is_named(eaves: Eaves, answering: Trained, tmp_path: Path) -> None:
    folder, port = answering.machine.folder, answering.port
    ended = eaves(
        *("serve", folder / "run.toml", "--listen", f"127.0.0.1:{port}", "--out", tmp_path),
        *("--credentials", folder / "certs" / "server"),
    )
    expect_one_message(ended, 2, f"cannot listen on 127.0.0.1:{port}: is the port in use")


def test_two_in_one_folder_are_refused(eaves: Eaves, trained: Trained) -> None:
    folder = trained.machine.folder
    access = ("--credentials", folder / "certs" / "devices" / "edge-1")
    for command, out, *words in (("agent", "agent", *access), ("serve", "cloud", "--insecure")):
        with held(folder / "runs" / out):
            ended = eaves(command, folder / "run.toml", "--out", folder / "runs" / out, *words)
        expect_one_message(ended, 1, "another process is at work in")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["serve", "none.toml"], 2, "cannot read the configuration none.toml"),
        (["serve", "edge.toml", "--insecure"], 2, "full-edge sends nothing"),
        (["agent", "edge.toml", "--insecure"], 2, "full-edge sends nothing"),
        (["serve", "cloud.toml", "--insecure"], 2, "eaves bundle"),
        (["serve", "bad.toml"], 2, "bad.toml is not TOML"),
        (["serve", "run.toml", "--config", "bad.toml"], 2, "bad.toml is not TOML"),
        (["agent", "run.toml", "--config", "run.toml"], 2, "unknown key in run.toml"),
        (["agent", "run.toml"], 2, "give --credentials FOLDER for localhost:7443"),
        (["serve", "run.toml", "--listen", "0.0.0.0:0"], 2, "give --credentials FOLDER for 0.0.0."),
        (["agent", "run.toml", "--credentials", "none"], 2, "none"),
        (["agent", "run.toml", "--cloud", "localhost"], 2, "expected an address"),
        (["serve", "run.toml", "--auth", "tokens", "--insecure"], 2, "--auth tokens needs encryp"),
        (
            ["infer", "run.toml", "--insecure"],
            2,
            "expected a bundle to answer with, got a configuration",
        ),
        (["calibrate", "run.toml", "--target-share", "0.5"], 2, "expected a bundle to calibrate"),
        (["calibrate", "run.toml"], 2, "expected a target accuracy or a target share"),
        (["bundle", "run.toml", "--out", "."], 2, "is not empty"),
        (["bundle", "edge.toml", "--out", "out"], 2, "full-edge sends nothing"),
    ],
)
def test_a_mistake_is_one_message(
    eaves: Eaves,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (FILES | {"bad": "a = ", "cloud": "method = 'full-cloud'"}).items():
        (tmp_path / f"{name}.toml").write_text(text)
    before = sorted(tmp_path.rglob("*.*"))
    expect_one_message(eaves(*words), code, message)
    assert sorted(tmp_path.rglob("*.*")) == before  # no credentials, no checkpoint


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EAVES_SERVE_EDGE", "1", "unknown environment variable 'EAVES_SERVE_EDGE'; choose from: "),
        ("EAVES_SERVE_EDGES", "many", "expected EAVES_SERVE_EDGES to be int, got 'many'"),
        ("EAVES_SERVE_EDGES", "-1", "the environment sets EAVES_SERVE_EDGES"),
    ],
)
def test_the_environment_is_checked_as_flags_are(
    eaves: Eaves, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    expect_one_message(eaves("serve", "none.toml"), 2, message)
    assert eaves("nets").code == 0  # which it does not concern
