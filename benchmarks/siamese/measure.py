"""Train, reduce and attack every embedding of a table; print Markdown, keep JSON.

    python -m benchmarks.siamese.measure TABLE --data-root DIR --out DIR [--only NAME] [--seeds 0,1]

TABLE is faces or activity (rows.py). For each seed the net is trained once, tuned once with pairs
and once without, for as long; all rows begin there. The attackers get examples that the net was not
trained on first. A row that is already in OUT is not measured again.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from benchmarks.siamese.rows import EMBEDDINGS, Row, rows

from eaves.audit.attribute import Budget, attack
from eaves.audit.findings import Finding, Reading
from eaves.audit.trial import Allowance
from eaves.audit.verdict import Verdict
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import ranking_of
from eaves.experiments.compare import finished
from eaves.experiments.config import TrainConfig
from eaves.experiments.exposing import Examples, Subject, exposure_of
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.experiments.siameseconfig import SiameseConfig

Facts = dict[str, Any]
KNOWN = 12_000
WIDE = 64  # values, above which nothing is hidden: there attackers need not, and get less time
NARROW_ATTACK = (
    ("cloud", "deep", "mlp", "linear", "trees", "bayes", "neighbours"),
    Allowance(rounds=10, time_s=20.0),
)
WIDE_ATTACK = ("cloud", "deep"), Allowance(rounds=6, time_s=45.0)


def trained(config: TrainConfig, out: Path) -> Facts:
    """Return the record of a run, from its folder or by running it."""
    config = replace(config, out=out)
    record = finished(config)
    if record is None:
        print(f"training {out.name}", file=sys.stderr, flush=True)
        *_, last = run(config)
        assert isinstance(last, RunRecord)
        record = last.as_json()
    return record


def config_of(row: Row, start: Path, tuned: SiameseConfig) -> TrainConfig:
    """Return what a row is trained by, beginning with the weights in ``start``."""
    wanted = row.embedding
    return replace(
        row.subject.base,
        method="siamese",
        cut=row.subject.cut,
        seed=row.seed,
        privacy=PrivacyConfig(
            private=row.subject.base.privacy.private,
            noise="gaussian" if wanted.noisy else "none",
            noise_scale=row.subject.noise,
        ),
        siamese=replace(tuned, start=start, components=row.components),
    )


def bundle_of(row: Row, out: Path, data_root: Path) -> tuple[Path, Facts]:
    """Return the folder and the record of a row's run; what it begins with is trained first."""
    subject = row.subject
    stem = (
        f"{subject.name}, seed {row.seed}".replace(" | ", "-").replace(" ", "-").replace(":", "-")
    )
    base = out / f"{stem}-base"
    trained(replace(subject.base, data_root=data_root, seed=row.seed), base)
    pairs = subject.tuning.pairs if row.embedding.tuned else "none"
    parent = out / f"{stem}-{pairs}"
    first = replace(row, components=0, embedding=replace(row.embedding, noisy=False))
    tuning = replace(subject.tuning, pairs=pairs)
    record = trained(replace(config_of(first, base, tuning), data_root=data_root), parent)
    if not (row.embedding.reduced or row.embedding.noisy):
        return parent, record
    folder = out / row.name.replace(" | ", "-").replace(", ", "-").replace(" ", "-").replace(
        ":", "-"
    )
    config = config_of(row, parent, replace(tuning, tune_epochs=0))
    return folder, trained(replace(config, data_root=data_root), folder)


def facts_of(row: Row, out: Path, data_root: Path) -> Facts:
    """Return the figures of a row, from its folder or by measuring."""
    done = out / "facts" / f"{row.name}.json"
    if done.exists():
        found: Facts = json.loads(done.read_text(encoding="utf-8"))
        return found
    folder, record = bundle_of(row, out, data_root)
    config = AuditConfig(data_root=data_root, known=KNOWN, attacks="attribute")
    subject = Subject(folder, config)
    known, victims = subject.attacker(), subject.victims()
    facts: Facts = {
        "name": row.name,
        "subject": row.subject.name,
        "embedding": row.embedding.name,
        "components": row.components,
        "seed": row.seed,
        "task": record["accuracy"]["cloud"],
        "privacy": record["privacy"],
        "bytes": bytes_of(subject, victims),
        "attributes": {
            name: attacked(subject, name, known, victims, config) for name in row.attacked
        },
    }
    facts["rank"] = ranking_of(subject, victims, config).as_json()
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(facts), encoding="utf-8")
    return facts


