"""What is true of each training method: the one table of methods, METHODS. Imports no torch.

Whoever has to know whether a method sends features, or whether a gradient comes back, asks its
:class:`MethodSpec`. How a method learns stands in the module that ``builder`` names.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, final

from eaves.errors import unknown

Sends = Literal["features", "inputs", "nothing"]
"""What leaves the edge for the cloud."""
Once = Literal["never", "possible", "usual"]
"""Whether each example can travel a single time, and whether it does where nothing is said."""


@final
@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """The facts of one method."""

    name: str
    builder: str
    """``module:function``: what builds both halves from a :class:`eaves.methods.setup.Setup`."""
    sends: Sends = "features"
    once: Once = "never"
    waits: bool = False
    """The edge waits for a gradient after each upload."""
    protects: bool = False
    """Privacy-preserving: private attributes have to be named, features are bounded and noised."""
    mixes: bool = False
    """What leaves in inference are mixtures of a group's features: the table ``[mixing]``."""
    tunes: bool = False
    """Features are tuned on pairs and projected: the table ``[siamese]``."""
    whole_net: "MappingProxyType[str, str] | None" = None
    """Prefixes of weights in a bundle, and what they are called in the whole net: normalisation has
    ``0.``, stages have ``1.``. None: a bundle of this method does not hold the whole net."""
    not_exported: str = ""
    """Why no device without torch can run its edge half; empty: one can."""
    look: tuple[str, str] = ("#000000", "X")
    """Colour and marker in figures: Okabe and Ito's, which people who are colour-blind can tell."""

    @property
    def cuts(self) -> bool:
        """Whether the net is divided at a cut."""
        return self.sends == "features"

    @property
    def in_one_place(self) -> bool:
        """Whether training sends nothing, so no task labels either."""
        return self.mixes or self.tunes

    @property
    def networked(self) -> bool:
        """Whether edge and cloud can train it on two machines."""
        return self.sends != "nothing" and not self.in_one_place


_HALVES: Final = MappingProxyType({"edge.": "", "cloud.": "1."})

_ALL: Final = (
    MethodSpec(
        name="hierarchical",
        builder="hierarchical:hierarchical",
        once="possible",
        whole_net=_HALVES,
        look=("#D55E00", "v"),
    ),
    MethodSpec(
        name="full-cloud",
        builder="baselines:full_cloud",
        sends="inputs",
        once="possible",
        whole_net=MappingProxyType({"cloud.": ""}),
        not_exported="sends its inputs as they are: there is nothing to run on the device",
    ),
    MethodSpec(
        name="full-edge",
        builder="baselines:full_edge",
        sends="nothing",
        whole_net=MappingProxyType({"edge.": ""}),
        not_exported="answers on the edge alone: there are no features to send",
    ),
    MethodSpec(
        name="split",
        builder="baselines:split_learning",
        waits=True,
        whole_net=_HALVES,
        look=("#56B4E9", "P"),
    ),
    MethodSpec(
        name="priphit",
        builder="priphit:priphit",
        once="usual",
        protects=True,
        look=("#0072B2", "o"),
    ),
    MethodSpec(
        name="nopeek",
        builder="nopeek:nopeek",
        once="usual",
        protects=True,
        look=("#E69F00", "s"),
    ),
    MethodSpec(
        name="disco",
        builder="disco:disco",
        once="usual",
        protects=True,
        look=("#009E73", "^"),
    ),
    MethodSpec(
        name="deepobfuscator",
        builder="deepobfuscator:deepobfuscator",
        once="usual",
        protects=True,
        look=("#CC79A7", "D"),
    ),
    MethodSpec(
        name="datamix",
        builder="datamix:datamix",
        mixes=True,
        not_exported="mixes the features of a group with secret coefficients, which no model can "
        "hold; answer with `eaves infer`",
    ),
    MethodSpec(
        name="siamese",
        builder="siamese:siamese",
        tunes=True,
        whole_net=MappingProxyType({"edge.0.": "", "cloud.1.": "1.", "cloud.0.": "1."}),
        look=("#F0E442", "*"),
    ),
)
METHODS: Final = MappingProxyType({spec.name: spec for spec in _ALL})
"""All methods, by the name that a user types."""
PROTECTING: Final = tuple(spec.name for spec in _ALL if spec.protects)
"""The privacy-preserving methods, which need private attributes to be named."""
DEFAULT: Final = _ALL[0].name
BASELINE: Final = _ALL[1].name
"""What accuracy and time of the others are compared with: all data travel to the cloud."""


def method_named(name: str) -> MethodSpec:
    """Return the facts of a method.

    Raises:
        ConfigError: there is none of this name.

    >>> method_named("split").waits
    True
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
