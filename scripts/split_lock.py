"""Part what uv has locked into the files of requirements/: see scripts/lock, which calls this.

python3 scripts/split_lock.py FOLDER-OF-UV requirements [WHEEL-OF-TORCH ...]
"""

import hashlib
import re
import sys
from pathlib import Path

NAMES = ("dev.txt", "container.txt")
HEAD = "# Written by scripts/lock: do not edit by hand.\n"
CUDA = re.compile(r"(nvidia-|cuda-)|triton$")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def entries(text: str) -> dict[str, str]:
    """Return each requirement with its hashes, by its name and version."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=[a-z0-9])", text.strip(), flags=re.IGNORECASE):
        if block and not block.startswith("#"):
            found[block.split(" ")[0]] = block.rstrip() + "\n"
    return found


def name_of(key: str) -> str:
    return key.partition("==")[0]


def cpu_file(version: str, wheels: list[Path], before: str) -> str:
    """Return the CPU build of torch, with the hashes of ``wheels`` and, of this version, before."""
    line = f"torch=={version}+cpu"
    hashes = set(HASH.findall(before)) if before.startswith(f"{line} ") else set()
    for wheel in wheels:
        if not wheel.name.startswith(f"torch-{version}+cpu-"):
            sys.exit(f"expected a wheel of {line}, got {wheel.name}")
        with wheel.open("rb") as file:
            hashes.add(hashlib.file_digest(file, "sha256").hexdigest())
    if not hashes:
        sys.exit(f"give at least one wheel of {line} in TORCH_CPU_WHEELS: its hash is not known")
    return " \\\n".join([line, *(f"    --hash=sha256:{found}" for found in sorted(hashes))]) + "\n"


def main() -> None:
    source, target, wheels = Path(sys.argv[1]), Path(sys.argv[2]), [Path(w) for w in sys.argv[3:]]
    target.mkdir(exist_ok=True)
    locked = {name: entries((source / name).read_text()) for name in NAMES}
    apart = {key: block for key, block in locked["dev.txt"].items() if CUDA.match(name_of(key))}
    ((key, torch),) = (item for item in locked["dev.txt"].items() if name_of(item[0]) == "torch")
    cpu = target / "torch-cpu.txt"
    before = cpu.read_text().removeprefix(HEAD) if cpu.exists() else ""
    cpu.write_text(HEAD + cpu_file(key.partition("==")[2], wheels, before))
    (target / "torch.txt").write_text(HEAD + torch)
    (target / "torch-cuda.txt").write_text(HEAD + "".join(apart.values()))
    for name, found in locked.items():
        kept = [b for k, b in found.items() if k not in apart and name_of(k) != "torch"]
        (target / name).write_text(HEAD + "".join(kept))


main()
