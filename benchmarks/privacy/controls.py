"""All attackers and their positive controls behind codecs, with and without noise, on digits.

    python -m benchmarks.privacy.controls --out DIR [--effort 0.5] [--threads 1] [--only int1]

Parity is kept, "5 or more" is private. For each codec a net is trained with noise and without, and
its bundle is audited. Readers of another library are taught what the cloud decodes, beside the
audit. Prints Markdown, and keeps controls.json in DIR; a run that is there already is not trained
again.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from eaves.core.rates import Rate
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditRecord, run_audit
from eaves.experiments.compare import finished
from eaves.experiments.config import TrainConfig
from eaves.experiments.exposing import Subject
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.run import run

Facts = dict[str, Any]
CODECS = ("int8", "int4", "int2:tensor", "int1:tensor")
ATTACKS = "labels,attribute,decoder,rank"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One bundle: its codec, and the noise of the method."""

    codec: str
    noisy: bool

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.codec}, {'noise 1' if self.noisy else 'no noise'}"

    @property
    def config(self) -> TrainConfig:
        """The case in which attackers once skipped the codec, and the same with noise."""
        return TrainConfig(
            method="priphit",
            data="digits:parity",
            cut="conv1",
            bottleneck="8x4x4",
            codec=self.codec,
            epochs=15,
            cloud_epochs=5,
            privacy=PrivacyConfig(private="high", noise="gaussian" if self.noisy else "none"),
        )


ROWS = [Row(codec=codec, noisy=noisy) for noisy in (False, True) for codec in CODECS]


def facts_of(row: Row, out: Path, effort: float, threads: int) -> Facts:
    """Train where that was not done, audit, and return the figures."""
    folder = out / row.name.replace(" ", "-").replace(",", "").replace(":", "-")
    config = TrainConfig(**{**vars(row.config), "out": folder, "threads": threads})
    if finished(config) is None:
        list(run(config))
    audit = AuditConfig(attacks=ATTACKS, effort=effort, patience=20.0, threads=threads, gallery=0)
    *_, record = run_audit(folder, audit)
    assert isinstance(record, AuditRecord)
    return {"name": row.name, "audit": record.as_json(), "outside": outside(folder, audit)}


def outside(folder: Path, audit: AuditConfig) -> Facts:
    """Return what readers of another library get that are taught what the cloud decodes.

    Twenty releases of each of the attacker's examples teach, one of each victim is read. The path
    is made here once more: release, payloads of the training's size, bytes, and back.
    """
    subject = Subject(folder, audit)
    known, victims = subject.attacker(), subject.victims()
    private = known.private.of("high").repeat(20).numpy()
    taught = torch.cat([_decoded(subject, known.features, seed) for seed in range(20)]).numpy()
    seen, truth = (
        _decoded(subject, victims.features, 99).numpy(),
        victims.private.of("high").numpy(),
    )
    readers = {
        "trees": HistGradientBoostingClassifier(random_state=0),
        "neighbours": KNeighborsClassifier(15),
        "mlp": MLPClassifier((256,), early_stopping=True, random_state=0),
    }
    found = {}
    for name, reader in readers.items():
        right = int((reader.fit(taught, private).predict(seen) == truth).sum())
        found[name] = Rate.of(right, len(truth)).as_json()
    return found


def _decoded(subject: Subject, features: torch.Tensor, seed: int) -> torch.Tensor:
    """Return what the cloud decodes of one release in random batches, flat (N, D)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(features), generator=generator)
    mechanism, decoded = subject.mechanism, torch.empty_like(features)
    for rows in torch.split(order, subject.config.batch_size):
        z = mechanism.bounded(features[rows])
        if mechanism.scale:
            z = z + mechanism.scale * torch.randn(z.shape, generator=generator)
        decoded[rows] = subject.codec.decode(subject.codec.encode(z))
    return decoded.flatten(1)


def table(rows: list[Facts]) -> str:
    """Return a line for each attacker, a column for each row: read %, and planted % found."""
    names = [row["name"] for row in rows]
    head = f"| attacker | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}"
    cells = {name: [_cell(row["audit"], *name) for row in rows] for name in _attackers(rows[0])}
    lines = [f"| {attacker} | {' | '.join(line)} |" for (_, attacker), line in cells.items()]
    lines.append(f"| rank | {' | '.join(_rank_cell(row['audit']) for row in rows)} |")
    for name in rows[0]["outside"]:
        shares = [f"{100 * row['outside'][name]['value']:.1f}" for row in rows]
        lines.append(f"| outside: {name} | {' | '.join(shares)} |")
    states = ["sound" if row["audit"]["sound"] else "UNSOUND" for row in rows]
    lines.append(f"| the audit | {' | '.join(states)} |")
    return "\n".join([head, *lines])


def _attackers(row: Facts) -> list[tuple[str, str]]:
    found = row["audit"]["attributes"]["high"]["findings"]
    return [(f["attack"], "label alone" if f["attack"] == "labels" else _name(f)) for f in found]


def _name(finding: Facts) -> str:
    return str(finding["attacker"] if finding["attack"] == "attribute" else finding["attack"])


def _cell(audit: Facts, attack: str, attacker: str) -> str:
    found = audit["attributes"]["high"]
    [finding] = [
        f
        for f in found["findings"]
        if f["attack"] == attack and attacker in ("label alone", _name(f))
    ]
    who = finding["attacker"] if attack in ("attribute", "labels") else attack
    control = next(c for c in found["controls"] if (c["attack"], c["attacker"]) == (attack, who))
    unit = (
        f"{100 * control['found']:.0f}" if attack != "decoder" else f"SSIM {control['found']:.2f}"
    )
    return f"{100 * finding['rate']['value']:.1f} ({unit}{'' if control['passed'] else ' LOST'})"


def _rank_cell(audit: Facts) -> str:
    [control] = audit["controls"]
    lost = "" if control["passed"] else " LOST"
    return f"{audit['identity']['privacy']['value']:.3f} ({control['found']:.3f}{lost})"


def main() -> None:
    """Measure the rows that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and figures")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--effort", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    facts = []
    for row in (row for row in ROWS if options.only in row.name):
        facts.append(facts_of(row, options.out, options.effort, options.threads))
        print(table(facts[-1:]), file=sys.stderr, flush=True)
    print(table(facts))
    (options.out / "controls.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
