"""The rows of the tables in docs/mixing.md: one configuration each, by the table it belongs to."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.privacy.rows import BASE as FACES
from benchmarks.privacy.rows import NARROW
from benchmarks.rows import Row

from eaves.experiments.config import TrainConfig
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.privacyconfig import PrivacyConfig

WORDS = TrainConfig(
    data="spoken-digits",
    net="res8",
    cut="stem",
    method="datamix",
    epochs=20,
    batch_size=32,
    optimiser="adam",
    precision="bf16",
    privacy=PrivacyConfig(private="speaker"),
)


IMAGES = TrainConfig(
    data="cifar10",
    train_samples=20_000,
    net="spindle",
    cut="norm",
    method="datamix",
    epochs=12,
    batch_size=64,
    optimiser="sgd",
    precision="bf16",
    mixing=MixingConfig(group=2, law="convex", allow_guessable=True, cloud_ends="middle"),
)


def mixed(base: TrainConfig, group: int, law: str = "orthogonal", share: float = 0.8) -> Row:
    """Plain mixtures of ``group``."""
    mixing = replace(base.mixing, group=group, law=law, max_share=share, allow_guessable=group == 2)
    name = f"{base.data}, K = {group}, {law}" + (f", share {share:g}" if share != 0.8 else "")
    return Row(name=name, config=replace(base, mixing=mixing), attacks="")


def unmixed(base: TrainConfig) -> Row:
    """The same net, all of it on the edge."""
    config = replace(base, method="full-edge")
    return Row(name=f"{base.data}, unmixed", config=config, attacks="")


def images() -> list[Row]:
    """CIFAR-10: what mixing costs, by group, law and share; and what the edge could do alone."""
    ends = f"{Path(__file__).with_name('ends.py')}:ends"
    alone = replace(unmixed(replace(IMAGES, net=ends, cut="auto")), name="cifar10, edge alone")
    return [
        unmixed(IMAGES),
        alone,
        mixed(IMAGES, 2, "convex"),
        mixed(IMAGES, 2, "convex", share=0.9),
        mixed(IMAGES, 4, "convex"),
        *(mixed(IMAGES, group) for group in (2, 4, 8)),
        mixed(IMAGES, 4, "affine"),
        *longer(unmixed(IMAGES), mixed(IMAGES, 2, "convex")),
    ]


def longer(*rows: Row) -> list[Row]:
    """The same for 20 epochs."""
    return [
        replace(row, name=f"{row.name}, 20 epochs", config=replace(row.config, epochs=20))
        for row in rows
    ]


def words() -> list[Row]:
    """Spoken digits: unmixed, and in groups, by three seeds."""
    rows = []
    for seed in (0, 1, 2):
        base = replace(WORDS, seed=seed)
        found = [
            unmixed(base),
            *(mixed(base, group) for group in (2, 4, 8)),
            mixed(base, 2, "convex"),
            mixed(base, 4, "affine"),
        ]
        rows += [replace(row, name=f"{row.name}, seed {seed}") for row in found]
    return rows


def hardened(base: TrainConfig, bottleneck: str, **privacy: Any) -> TrainConfig:
    """Features bounded, noised and trained against adversaries before they are mixed."""
    return replace(
        base,
        bottleneck=bottleneck,
        mixing=replace(base.mixing, hardened=True),
        privacy=replace(base.privacy, **privacy),
    )


def attacked_words() -> list[Row]:
    """Spoken digits: mixtures taken apart, the speaker read; plain and hardened."""
    deep = replace(WORDS, net="compact", cut="conv2")  # one convolution cannot leave a speaker out
    hard = hardened(replace(deep, epochs=40), "4x2x4", weight=6.0, adversary_steps=2)
    shallow = hardened(replace(WORDS, epochs=40), "2x4x7", weight=3.0)
    return [
        replace(unmixed(deep), name="words, unmixed"),
        *attacked("hardened words, one convolution", shallow, (2,)),
        *attacked("words", deep, (2, 4)),
        *attacked("hardened words", hard, (2, 4)),
    ]


def attacked_faces() -> list[Row]:
    """Smiling kept, Male private: mixtures taken apart, Male read; plain and hardened."""
    base = replace(FACES, method="datamix")
    hard = hardened(base, NARROW)
    return [*attacked("faces", base, (2, 4)), *attacked("hardened faces", hard, (2, 4))]


def attacked(name: str, base: TrainConfig, groups: Sequence[int]) -> list[Row]:
    """The bundles of these groups, with every attack that takes mixtures apart."""
    rows = []
    for group in groups:
        mixing = replace(base.mixing, group=group, allow_guessable=group == 2)
        config = replace(base, mixing=mixing)
        row = Row(name=f"{name}, K = {group}", config=config, attacks="unmixing,attribute")
        rows.append(replace(row, effort=0.5))
    return rows


TABLES = {
    "images": images,
    "words": words,
    "attacked_words": attacked_words,
    "attacked_faces": attacked_faces,
}
