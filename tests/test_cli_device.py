"""`eaves export` and `eaves light`, as a stranger runs them; the latter where there is no torch."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tests.conftest import Ended, Machine
from tests.light.conftest import FACTS, edge_model, inputs_of, write_folder

from eaves.codecs.contract import Layout
from eaves.codecs.payload import Payload
from eaves.data.digits import load_digits
from eaves.data.source import Request
from eaves.light.facts import EDGE, NAME

Eaves = Callable[..., Ended]  # the command in this process
ABSENT = ("torch", "safetensors", "onnx", "onnxscript", "sympy", "sklearn", "cryptography")
_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
from eaves.commands.main import main
sys.exit(main({words}))
"""


def light(*words: str | Path | float, folder: Path | None = None) -> Ended:
    """Run `eaves light` in a process that cannot import torch."""
    code = _WITHOUT.format(absent=ABSENT, words=["light", *map(str, words)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"COLUMNS": "140"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


class Device(NamedTuple):
    folder: Path
    inputs: Path


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """Return a folder with a model made by hand, with an exit, and five inputs."""
    models = {EDGE: edge_model(early=True)}
    folder = write_folder(tmp_path / "device", replace(FACTS, early=EDGE), models)
    np.save(tmp_path / "inputs.npy", inputs_of(5))
    return Device(folder, tmp_path / "inputs.npy")


def test_without_torch_the_exit_answers(device: Device) -> None:
    found = light(device.folder, "--inputs", device.inputs, "--json", "--batch-size", 2)
    assert (found.code, found.err) == (0, "")
    *answers, summary = map(json.loads, found.out.splitlines())
    assert [answer["example"] for answer in answers] == [0, 1, 2, 3, 4]
    assert {answer["answered_by"] for answer in answers} == {"exit-late"}
    assert all(answer["name"] == "abc"[answer["class"]] for answer in answers)
    assert (summary["examples"], summary["bytes_up"]) == (5, 0)


def test_without_an_exit_payloads_are_measured(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "device", FACTS, {EDGE: edge_model(early=False)})
    np.save(tmp_path / "inputs.npy", inputs_of(5))
    found = light(folder, "--inputs", tmp_path / "inputs.npy")
    params, body = b"", bytes(4 * 6)
    each = sum(map(len, Payload("fp32", Layout((1, 6)), params, body).parts()))
    assert found.code == 0
    assert f"payloads would take {each} B for each example" in found.out
    assert "none: the cloud did not answer" in found.out


def test_a_cloud_that_is_not_there_is_no_error(device: Device) -> None:
    words = ("--connect", "127.0.0.1:1", "--insecure", "--json")
    found = light(device.folder, "--inputs", device.inputs, *words)
    assert found.code == 0
    summary = json.loads(found.out.splitlines()[-1])
    assert summary["answered_by"] == {"exit-late": 5}
    assert summary["queries"]["late"] == 1


def _truncated(device: Device) -> None:
    content = (device.folder / EDGE).read_bytes()
    (device.folder / EDGE).write_bytes(content[:-10])


def _other_format(device: Device) -> None:
    facts = json.loads((device.folder / NAME).read_text())
    (device.folder / NAME).write_text(json.dumps(facts | {"format": 9}))


def _other_shape(device: Device) -> None:
    np.save(device.inputs, np.zeros((2, 1, 4, 5), np.uint8))


def _pickled(device: Device) -> None:
    np.save(device.inputs, np.array([{"an": "object"}]))


def _cut(device: Device) -> None:
    device.inputs.write_bytes(device.inputs.read_bytes()[:-1])


BROKEN: dict[str, tuple[Callable[[Device], None], int, str]] = {
    "truncated model": (_truncated, 1, "expected SHA-256"),
    "no model": (lambda device: (device.folder / EDGE).unlink(), 1, "cannot read"),
    "another format": (_other_format, 1, "expected format 1, got 9"),
    "no device.json": (lambda device: (device.folder / NAME).unlink(), 1, "device.json"),
    "other inputs": (_other_shape, 2, "expected uint8 inputs"),
    "no inputs": (lambda device: device.inputs.unlink(), 2, "cannot read the inputs"),
    "a pickle": (_pickled, 1, "damaged, or holds objects"),
    "cut inputs": (_cut, 1, "damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_damaged_is_one_message(eaves: Eaves, device: Device, name: str) -> None:
    damage, code, words = BROKEN[name]
    damage(device)
    found = eaves("light", device.folder, "--inputs", device.inputs)
    assert (found.code, found.out) == (code, "")
    assert found.err.startswith("eaves: ")
    assert found.err.count("\n") == 1
    assert words in found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch-size", "0"), "expected --batch-size of 1 or more"),
        (("--threads", "0"), "expected --threads of 1 or more"),
        (("--deadline-ms", "0"), "expected --deadline-ms"),
        (("--rule", "confidence"), "--rule and --threshold together"),
        (("--connect", "nowhere"), "expected an address"),
        (("--connect", "localhost:1", "--credentials", "none"), "cannot read"),
    ],
)
def test_mistakes_are_exit_code_2(
    eaves: Eaves, device: Device, words: tuple[str, ...], message: str
) -> None:
    found = eaves("light", device.folder, "--inputs", device.inputs, *words)
    assert found.code == 2
    assert message in found.err


def test_over_tls_a_device_without_torch_answers_as_infer_does(
    machines: Callable[..., Machine], free_port: Callable[[], int]
) -> None:
    machine, port = machines(), free_port()
    there, threads = machine.folder, torch.get_num_threads()
    assert machine.run("train", "--epochs", 1, "--out", "run").ended() == 0
    assert machine.run("export", "run", "--out", "device", "--json").ended() == 0
    words = ("serve", "run", "--listen", f"127.0.0.1:{port}", "--edges", 0)
    cloud = machine.start(*words).says("with TLS")
    digits = load_digits(Request()).test
    np.save(there / "inputs.npy", digits.fetch(torch.arange(len(digits))).inputs.numpy())
    calm = ("--deadline-ms", 30_000, "--batch-size", 60, "--json")
    device = ("device", "--inputs", "inputs.npy", "--connect", f"localhost:{port}")
    ours = light(*device, "--credentials", "certs/devices/edge-1", *calm, folder=there)
    theirs = machine.run("infer", "run", "--cloud", f"localhost:{port}", *calm)
    assert ours.code == 0, ours.err
    classes = [_classes(out) for out in (ours.out, theirs.out)]
    assert len(classes[0]) == 360
    assert classes[0] == classes[1]
    assert json.loads(ours.out.splitlines()[-1])["answered_by"] == {"cloud": 360}
    cloud.signal(signal.SIGTERM).ended()
    refused = light(*device, "--insecure", "--deadline-ms", 3000, folder=there)
    assert "Traceback" not in refused.err
    assert torch.get_num_threads() == threads


def _classes(out: str) -> list[Any]:
    return [json.loads(line)["class"] for line in out.splitlines()[:-1]]


def test_an_export_says_what_it_wrote(eaves: Eaves, tmp_path: Path) -> None:
    assert eaves("train", "--max-steps", 1, "--out", tmp_path / "run").code == 0
    found = eaves("export", tmp_path / "run", "--out", tmp_path / "device")
    assert found.code == 0
    assert "with an exit, no noise; ONNX Runtime is within 0.0001 of torch" in found.out
    again = eaves("export", tmp_path / "run", "--out", tmp_path / "device")
    assert (again.code, "is not empty" in again.err) == (2, True)
