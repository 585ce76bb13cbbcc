"""The command ``eaves audit``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import tyro

from eaves.experiments.auditconfig import AuditConfig


@final
@dataclass(frozen=True, kw_only=True)
class Audit:
    """Attack a bundle, to see how well the cloud could read private attributes in what is sent.

    The attacker is the cloud, and more: it has the edge part's weights, knows the bound and the law
    of the noise, gets the task labels, and has labelled examples of its own.

    Exit code 0: the limit holds, or none is stated. 3: an attack was above --max-attack. 4: the
    audit is broken, for shuffled labels were read. 130: interrupted; what was found is
    printed and kept. 1 and 2 as everywhere: a runtime error, a usage error.
    """

    source: tyro.conf.Positional[Path]
    """Bundle with the edge's half, or the folder of the run that left it."""
    settings: Annotated[AuditConfig, tyro.conf.arg(name="")] = field(default_factory=AuditConfig)
    json: bool = False
    """Print all that was found as one line of JSON, and no tables."""

    def run(self) -> int:
        """Attack, print, and return the exit code."""
        from eaves.report.auditing import show_audit

        return show_audit(self.source, self.settings, as_json=self.json)
