"""The rows of the tables in docs/mixing.md: one configuration each, by the table it belongs to."""

from dataclasses import replace

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


def mixed(base: TrainConfig, group: int, law: str = "orthogonal", condition: float = 4.0) -> Row:
    """Plain mixtures of ``group``."""
    mixing = MixingConfig(group=group, law=law, max_condition=condition)
    name = f"K = {group}" if law == "orthogonal" else f"K = {group}, {law}"
    return Row(name=f"{base.data}, {name}", config=replace(base, mixing=mixing), attacks="")


def words() -> list[Row]:
    """Spoken digits: unmixed, and in groups, by three seeds."""
    rows = []
    for seed in (0, 1, 2):
        base = replace(WORDS, seed=seed)
        found = [
            Row(
                name="spoken-digits, unmixed", config=replace(base, method="full-edge"), attacks=""
            ),
            *(mixed(base, group) for group in (2, 4, 8)),
            mixed(base, 2, "convex"),
            mixed(base, 4, "affine"),
        ]
        rows += [replace(row, name=f"{row.name}, seed {seed}") for row in found]
    return rows


def hardened(base: TrainConfig, group: int, bottleneck: str, scale: float = 1.0) -> TrainConfig:
    """Features bounded, noised and trained against adversaries before they are mixed."""
    return replace(
        base,
        bottleneck=bottleneck,
        mixing=MixingConfig(group=group, hardened=True),
        privacy=replace(base.privacy, noise_scale=scale),
    )


def attacked_words() -> list[Row]:
    """Spoken digits: mixtures taken apart, the speaker read; plain and hardened."""
    rows = []
    for group in (2, 4):
        plain = replace(mixed(WORDS, group), name=f"plain, words, K = {group}")
        name = f"hardened, words, K = {group}"
        config = replace(hardened(WORDS, group, "4x4x7"), epochs=40)
        rows += [plain, Row(name=name, config=config)]
    return [replace(row, attacks="unmixing,attribute", effort=0.5) for row in rows]


TABLES = {"words": words, "attacked_words": attacked_words}
