"""The rows of the tables in docs/hybrid.md: five embeddings and their ablations, by their data."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.siameseconfig import SiameseConfig

COMPONENTS = (8, 4, 16)
SEEDS = (0, 1, 2)
TUNED_FACES = SiameseConfig(
    pairs="all", tune_epochs=4, tune_rate=0.5, margin=100.0, pair_weight=0.003, adapt_epochs=2
)
TUNED_MOTION = SiameseConfig(
    pairs="all", tune_epochs=8, tune_rate=0.5, margin=50.0, pair_weight=0.003, adapt_epochs=6
)
"""Margins are about as far as the features of two examples are apart before they are tuned."""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What is done to features: tuned by pairs, projected, noised."""

    name: str
    tuned: bool = False
    reduced: bool = False
    noisy: bool = False


EMBEDDINGS = (
    Embedding(name="simple"),
    Embedding(name="reduced", reduced=True),
    Embedding(name="Siamese", tuned=True),
    Embedding(name="reduced Siamese", tuned=True, reduced=True),
    Embedding(name="noisy reduced Siamese", tuned=True, reduced=True, noisy=True),
    Embedding(name="noise alone", noisy=True),
    Embedding(name="noisy reduced", reduced=True, noisy=True),
)
"""The five of the paper; then noise without tuning, on all features and on the projected ones."""
FIVE = 5


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A data set with a task and private attributes, its net, and the noise."""

    name: str
    base: TrainConfig
    tuning: SiameseConfig
    cut: str
    noise: float = 0.5
    """Standard deviation, for features whose mean variance is 1."""


FACES = TrainConfig(
    method="full-edge",
    net="compact",
    train_samples=12_000,
    epochs=8,
    precision="bf16",
    optimiser="adam",
    codec="int8",
)
ACTIVITY = replace(FACES, net="motion", train_samples=None, epochs=6, precision="fp32")


def subject(base: TrainConfig, tuning: SiameseConfig, cut: str, data: str, private: str) -> Subject:
    config = replace(base, data=data, privacy=PrivacyConfig(private=private))
    return Subject(name=f"{data} | {private}", base=config, tuning=tuning, cut=cut)


SUBJECTS = {
    "faces": (
        subject(FACES, TUNED_FACES, "conv4", "faces:Male", "Smiling,Eyeglasses"),
        subject(FACES, TUNED_FACES, "conv4", "faces:Smiling", "Male"),
    ),
    "activity": (
        subject(ACTIVITY, TUNED_MOTION, "conv2", "motion", "gender"),
        subject(ACTIVITY, TUNED_MOTION, "conv2", "motion:activity,trials", "subject"),
    ),
}
"""What each table is about: a task and what is private besides."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One bundle to be measured: an embedding of a subject, of so many numbers, with a seed."""

    subject: Subject
    embedding: Embedding
    components: int
    seed: int

    @property
    def attacked(self) -> tuple[str, ...]:
        """The attributes that are attacked: all with the first seed, then the first alone."""
        private = self.subject.base.privacy.attributes
        return private[:1] if self.seed else private

    @property
    def name(self) -> str:
        size = f", d={self.components}" if self.components else ""
        return f"{self.subject.name}, seed {self.seed}, {self.embedding.name}{size}"


def rows(table: str) -> Iterator[Row]:
    """Return all rows of a table: one size with every seed, then the others.

    Ablations are made with the first seed alone, and activities have no other.
    """
    for sizes in (COMPONENTS[:1], COMPONENTS[1:]):
        for seed in SEEDS if table == "faces" else SEEDS[:1]:
            for subject in SUBJECTS[table]:
                for embedding in EMBEDDINGS if seed == 0 else EMBEDDINGS[:FIVE]:
                    whole = (0,) if sizes == COMPONENTS[:1] else ()
                    for components in sizes if embedding.reduced else whole:
                        yield Row(
                            subject=subject, embedding=embedding, components=components, seed=seed
                        )
