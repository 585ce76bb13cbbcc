"""Kill edges, clouds and trainings at random moments, again and again: nothing may be lost.

    python -m benchmarks.crashes [--kills 200] [--scenarios NAMES] [--seed 0] [--out FILE]

Each scenario trains once undisturbed; then again, while a random process of it is killed with
SIGKILL and started by the same command, until it has had its share of the kills. A third of them
hits the first moments of a process: imports, set-up, certificates, hand-shakes.

================  ==========================================================================
every-epoch       hierarchical training over TLS, one edge
two-way           split learning: every upload is answered by a gradient
once              hierarchical, every example travels once; the cloud learns on from its store
priphit           the edge learns alone, then sends noised features once
two-edges         hierarchical, two edges and one cloud
in-one-place      ``eaves train --resume``: checkpoints, no network
certificates      the first start of a cloud, which makes its certificates
================  ==========================================================================

What must hold: the bundles of both sides have the weights of the undisturbed run, bit for bit
(SHA-256); each edge's uploads and examples were learnt from as often as there (fewer: lost; more:
twice). Two edges arrive in any order, so only the counts are compared; of priphit the edge's
weights and the counts, because each run draws the key of its noise. Of certificates: the cloud
starts, and the edge's credentials are there and are accepted.

Processes are forked from one that has imported everything, so that a start takes little time;
``--fresh`` starts the interpreter each time. The digits; about 0.7 s a kill. Exit code 0: all held.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from tempfile import mkdtemp
from typing import Any

DIGITS = 'data = "digits"\nbatch_size = 64\n'
HIDDEN = 'data = "digits:parity"\nbatch_size = 64\ncut = "conv1"\nbottleneck = "4x2x2"\n'
PRIVATE = '\n[privacy]\nprivate = "high"\n'
START_S = 0.4  # of a process: kills before that hit its set-up
PATIENCE_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is trained, by which processes, and what is compared in the end."""

    config: str
    edges: int = 1
    one_place: bool = False
    weights: tuple[str, ...] = ("cloud", "edge")
    """Sides whose weights are those of an undisturbed run, bit for bit."""
    kills_a_run: int = 25


SCENARIOS: Mapping[str, Scenario] = {
    "every-epoch": Scenario(config=DIGITS + 'method = "hierarchical"\nepochs = 25\n'),
    "two-way": Scenario(config=DIGITS + 'method = "split"\nepochs = 12\n'),
    "once": Scenario(config=DIGITS + 'method = "hierarchical"\nsend = "once"\nepochs = 25\n'),
    # Its noise comes from a key that each run draws, so two clouds never learn from the same.
    "priphit": Scenario(
        config=HIDDEN + 'method = "priphit"\nepochs = 10\n' + PRIVATE, weights=("edge",)
    ),
    "two-edges": Scenario(
        config=DIGITS + 'method = "hierarchical"\nepochs = 15\n', edges=2, weights=()
    ),
    "in-one-place": Scenario(
        config=DIGITS + 'method = "hierarchical"\nepochs = 25\ncheckpoint_s = 0.3\n',
        one_place=True,
    ),
}
CERTIFICATES = "certificates"


