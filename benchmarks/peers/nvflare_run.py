"""NVIDIA FLARE 2.9 on the same net: split learning by nvflare.collab, in its simulator.

    ENVS/nvflare/bin/python -m benchmarks.peers.nvflare_run gradient-returned

gradient-returned  as in its own example of split learning, but with one call a batch, not two
one-way            the same call without a gradient: the edge trains by its exit

The simulator runs server and client in processes of their own, which speak over loopback.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers import nvflare_split
from benchmarks.peers.workload import options
from nvflare.collab import CollabRecipe
from nvflare.recipe import SimEnv

INSIDE = "EAVES_BENCHMARK_OUT"


def main() -> None:
    chosen = options(__doc__, "gradient-returned", "one-way")
    if INSIDE in os.environ:
        simulate(Path(os.environ[INSIDE]), vars(chosen))
        return
    with TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        # A process of its own: what the simulator prints must not come before the one line.
        environment = {**os.environ, INSIDE: str(out), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.peers.nvflare_run", *sys.argv[1:]]
        log = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if log.returncode or not out.exists():
            sys.exit(log.stdout.decode(errors="replace"))
        print(out.read_text(), end="")


def simulate(out: Path, chosen: dict[str, object]) -> None:
    recipe = CollabRecipe(job_name="split", server=nvflare_split, client=nvflare_split)
    recipe.set_server_prop("plan", {**chosen, "out": str(out)})
    recipe.execute(SimEnv(num_clients=1, workspace_root=str(out.parent)))


if __name__ == "__main__":
    main()
