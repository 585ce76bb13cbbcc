"""The rows of the tables in docs/privacy.md: one configuration each, by the table it belongs to.

All are CelebA faces of 64x64, the official partition, 12,000 training faces, bf16.
"""

from dataclasses import replace
from typing import Any

from benchmarks.rows import Row

from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig

NARROW = "2x4x4"
BASE = TrainConfig(
    data="faces:Smiling",
    net="compact",
    cut="conv2",
    train_samples=12_000,
    epochs=10,
    precision="bf16",
    optimiser="adam",
    privacy=PrivacyConfig(private="Male"),
)


def plain(base: TrainConfig = BASE) -> TrainConfig:
    """Hierarchical training as it is: nothing narrowed, nothing hidden."""
    return replace(base, method="hierarchical", exit="conv")


def hiding(base: TrainConfig = BASE, method: str = "priphit", **privacy: Any) -> TrainConfig:
    """A method that hides, at the narrow cut."""
    settings = replace(base.privacy, **privacy)
    return replace(
        base, method=method, bottleneck=NARROW, cloud_epochs=base.epochs // 2, privacy=settings
    )


def seeds() -> list[Row]:
    """Smiling kept, Male hidden, three seeds."""
    rows = []
    for seed in (0, 1, 2):
        base = replace(BASE, seed=seed)
        attacked = "" if seed else "labels,attribute"  # how bare they are, once
        rows.append(
            Row(name=f"plain, seed {seed}", config=plain(base), attacks=attacked, effort=0.5)
        )
        rows.append(Row(name=f"priphit, seed {seed}", config=hiding(base)))
    return rows


def pairs() -> list[Row]:
    """Another task and other private attributes; fewer epochs."""
    base = replace(BASE, data="faces:Mouth_Slightly_Open", epochs=6)
    rows = [Row(name="plain, mouth", config=plain(base), attacks="")]
    for private in ("Heavy_Makeup", "Male"):
        config = hiding(replace(base, privacy=PrivacyConfig(private=private)))
        rows.append(Row(name=f"priphit, mouth | {private}", config=config))
    return rows


def nets() -> list[Row]:
    """Other nets, cut where the edge has at most 20 % of the work; fewer epochs."""
    rows = []
    for net, cut, epochs in (
        ("resnet18", "maxpool", 4),
        ("mobilevit_xxs", "stage1", 4),
        ("vgg11", "pool2", 2),
    ):
        base = replace(BASE, net=net, cut=cut, epochs=epochs)
        attacked = "labels,attribute" if net == "resnet18" else ""
        bare = plain(base)
        rows.append(Row(name=f"plain, {net}", config=bare, attacks=attacked, effort=0.5))
        config = replace(hiding(base), epochs=6, cloud_epochs=2)
        rows.append(Row(name=f"priphit, {net}", config=config))
    return rows


SHORT = replace(BASE, epochs=6)
QUIET = replace(SHORT, privacy=PrivacyConfig(private="Male", noise="none"))


def noise_alone(scale: float) -> Row:
    """The narrow cut with noise, or without any, and no adversaries."""
    config = hiding(QUIET, adversaries=0)
    if scale:
        config = hiding(SHORT, adversaries=0, noise_scale=scale)
    name = f"noise only {scale:g}" if scale else "narrow cut alone"
    return Row(name=name, config=config, effort=0.5)


def baselines() -> list[Row]:
    """Every method at the same cut, each at a few strengths: the trade-off."""
    found = {}
    for scale, weight in ((0.5, 3.0), (1.0, 1.0), (1.0, 3.0)):
        config = hiding(SHORT, noise_scale=scale, weight=weight)
        found[f"priphit {scale:g}, weight {weight:g}"] = config
    for weight in (1.0, 3.0):
        config = hiding(QUIET, aim="reversal", weight=weight, adversaries=1)
        found[f"gradient reversal, weight {weight:g}"] = config
        config = hiding(QUIET, aim="entropy", weight=weight, adversaries=1)
        found[f"MaxEnt-ARL, weight {weight:g}"] = config
        for method in ("nopeek", "disco", "deepobfuscator"):
            # DeepObfuscator's opponents need three steps: with one it hides less than nothing.
            steps = 3 if method == "deepobfuscator" else 1
            config = hiding(QUIET, method, weight=weight, adversary_steps=steps)
            found[f"{method}, weight {weight:g}"] = config
    rows = [Row(name=name, config=config, effort=0.5) for name, config in found.items()]
    return [*(noise_alone(scale) for scale in (0.0, 0.5, 1.0, 2.0)), *rows]


def epsilons() -> list[Row]:
    """Noise alone, of less and less epsilon; with next to none it must be as with none."""
    return [noise_alone(scale) for scale in (0.0, 0.01, 0.25, 0.5, 1.0, 2.0, 4.0)]


def against_noise() -> list[Row]:
    """PriPHiT where it meets noise alone, by three seeds; the first is that of the baselines."""
    rows = [noise_alone(0.5)]
    rows += [row for row in baselines() if row.name == "priphit 0.5, weight 3"]
    again = [
        replace(row, name=f"{row.name}, seed {seed}", config=replace(row.config, seed=seed))
        for seed in (1, 2)
        for row in rows
    ]
    return [*rows, *again]


def images() -> list[Row]:
    """Reconstructions by decoder, optimisation and GAN; of plain features for contrast."""
    return [
        Row(name="plain", config=plain(), attacks="all"),
        Row(name="priphit", config=hiding(), attacks="all"),
    ]


TABLES = {
    "seeds": seeds,
    "pairs": pairs,
    "nets": nets,
    "baselines": baselines,
    "epsilons": epsilons,
    "against_noise": against_noise,
    "images": images,
}