@dataclass
class Side:
    """One process, started by the same command every time."""

    name: str
    command: Sequence[str]
    folder: Path
    start_it: "Starter"
    again: Sequence[str] | None = None
    """What starts it after a kill, where that differs."""
    pid: int = 0
    starts: int = 0
    started_at: float = 0.0
    code: int | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / f"{self.name}.log"

    def start(self) -> None:
        begun = (self.folder / "runs/train/config.toml").exists()
        command = self.again if begun and self.again is not None else self.command
        self.code, self.started_at = None, time.monotonic()
        self.pid = self.start_it(command, self.folder, self.log)
        self.starts += 1

    @property
    def alive(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def end(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        until = time.monotonic() + patience_s
        while self.alive and time.monotonic() < until:
            time.sleep(0.02)
        if self.alive:
            self.end(signal.SIGKILL)
            raise SystemExit(f"{self.name} hung:\n{self.log.read_text()[-2000:]}")
        assert self.code is not None
        return self.code


Starter = Callable[[Sequence[str], Path, Path], int]


def fresh(command: Sequence[str], folder: Path, log: Path) -> int:
    """Start the interpreter anew; return the process's number."""
    with log.open("ab") as out:
        words = [sys.executable, "-m", "eaves", *command]
        return Popen(words, cwd=folder, stdin=DEVNULL, stdout=out, stderr=STDOUT).pid


def forked(command: Sequence[str], folder: Path, log: Path) -> int:
    """Fork this process, which has imported what a command needs, and run the command in it."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        os.chdir(folder)
        from eaves.commands.main import main as eaves

        code = eaves(list(command))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def import_all() -> None:
    """Import what the commands do, without any work that would start a thread."""
    from importlib import import_module

    for name in (
        "commands.main",
        "commands.serve",
        "commands.agent",
        "commands.train",
        "experiments.agent",
        "experiments.run",
        "report.serving",
        "report.session",
    ):
        import_module(f"eaves.{name}")
    import_module("sklearn.datasets")
    import torch

    torch.set_num_threads(1)


@dataclass
class Outcome:
    """What became of one scenario."""

    scenario: str
    kills: int = 0
    runs: int = 0
    early: int = 0
    """Kills in the first moments of a process."""
    by_side: Counter[str] = field(default_factory=Counter)
    unequal: int = 0
    """Runs whose weights are not those of the undisturbed one."""
    lost: int = 0
    """Examples that were learnt from less often than in the undisturbed run."""
    twice: int = 0
    """Examples that were learnt from more often."""
    failures: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.unequal or self.lost or self.twice or self.failures)


@dataclass(frozen=True)
class Result:
    """What a run leaves: digests of the weights by side, and counts by edge."""

    weights: dict[str, str]
    learnt: dict[str, tuple[int, int]]


def sides(scenario: Scenario, folder: Path, starter: Starter) -> list[Side]:
    """Return the processes of a run, the cloud first."""
    if scenario.one_place:
        train = ("train", "--config", "run.toml", "--out", "runs/train")
        again = ("train", "--resume", "runs/train")
        return [Side("train", train, folder, starter, again)]
    listen = f"127.0.0.1:{free_port()}"
    serve = ["serve", "run.toml", "--listen", listen, "--checkpoint-s", "0.5"]
    agent = ["agent", "run.toml", "--cloud", listen, "--checkpoint-s", "0.5"]
    agent += ["--max-backoff-s", "0.3"]
    if scenario.edges == 1:
        return [Side("cloud", serve, folder, starter), Side("edge", agent, folder, starter)]
    serve += ["--insecure", "--edges", str(scenario.edges)]
    found = [Side("cloud", serve, folder, starter)]
    for number in range(1, scenario.edges + 1):
        words = [*agent, "--insecure", "--name", f"edge-{number}", "--out", f"runs/edge-{number}"]
        found.append(Side(f"edge-{number}", words, folder, starter))
    return found


def train(
    scenario: Scenario, folder: Path, starter: Starter, chance: random.Random | None, tally: Outcome
) -> Result:
    """Run a scenario to its end, with kills where ``chance`` is given."""
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(scenario.config)
    found = sides(scenario, folder, starter)
    cloud, edges = (None, found) if scenario.one_place else (found[0], found[1:])
    try:
        if cloud is not None:
            cloud.start()
            if scenario.edges == 1:  # certificates, which the cloud makes when it first starts
                wait_for(folder / "certs" / "devices" / "edge-1" / "key.pem", cloud)
        for edge in edges:
            edge.start()
        killed = 0
        while any(edge.alive for edge in edges):
            if chance is None or killed >= scenario.kills_a_run:
                time.sleep(0.02)
                continue
            early = chance.random() < 0.33
            time.sleep(chance.uniform(0, START_S) if early else chance.uniform(START_S, 2.0))
            victim = chance.choice([side for side in found if side.alive] or found)
            if victim in edges and not victim.alive:
                continue
            tally.early += time.monotonic() - victim.started_at < START_S
            victim.end(signal.SIGKILL)
            killed += 1
            tally.kills += 1
            tally.by_side[victim.name.partition("-")[0]] += 1
            victim.start()
        for edge in edges:
            if edge.wait() != 0:
                raise SystemExit(f"{edge.name} ended with {edge.code}:\n{tail(edge.log)}")
        if cloud is not None:
            cloud.end(signal.SIGTERM)
        return result_of(scenario, folder)
    finally:
        for side in found:
            if side.pid:
                side.end(signal.SIGKILL)


def result_of(scenario: Scenario, folder: Path) -> Result:
    """Read what both sides left."""
    if scenario.one_place:
        manifest = json.loads((folder / "runs/train/bundle/manifest.json").read_text())
        return Result(weights=manifest["sha256"], learnt={})
    bundles = {"cloud": folder / "runs/cloud/bundle"}
    if scenario.edges == 1:
        bundles["edge"] = folder / "runs/agent/bundle"
    manifests = {k: json.loads((b / "manifest.json").read_text()) for k, b in bundles.items()}
    learnt = {
        row["edge"]: (row["applied"], row["samples"]) for row in manifests["cloud"]["uploads"]
    }
    return Result(weights={k: m["sha256"][k] for k, m in manifests.items()}, learnt=learnt)


def disturbed(
    name: str, kills: int, starter: Starter, seed: int, folder: Path, *, keep: bool
) -> Outcome:
    """Run one scenario until it has had its kills."""
    scenario, outcome, chance = SCENARIOS[name], Outcome(name), random.Random(f"{name}-{seed}")
    calm = train(scenario, folder / name / "undisturbed", starter, None, outcome)
    while outcome.kills < kills and len(outcome.failures) < 3:
        place = folder / name / f"run-{outcome.runs}"
        outcome.runs += 1
        try:
            found = train(scenario, place, starter, chance, outcome)
        except (SystemExit, OSError, KeyError, ValueError) as error:
            outcome.failures.append(f"{place}: {error}")
            continue
        unequal = any(found.weights[side] != calm.weights[side] for side in scenario.weights)
        outcome.unequal += unequal
        for edge in {*calm.learnt, *found.learnt}:
            before, after = (r.learnt.get(edge, (0, 0))[1] for r in (calm, found))
            outcome.lost += max(0, before - after)
            outcome.twice += max(0, after - before)
        if not (keep or unequal):
            shutil.rmtree(place)
        print(f"{name}: {outcome.kills} kills in {outcome.runs} runs", file=sys.stderr, flush=True)
    return outcome


def certificates(kills: int, starter: Starter, seed: int, folder: Path) -> Outcome:
    """Kill a cloud as it starts for the first time; then it must start, and let the edge in."""
    outcome, chance = Outcome(CERTIFICATES), random.Random(f"certificates-{seed}")
    config = DIGITS + 'method = "hierarchical"\nepochs = 1\n'
    while outcome.kills < kills and len(outcome.failures) < 3:
        place = folder / CERTIFICATES / f"run-{outcome.runs}"
        outcome.runs += 1
        place.mkdir(parents=True)
        (place / "run.toml").write_text(config)
        cloud, edge = sides(Scenario(config=config), place, starter)
        try:
            for _ in range(chance.randint(1, 6)):
                cloud.start()
                time.sleep(chance.uniform(0, 1.5 * START_S))
                if not cloud.alive and cloud.code != -signal.SIGKILL:
                    raise SystemExit(f"a start after kills ended with {cloud.code}")
                cloud.end(signal.SIGKILL)
                outcome.kills += 1
                outcome.early += 1
                outcome.by_side["cloud"] += 1
            cloud.start()
            wait_for(place / "certs" / "devices" / "edge-1" / "key.pem", cloud)
            edge.start()
            if edge.wait() != 0:
                raise SystemExit(f"the edge ended with {edge.code}:\n{tail(edge.log)}")
            shutil.rmtree(place)
        except SystemExit as error:
            outcome.failures.append(f"{place}: {error}\n{tail(cloud.log)}")
        finally:
            for side in (cloud, edge):
                if side.pid:
                    side.end(signal.SIGKILL)
    return outcome


def wait_for(path: Path, side: Side) -> None:
    for _ in range(600):
        if path.exists():
            return
        if not side.alive:
            raise SystemExit(f"{side.name} ended with {side.code}:\n{tail(side.log)}")
        time.sleep(0.05)
    raise SystemExit(f"{path} did not appear")


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:] if log.exists() else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def report(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    heads = ("scenario", "kills", "early", "cloud", "edge", "runs", "unequal", "lost", "twice")
    print("| " + " | ".join(heads) + " | failures |")
    print("| --- |" + " ---: |" * len(heads))
    for o in outcomes:
        sided = (o.by_side["cloud"], o.by_side["edge"] + o.by_side["train"])
        cells = (o.kills, o.early, *sided, o.runs, o.unequal, o.lost, o.twice, len(o.failures))
        print(f"| {o.scenario} | " + " | ".join(map(str, cells)) + " |", flush=True)
        for failure in o.failures:
            print(f"    {failure}")
    rows = [asdict(o) | {"by_side": dict(o.by_side)} for o in outcomes]
    return {"kills": sum(o.kills for o in outcomes), "scenarios": rows}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (*SCENARIOS, CERTIFICATES)
    parser.add_argument("--kills", type=int, default=200, help="of all scenarios together")
    parser.add_argument("--scenarios", default=",".join(names), help="with commas between")
    parser.add_argument("--jobs", type=int, default=1, help="scenarios at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="start the interpreter each time")
    parser.add_argument("--keep", type=Path, help="folder for all runs, which then stay there")
    parser.add_argument("--out", type=Path, help="write the outcome here as JSON")
    options = parser.parse_args()
    chosen = [name for name in options.scenarios.split(",") if name]
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"unknown scenario {', '.join(unknown)}; choose from: {', '.join(names)}")
    os.environ.pop("PYTHONFAULTHANDLER", None)
    starter = fresh if options.fresh else forked
    if not options.fresh:
        import_all()
    folder = options.keep or Path(mkdtemp(prefix="eaves-crashes-"))
    share = -(-options.kills // len(chosen))
    if options.jobs > 1 and not options.fresh:
        parser.error("--jobs forks from threads, which only --fresh allows; start two of these")

    def one(name: str) -> Outcome:
        if name == CERTIFICATES:
            return certificates(share, starter, options.seed, folder)
        return disturbed(name, share, starter, options.seed, folder, keep=options.keep is not None)

    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(one, chosen)) if options.jobs > 1 else [one(n) for n in chosen]
    found = report(outcomes)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1, default=str) + "\n")
    holds = all(outcome.holds for outcome in outcomes)
    if holds and options.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{found['kills']} kills: " + ("all held" if holds else f"NOT ALL HELD, see {folder}"))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
