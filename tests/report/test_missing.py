"""What is not installed is named, with what to install; for each extra, by each command."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from eaves.report.missing import _EXTRA, explained

_ROOT = Path(__file__).parents[2]

# Runs commands in forks of one process that has imported what all of them need, which takes longer
# than the commands. In a fork imports fail as they do where a package is not installed.
_BLOCKED = """
import importlib, json, os, sys, traceback
importlib.import_module(sys.argv[1])
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
def run_here():
    from eaves.__main__ import run
    try:
        return run()
    except SystemExit as ended:
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 70
codes = []
for folder, blocked, words in json.load(sys.stdin):
    if os.fork() == 0:
        os.chdir(folder)
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
        assert blocked not in sys.modules
        sys.argv[:] = ["eaves", *words]
        sys.meta_path.insert(0, Block())
        code = run_here()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
print(json.dumps(codes))
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def _run(given: str, commands: list[tuple[str, list[str]]], home: Path) -> list[Ended]:
    """Run commands, each with a package that is missing and in a folder of its own.

    ``given`` is the module that is imported once for all of them.
    """
    folders = [home / str(i) for i in range(len(commands))]
    for folder in folders:
        folder.mkdir()
        (folder / "run.toml").write_text("epochs = 1\n")
    rows = [
        (str(folder), package, words)
        for folder, (package, words) in zip(folders, commands, strict=True)
    ]
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED, given],
        input=json.dumps(rows),
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return [
        Ended(code, (folder / "out").read_text(), (folder / "err").read_text())
        for code, folder in zip(json.loads(done.stdout), folders, strict=True)
    ]


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


def test_a_device_without_torch_is_told_what_to_do(tmp_path: Path) -> None:
    commands = [("torch", [command, *words]) for command, words in NEEDS_TORCH.items()]
    for command, ended in zip(
        NEEDS_TORCH, _run("eaves.commands.main", commands, tmp_path), strict=True
    ):
        assert ended.code == 2, command
        needs = f"eaves: `eaves {command}` needs torch, which is not installed"
        assert ended.err.startswith(needs), ended.err
        assert "pip install torch" in ended.err
        assert "eaves light" in ended.err
        assert ended.err.count("\n") == 1


def test_what_needs_no_torch_goes_without(tmp_path: Path) -> None:
    commands = [["--help"], ["devices"], ["certs", "init", "--host", "a"], ["train", "--help"]]
    for ended in _run("eaves.commands.main", [("torch", words) for words in commands], tmp_path):
        assert (ended.code, ended.err) == (0, "")
        assert ended.out


EXTRAS = [
    ("sklearn", "lab", ["train", "--epochs", "1"]),
    ("jinja2", "lab", ["report", "."]),
    ("cryptography", "serve", ["certs", "init", "--host", "a"]),
    ("grpc_health", "serve", ["serve", "run.toml", "--insecure", "--listen", "127.0.0.1:0"]),
    ("prometheus_client", "serve", ["serve", "run.toml", "--insecure"]),
    ("constriction", "coder", ["train", "--codec", "int4+range", "--epochs", "1"]),
    ("timm", "vision", ["cuts", "timm:resnet18"]),
    ("torchvision", "vision", ["cuts", "torchvision:resnet18"]),
    ("PIL", "lab", ["train", "--input-codec", "png", "--method", "full-cloud"]),
]


def test_an_extra_is_named_by_the_command_that_needs_it(tmp_path: Path) -> None:
    commands = [(package, words) for package, _, words in EXTRAS]
    for (_, extra, words), ended in zip(EXTRAS, _run("torch", commands, tmp_path), strict=True):
        assert ended.code in (1, 2), (words, ended)
        assert f"eaves[{extra}]" in ended.err, (words, ended)
        assert "Traceback" not in ended.err


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
