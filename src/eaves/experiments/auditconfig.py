"""What an audit tries: frozen, checked. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from eaves.errors import ConfigError, unknown
from eaves.experiments.settings import expect_between, take_paths

QUICK = ("labels", "attribute", "decoder", "unmixing", "rank")
ATTACKS = (*QUICK, "optimisation", "gan")
REBUILDING = ("decoder", "optimisation", "gan")
"""Those that rebuild the inputs, which have to be images."""


LIMITS = {
    "rate": "--max-attack",
    "balanced": "--max-balanced",
    "auc": "--max-auc",
    "tpr": "--max-tpr",
}
"""The option of the limit on each figure."""


@final
@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """One audit of a bundle."""

    data: str | None = None
    """Data set of victims and attacker, where it is not that of the bundle: faces:Smiling."""
    data_root: Path | None = None
    """Folder that holds the data sets; by default the environment variable EAVES_DATA."""
    private: str = ""
    """Attributes to be read, with commas between; by default those that the bundle hides."""
    attacks: str = "quick"
    """all, quick (labels,attribute,decoder,unmixing,rank), or some of: labels, attribute, decoder,
    unmixing (of datamix), rank (of all others), optimisation, gan."""
    known: int = 12_000
    """Examples of the attacker's own, with private labels: at most so many of the training set, and
    as many as there are of the validation set."""
    unseen: bool = False
    """Take none that the net was trained on: it may make other features of those than of victims.
    By default they are the last that are taken, where there are too few others."""
    releases: int = 1
    """How often each victim is sent, with fresh noise: the attacker takes the mean."""
    sent_batch: int | None = None
    """Examples in one payload, which a codec may give one range: by default the batch size of the
    training. 1 is a device that asks one by one, and takes long."""
    searched: int = 200
    """Victims whose images are searched for by optimisation and gan."""
    half_width: float | None = None
    """How far the interval of a rate may extend to each side, as in 0.02: too few victims for that
    are refused, and it is said how many are needed. By default any number will do."""
    max_attack: float | None = None
    """The limit for the best attacker's rate: above it, the exit code is 3."""
    max_balanced: float | None = None
    """The same for balanced accuracy, which a rare class counts in as much as a frequent one."""
    max_auc: float | None = None
    """The same for the area under the ROC curve, 0.5 by chance."""
    max_tpr: float | None = None
    """The same for the share of a class that is caught where 1 % of the others are, too."""
    effort: float = 1.0
    """Rounds of every attacker, times this; above 1 also the time that ends it."""
    patience: float = 1.0
    """The time that ends an attacker, times this. Any limit fails where time ended an attacker."""
    seeds: int | None = None
    """Seeds of each attacker that learns; the one that its held-out examples like best counts. By
    default 3 of those that are cheap."""
    seed: int = 0
    """Of noise, attackers' weights and order."""
    threads: int = 1
    """CPU threads."""
    net: str | None = None
    """FILE.py:NAME of the bundle's own net, where the bundle does not hold its code."""
    gallery: int = 6
    """Victims whose reconstructions are kept beside the figures, on this machine; 0: none."""
    out: Path | None = None
    """Folder for audit.json and the gallery; by default `audit` beside the bundle."""

    def __post_init__(self) -> None:
        take_paths(self)
        for name, low, high in (
            ("known", 100, 10**9),
            ("releases", 1, 10**4),
            ("searched", 2, 10**9),
            ("half_width", 1e-4, 0.49),
            ("effort", 1e-3, 1e3),
            ("patience", 1e-3, 1e3),
            ("seeds", 1, 100),
            ("sent_batch", 1, 10**6),
            ("seed", 0, 2**31 - 1),
            ("threads", 1, 1024),
            ("gallery", 0, 100),
        ):
            if getattr(self, name) is not None:
                expect_between(self, name, low, high)
        for metric, limit in self.limits.items():
            if not 0 < limit <= 1:
                raise ConfigError(f"expected {LIMITS[metric]} from 0 to 1, got {limit}")
        if not self.wanted:
            raise ConfigError(f"name an attack in --attacks: all, quick, {', '.join(ATTACKS)}")
        for name in self.wanted:
            if name not in ATTACKS:
                raise unknown("attack", name, ("all", "quick", *ATTACKS))

        if self.limits and not self.reads:
            raise ConfigError(
                f"{LIMITS[next(iter(self.limits))]} limits how well an attribute is read, and "
                "--attacks rank reads none; leave it out, or add attacks"
            )

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are stated, by what they are on: rate, balanced, auc, tpr."""
        stated = {
            "rate": self.max_attack,
            "balanced": self.max_balanced,
            "auc": self.max_auc,
            "tpr": self.max_tpr,
        }
        return {metric: limit for metric, limit in stated.items() if limit is not None}

    @property
    def named(self) -> tuple[str, ...]:
        """The attacks that were asked for one by one; what cannot be made of a set is left out."""
        return () if self.attacks in ("all", "quick") else self.wanted

    @property
    def wanted(self) -> tuple[str, ...]:
        """The attacks by name."""
        if self.attacks in ("all", "quick"):
            return ATTACKS if self.attacks == "all" else QUICK
        return tuple(name.strip() for name in self.attacks.split(",") if name.strip())

    @property
    def reads(self) -> bool:
        """Whether more is wanted than to know whose an input is, for which no label is needed."""
        return set(self.wanted) != {"rank"}

    @property
    def attributes(self) -> tuple[str, ...]:
        """The private attributes that are named."""
        return tuple(name.strip() for name in self.private.split(",") if name.strip())