def attacked(
    subject: Subject, attribute: str, known: Examples, victims: Examples, config: AuditConfig
) -> Facts:
    """Return how well the best of all attackers reads one attribute, and what the answer tells."""
    exposure = exposure_of(subject, attribute, known, victims, config)
    names, allowance = WIDE_ATTACK if victims.features[0].numel() > WIDE else NARROW_ATTACK
    generator = torch.Generator().manual_seed(config.seed)
    findings = [
        event
        for event in attack(
            exposure,
            generator=generator,
            cloud=subject.cloud_for(attribute),
            attackers=names,
            budget=Budget(allowance=allowance),
        )
        if isinstance(event, Finding)
    ]
    verdict = Verdict.of(findings)
    fairest = max(findings, key=lambda finding: finding.reading.balanced.value)
    return {
        "best": verdict.best.as_json(),
        "balanced": fairest.as_json(),
        "attackers": [finding.as_json() for finding in findings],
        "label_alone": label_alone(subject, attribute).as_json(),
    }


def label_alone(subject: Subject, attribute: str) -> Reading:
    """Return what the right answer of the task tells of the attribute, at best, on the victims."""
    source = subject.dataset.test
    batch = source.fetch(torch.arange(len(source)))
    assert batch.private is not None
    private_N, labels_N = batch.private.of(attribute), batch.labels
    counts_LK = torch.zeros(int(labels_N.max()) + 1, int(private_N.max()) + 1)
    counts_LK.index_put_((labels_N, private_N), torch.ones(len(labels_N)), accumulate=True)
    typical_LK = counts_LK / counts_LK.sum(dim=0)
    return Reading.of(
        counts_LK.argmax(dim=1)[labels_N], private_N, fair_N=typical_LK.argmax(dim=1)[labels_N]
    )


def bytes_of(subject: Subject, victims: Examples) -> dict[str, float]:
    """Return the bytes of a payload for each input: alone, among 32, and without the envelope."""
    sent = subject.mechanism.bounded(victims.features)

    def each(n: int) -> float:
        return len(subject.codec.encode(sent[:n])) / n

    grown = (len(subject.codec.encode(sent[:64])) - len(subject.codec.encode(sent[:32]))) / 32
    return {
        "alone": each(1),
        "of_32": each(32),
        "of_256": each(256),
        "more": grown,
        "raw": float(victims.images[0].numel()),
    }


def table(facts: list[Facts]) -> Iterator[str]:
    """Yield the rows as Markdown: means over the seeds, and the lowest and highest of them."""
    for subject in dict.fromkeys(fact["subject"] for fact in facts):
        ours = [fact for fact in facts if fact["subject"] == subject]
        names = list(ours[0]["attributes"])  # with the first seed, all of them
        seeds = sorted({fact["seed"] for fact in ours})
        yield f"\n{subject}, seeds {', '.join(map(str, seeds))}, n = {ours[0]['task']['n']}\n"
        heads = "".join(f" {name}: best attack % | balanced % |" for name in names)
        yield f"| embedding | numbers | task % |{heads} mean rank / N | bytes |"
        yield f"| --- | --- | --- |{' --- | --- |' * len(names)} --- | --- |"
        order = [embedding.name for embedding in EMBEDDINGS]
        keys = {(fact["embedding"], fact["components"]) for fact in ours}
        for key in sorted(keys, key=lambda key: (order.index(key[0]), key[1])):
            group = [f for f in ours if (f["embedding"], f["components"]) == key]
            yield line(key, group, names)
        for name in names:
            best, alone = (ours[0]["attributes"][name][k] for k in ("best", "label_alone"))
            yield (
                f"\n{name}: majority {100 * best['majority']:.1f} %, the answer alone "
                f"{100 * alone['rate']['value']:.1f} %, balanced "
                f"{100 * alone['balanced']['value']:.1f} %"
            )


def line(key: tuple[str, int], group: list[Facts], names: list[str]) -> str:
    cells = [key[0], str(key[1] or "all"), spread([f["task"]["value"] for f in group])]
    for name in names:
        found = [f["attributes"][name] for f in group if name in f["attributes"]]
        cells.append(spread([f["best"]["rate"]["value"] for f in found]))
        cells.append(spread([f["balanced"]["balanced"]["value"] for f in found]))
    cells.append(f"{mean(f['rank']['privacy']['value'] for f in group):.3f}")
    cells.append(f"{mean(f['bytes']['of_32'] for f in group):,.1f}")
    return f"| {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    """Return the mean in %, with the lowest and the highest where there are several."""
    low, high = min(values), max(values)
    if len(values) == 1:
        return f"{100 * low:.1f}"
    return f"{100 * mean(values):.1f} ({100 * low:.1f}-{100 * high:.1f})"


def main() -> None:
    """Measure the rows that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=("faces", "activity"))
    parser.add_argument("--data-root", type=Path, required=True, help="holds the data's folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and figures")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    wanted = {int(seed) for seed in options.seeds.split(",")}
    facts = []
    for row in rows(options.table):
        if options.only in row.name and row.seed in wanted:
            facts.append(facts_of(row, options.out, options.data_root))
            print(line(("", 0), facts[-1:], list(row.attacked)), row.name, flush=True)
    print("\n".join(table(facts)))
    path = options.out / f"{options.table}.json"
    path.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
