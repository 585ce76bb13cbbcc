"""Accuracy and the rank measure against noise, for one bundle: the authors' known curve.

    python -m benchmarks.siamese.curve RUN --data-root DIR --out DIR

RUN is a run of siamese with --components and without noise (--noise none). Noise of the authors'
variances is added to the numbers that it would send for the test set, whose mean variance is 1; the
cloud's half answers as it is. Prints Markdown; writes curve.json and curve.png into OUT.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from eaves.audit.rank import Ranking, curve
from eaves.core.rates import Rate
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.exposing import Subject
from eaves.experiments.halves import cloud_half, open_origin
from eaves.report.figures import rank_curve

VARIANCES = (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 16.0)
"""The authors', and two more at the ends."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", type=Path, required=True, help="holds the data's folders")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = AuditConfig(data_root=options.data_root, attacks="rank")
    subject = Subject(options.run, config)
    features, source = subject.victims().features, subject.dataset.test
    labels_N = source.fetch(torch.arange(len(source))).labels
    scales = [variance**0.5 for variance in VARIANCES]
    generator = torch.Generator().manual_seed(0)
    rankings = curve(features, scales, generator=generator)
    half, _, _ = cloud_half(open_origin(options.run), "cpu")
    rows = []
    for variance, ranking in zip(VARIANCES, rankings, strict=True):
        noise = variance**0.5 * torch.randn(features.shape, generator=generator)
        answers_N = half.predictor.answer(features + noise).argmax(dim=1)
        rows.append(
            row(variance, ranking, Rate.of(int((answers_N == labels_N).sum()), len(labels_N)))
        )
    print(table(rows))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "curve.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    rank_curve(rows, options.out / "curve.png", title=f"{features.shape[1]} numbers sent")


def row(variance: float, ranking: Ranking, accuracy: Rate) -> dict[str, Any]:
    return {**ranking.as_json(), "accuracy": accuracy.as_json(), "noise": variance}


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "| noise variance | SNR, dB | task % | mean rank / N | log-rank | first % | ties % |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(line(row) for row in rows)])


def line(row: dict[str, Any]) -> str:
    def share(key: str) -> str:
        return f"{100 * row[key]['value']:.1f} ±{50 * (row[key]['high'] - row[key]['low']):.1f}"

    def score(key: str) -> str:
        return f"{row[key]['value']:.3f} ±{(row[key]['high'] - row[key]['low']) / 2:.3f}"

    ratio = "-" if row["snr_db"] is None else f"{row['snr_db']:.1f}"
    cells = [f"{row['noise']:g}", ratio, share("accuracy"), score("privacy"), score("log_rank")]
    return f"| {' | '.join([*cells, share('at_rank_1'), share('ties')])} |"


if __name__ == "__main__":
    main()
