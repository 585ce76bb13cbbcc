"""How long a plan takes to be made: seconds, and beside them those of importing torch.

    python -m benchmarks.plan_speed [--net resnet18] [--rounds 3]

measuring    `eaves plan --net NET`, which measures this machine first         (target: below 10 s)
from file    the same with a profile that was taken before                    (target: below 1.5 s)
import torch `python -c "import torch"`, for scale
fleet        10,000 simulated edges, ten uploads each, a link each              (target: below 60 s)

The median over the rounds, with the least and the greatest.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.timing import seconds

from eaves.core.specs import LINKS
from eaves.planner.simulate import Fleet, simulate

EAVES = (sys.executable, "-m", "eaves")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        profile = str(Path(folder) / "here.json")
        command(*EAVES, "profile", "--net", options.net, "--out", profile, "--seconds", "0")
        checks: dict[str, Callable[[], object]] = {
            "measuring": lambda: command(*EAVES, "plan", "--net", options.net),
            "from file": lambda: command(*EAVES, "plan", "--profile", profile),
            "import torch": lambda: command(sys.executable, "-c", "import torch"),
            "fleet": fleet,
        }
        for name, check in checks.items():
            times_s = [seconds(check) for _ in range(options.rounds)]
            spread = f"{min(times_s):.2f} to {max(times_s):.2f}"
            print(f"{name:<13} {median(times_s):6.2f} s  ({spread})", flush=True)


def command(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def fleet() -> object:
    return simulate(
        Fleet(
            edges=10_000,
            uploads=10,
            period_s=1.0,
            upload_bytes=80_000,
            link=LINKS["3g"],
            shared_link=False,
            serve_fixed_s=1e-3,
            serve_each_s=5e-5,
            max_batch=32,
        )
    )


if __name__ == "__main__":
    main()
