"""What survives when a cloud or an agent is interrupted, killed, or out of disk: everything."""

import json
import resource
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep

import pytest
from tests.conftest import Machine, Started

pytestmark = pytest.mark.slow

# Some seconds of training, with many checkpoints in it.
LONG = "train_samples = 512\nbatch_size = 32\nepochs = 12\nedge_slowdown = 2.0\n"
FULL_BYTES = 30_000  # the largest file on a disk that is full: a log fits, weights do not
AGENT, CLOUD = Path("runs/agent"), Path("runs/cloud")

Machines = Callable[..., Machine]
FreePort = Callable[[], int]


def digests(*folders: Path) -> dict[str, str]:
    return {
        path.parent.name: sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in folder.glob("bundle/*/weights.safetensors")
    }


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 60
    while not condition():
        assert monotonic() < deadline, "what the test waits for never came"
        sleep(0.01)


def let_work(begun: Started, out: Path) -> Started:
    """Wait until a command has written two checkpoints more."""
    path = out / "checkpoint" / "checkpoint.json"

    def stamp() -> int:
        return path.stat().st_mtime_ns if path.exists() else 0

    seen = {stamp()}
    wait_for(lambda: len(seen | {stamp()}) > 1 or not begun.process.is_alive())
    seen.add(stamp())
    wait_for(lambda: len(seen | {stamp()}) > 2 or not begun.process.is_alive())
    assert begun.process.is_alive(), begun.err
    return begun


class Pair:
    """A cloud and an agent on one machine, to be started again and again."""

    def __init__(self, machine: Machine, port: int):
        self.machine, self._port = machine, port
        self.agent_out, self.cloud_out = machine.folder / AGENT, machine.folder / CLOUD
        self._whole = machine.start("train", "--config", "run.toml", "--out", "whole")

    def cloud(self) -> Started:
        words = ("serve", "run.toml", "--listen", f"127.0.0.1:{self._port}", "--json")
        return self.machine.start(*words, "--checkpoint-s", 0.1).says("serving run.toml")

    def agent(self) -> Started:
        words = ("agent", "run.toml", "--cloud", f"localhost:{self._port}", "--json")
        return self.machine.start(*words, "--checkpoint-s", 0.1, "--max-backoff-s", 0.5)

    def expect_the_weights_of_an_uninterrupted_run(self) -> None:
        assert self._whole.ended() == 0, self._whole.err
        apart = digests(self.agent_out, self.cloud_out)
        assert sorted(apart) == ["cloud", "edge"]
        assert apart == digests(self.machine.folder / "whole")

    def record(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.agent_out / "record.json").read_bytes())
        return found


def limit(begun: Started, size_bytes: int) -> None:
    """Let a process write no larger files than this."""
    pid = begun.process.pid
    assert pid is not None
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


@pytest.mark.parametrize(
    ("method", "number", "code"),
    [("hierarchical", signal.SIGINT, 130), ("split", signal.SIGTERM, 0)],
)
def test_whatever_ends_them_the_same_commands_go_on_to_the_same_weights(
    machines: Machines, free_port: FreePort, method: str, number: int, code: int
) -> None:
    pair = Pair(machines(run=f"method = '{method}'\n{LONG}"), free_port())
    cloud, agent = pair.cloud(), pair.agent()
    assert let_work(agent, pair.agent_out).signal(number).ended() == code
    assert agent.err.splitlines()[-1] == "interrupted; the same command goes on"
    assert pair.record()["complete"] is False

    agent = let_work(pair.agent(), pair.agent_out)
    assert cloud.signal(number).ended() == code
    assert cloud.result["edges"][0]["applied"] == cloud.result["edges"][0]["durable"] > 0
    assert "Traceback" not in cloud.err
    cloud = let_work(pair.cloud(), pair.cloud_out)  # the agent has waited for it

    let_work(agent, pair.agent_out).kill()
    agent = let_work(pair.agent(), pair.agent_out)
    cloud.kill()
    cloud = pair.cloud()
    assert agent.ended() == 0, agent.err
    assert agent.result["complete"]
    assert cloud.signal(signal.SIGTERM).ended() == 0
    pair.expect_the_weights_of_an_uninterrupted_run()


def test_a_cloud_that_learns_on_goes_on_after_a_kill(
    machines: Machines, free_port: FreePort
) -> None:
    once = "send = 'once'\ncloud_epochs = 80\n"  # 16 uploads, 1,264 steps after
    pair = Pair(machines(run=LONG.replace("epochs = 12", "epochs = 2") + once), free_port())
    pair.cloud().kill()  # it has made the credentials
    agent = pair.agent().says("no connection")  # it has learnt alone, and now needs a cloud
    cloud = pair.cloud()
    let_work(cloud, pair.cloud_out).kill()
    cloud = pair.cloud()
    let_work(cloud, pair.cloud_out).kill()
    cloud = pair.cloud()
    assert agent.ended() == 0, agent.err
    assert agent.result["accuracy"]["cloud"]["n"] == 360  # it has waited for all of that
    assert cloud.signal(signal.SIGTERM).ended() == 0
    pair.expect_the_weights_of_an_uninterrupted_run()


def test_a_full_disk_of_the_cloud_is_said_and_loses_nothing(
    machines: Machines, free_port: FreePort
) -> None:
    pair = Pair(machines(run=LONG), free_port())
    cloud, agent = pair.cloud(), pair.agent()
    let_work(cloud, pair.cloud_out)
    limit(cloud, FULL_BYTES)
    cloud.says("cannot write").says("trying again")  # it goes on learning meanwhile
    limit(cloud, resource.RLIM_INFINITY)
    let_work(cloud, pair.cloud_out)
    limit(cloud, FULL_BYTES)
    assert cloud.signal(signal.SIGTERM).ended() == 1
    assert "eaves: cannot write" in cloud.err
    assert "Traceback" not in cloud.err
    cloud = pair.cloud()
    assert agent.ended() == 0, agent.err
    assert cloud.signal(signal.SIGTERM).ended() == 0
    pair.expect_the_weights_of_an_uninterrupted_run()


def test_a_full_disk_of_the_edge_is_said_and_loses_nothing(
    machines: Machines, free_port: FreePort
) -> None:
    pair = Pair(machines(run=LONG), free_port())
    cloud, agent = pair.cloud(), pair.agent()
    limit(let_work(agent, pair.agent_out), FULL_BYTES)
    assert agent.ended() == 1
    assert agent.err.splitlines()[-1].startswith("eaves: cannot write")
    assert "Traceback" not in agent.err
    assert pair.agent().ended() == 0
    assert cloud.signal(signal.SIGTERM).ended() == 0
    pair.expect_the_weights_of_an_uninterrupted_run()


def test_a_cloud_ends_by_itself_when_all_have_trained(
    machines: Machines, free_port: FreePort
) -> None:
    machine, port = machines(run=LONG.replace("epochs = 12", "epochs = 1")), free_port()
    words = ("serve", "run.toml", "--listen", f"127.0.0.1:{port}", "--json")
    cloud = machine.start(*words, "--exit-when-done", "--edges", 2, "--insecure").says("serving")
    agents = [
        machine.start(
            *("agent", "run.toml", "--cloud", f"127.0.0.1:{port}", "--insecure", "--json"),
            *("--name", name, "--out", name),
        )
        for name in ("a", "b")
    ]
    assert [agent.ended() for agent in agents] == [0, 0]
    assert cloud.ended() == 0
    assert sorted(edge["edge"] for edge in cloud.result["edges"]) == ["a", "b"]
    assert cloud.result["finished"] == 2
