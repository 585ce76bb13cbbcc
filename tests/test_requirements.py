"""Lock files fit pyproject.toml and hash everything; the bill of materials lists it all."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[1]
_LOCKS = sorted((_ROOT / "requirements").glob("*.txt"))
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]


def _locked(path: Path) -> dict[str, Requirement]:
    """Return what applies here, by name."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [Requirement(line.partition(" --hash")[0]) for line in lines]
    environment = {k: str(v) for k, v in default_environment().items()}
    return {r.name: r for r in found if r.marker is None or r.marker.evaluate(environment)}


def test_every_file_has_its_hashes_and_one_version() -> None:
    assert [path.name for path in _LOCKS] == [
        *("container.txt", "dev.txt", "torch-cpu.txt", "torch-cuda.txt", "torch.txt")
    ]
    for path in _LOCKS:
        for line in path.read_text().replace("\\\n", " ").splitlines():
            if not line.startswith("#"):
                assert re.fullmatch(
                    r"[a-z0-9-]+==[^ ]+( ;.*?)?( +--hash=sha256:[0-9a-f]{64})+", line
                )


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("dev.txt", ["dev", "lab", "coder", "serve", "onnx"]), ("container.txt", ["serve", "lab"])],
)
def test_the_lock_has_what_the_package_asks_for(lock: str, extras: list[str]) -> None:
    locked = _locked(_ROOT / "requirements" / lock)
    torch = _locked(_ROOT / "requirements" / "torch.txt")
    assert "torch" not in locked  # it has a file of its own
    wanted = list(_PROJECT["dependencies"])
    for extra in extras:
        wanted += _PROJECT["optional-dependencies"][extra]
    for line in wanted:
        asked = Requirement(line)
        if asked.name == "eaves":
            continue
        (clause,) = (locked | torch)[asked.name.lower()].specifier
        assert asked.specifier.contains(clause.version), f"{line}: run scripts/lock"
    assert {"hatchling", "editables"} <= set(locked)  # no download to build the package itself


def test_both_builds_of_torch_are_of_one_version() -> None:
    versions = [
        str(_locked(_ROOT / "requirements" / name)["torch"].specifier)
        for name in ("torch.txt", "torch-cpu.txt")
    ]
    assert versions[1] == f"{versions[0]}+cpu"


def test_the_makefile_and_the_container_install_from_the_lock() -> None:
    install = (_ROOT / "scripts" / "install").read_text()
    lines = [line for line in install.splitlines() if re.match(r"\s*(if )?pip ", line)]
    assert len(lines) == 5
    assert all("--require-hashes" in line or line.endswith(" .") for line in lines)
    assert all("--no-deps" in line for line in lines)
    assert (
        "scripts/install $(VENV)/bin/python requirements/dev.txt"
        in (_ROOT / "Makefile").read_text()
    )
    container = (_ROOT / "deploy" / "Containerfile").read_text()
    assert "scripts/install python requirements/container.txt" in container
    assert "pip install" not in container


def test_the_bill_of_materials_names_every_part_with_its_hashes() -> None:
    pytest.importorskip("cyclonedx", reason="an environment made before requirements/ had it")
    locks = [f"requirements/{name}" for name in ("container.txt", "torch-cpu.txt")]
    made = subprocess.run(
        [sys.executable, "scripts/sbom.py", *locks],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    bill = json.loads(made.stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "eaves"
    parts = {part["name"]: part for part in bill["components"]}
    assert parts["torch"]["version"].endswith("+cpu")
    assert {"grpcio", "cryptography", "numpy", "scikit-learn"} <= set(parts)
    assert "pytest" not in parts  # that is no part of the container
    for part in parts.values():
        assert part["purl"].startswith(f"pkg:pypi/{part['name']}@")
        assert part["hashes"]
    (own,) = [entry for entry in bill["dependencies"] if entry["ref"] == "eaves"]
    assert len(own["dependsOn"]) > 8
