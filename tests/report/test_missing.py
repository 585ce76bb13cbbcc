"""What is not installed is named, with what to install; for each extra, by each command."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from eaves.report.missing import _EXTRA, explained

_ROOT = Path(__file__).parents[2]

# Imports fail as they do where a package is not installed.
_BLOCKED = """
import sys
blocked = sys.argv.pop(1)
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from eaves.__main__ import run
sys.exit(run())
"""


def _run(package: str, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _BLOCKED, package, *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


NEEDS_TORCH = {
    "nets": [],
    "train": [],
    "agent": ["run.toml", "--insecure"],
    "serve": ["run.toml", "--insecure"],
    "infer": ["b", "--insecure"],
    "export": ["b", "--out", "e"],
    "calibrate": ["b", "--target-share", "0.1"],
    "bundle": ["run.toml", "--out", "b"],
    "audit": ["b"],
    "cuts": ["small"],
    "data": [],
    "profile": [],
    "plan": [],
}


@pytest.mark.parametrize("command", NEEDS_TORCH)
def test_a_device_without_torch_is_told_what_to_do(tmp_path: Path, command: str) -> None:
    (tmp_path / "run.toml").write_text("epochs = 1\n")
    ended = _run("torch", tmp_path, command, *NEEDS_TORCH[command])
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"eaves: `eaves {command}` needs torch, which is not installed")
    assert "pip install torch" in ended.stderr
    assert "eaves light" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["--help"], ["devices"], ["certs", "init", "--host", "a"], ["train", "--help"]]
)
def test_what_needs_no_torch_goes_without(tmp_path: Path, words: list[str]) -> None:
    ended = _run("torch", tmp_path, *words)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("sklearn", "lab", ["train", "--epochs", "1"]),
        ("jinja2", "lab", ["report", "."]),
        ("cryptography", "serve", ["certs", "init", "--host", "a"]),
        ("grpc_health", "serve", ["serve", "run.toml", "--insecure", "--listen", "127.0.0.1:0"]),
        ("prometheus_client", "serve", ["serve", "run.toml", "--insecure"]),
        ("constriction", "coder", ["train", "--codec", "int4+range", "--epochs", "1"]),
        ("timm", "vision", ["cuts", "timm:resnet18"]),
        ("torchvision", "vision", ["cuts", "torchvision:resnet18"]),
        ("PIL", "lab", ["train", "--input-codec", "png", "--method", "full-cloud"]),
    ],
)
def test_an_extra_is_named_by_the_command_that_needs_it(
    tmp_path: Path, package: str, extra: str, words: list[str]
) -> None:
    (tmp_path / "run.toml").write_text("epochs = 1\n")
    ended = _run(package, tmp_path, *words)
    assert ended.returncode in (1, 2), ended.stdout
    assert f"eaves[{extra}]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    called = {"sklearn": "scikit-learn", "PIL": "pillow", "dp_accounting": "dp-accounting"}
    called |= {"grpc_health": "grpcio-health-checking", "prometheus_client": "prometheus-client"}
    for module, extra in _EXTRA.items():
        names = [line.split(">")[0] for line in extras[extra]]
        assert called.get(module, module) in names


def test_a_module_of_ours_that_is_not_there_is_a_fault_of_ours() -> None:
    assert explained(ModuleNotFoundError(name="eaves.nowhere"), "train") is None
    assert explained(ModuleNotFoundError(), "train") is None
    assert "pip install other" in str(explained(ModuleNotFoundError(name="other.part"), "train"))
