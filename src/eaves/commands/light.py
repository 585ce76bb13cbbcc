"""The command ``eaves light``."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import tyro

from eaves.experiments.netconfig import InferConfig
from eaves.experiments.settings import expect_at_least


@final
@dataclass(frozen=True, kw_only=True)
class Light:
    """Answer a file of inputs without torch, as `eaves infer` answers a test set.

    Without --connect the exit answers everything; where there is none, payloads are measured.
    """

    folder: tyro.conf.Positional[Path]
    """Folder that `eaves export` has made."""
    inputs: Path
    """File of inputs as numpy.save writes it: uint8, (N, ...)."""
    connect: str | None = None
    """Address of the cloud, as HOST:PORT; without it nothing is sent."""
    credentials: Path | None = None
    """Folder with this device's certificate and key, or its token, as `eaves certs` makes it."""
    insecure: bool = False
    """Neither encryption nor a name that is proved: for one machine, or to try things out."""
    name: str = "edge-1"
    """Name of this device, with --insecure only: otherwise its credentials say it."""
    deadline_ms: float = 500.0
    """Take the exit's answer where the cloud's is not there after this many milliseconds."""
    rule: str | None = None
    """confidence or entropy: what tells whether the exit is sure; with --threshold. By default the
    rule in the folder; where it has none, everything is sent."""
    threshold: float | None = None
    """How sure it has to be, in [0, 1]: confidence above, or entropy (as a share of the largest)
    below."""
    batch_size: int = 1
    """Examples that are answered together."""
    threads: int = 1
    """CPU threads of ONNX Runtime."""
    json: bool = False
    """Print a line of JSON for each example, a summary last, and no table."""

    def run(self) -> int:
        """Answer, print, and return the exit code."""
        from eaves.report.light import show_light

        expect_at_least(self, "threads", 1)
        config = InferConfig(
            cloud=self.connect,
            credentials=self.credentials,
            insecure=self.insecure,
            name=self.name,
            deadline_ms=self.deadline_ms,
            rule=self.rule,
            threshold=self.threshold,
            batch_size=self.batch_size,
        )
        return show_light(self.folder, self.inputs, config, threads=self.threads, as_json=self.json)
