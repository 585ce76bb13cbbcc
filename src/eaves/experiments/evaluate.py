"""Accuracy of a trained method on data it has not seen, along the way of inference.

Dimension key:  B batch   K classes
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eaves.codecs.base import Codec
from eaves.core.independence import Dependence, InputsSeen, dependence
from eaves.core.rates import Rate
from eaves.core.roles import EdgePredictor
from eaves.core.shield import Open, Shield
from eaves.data.source import Source
from eaves.experiments.answering import Cloud, release
from eaves.methods.setup import Method

BATCH = 256
_ALONE = 32  # examples that are also sent one by one
_CHANGED = 2  # answers of these that may change: more than values on the border of two steps
_PATIENCE_S = 60.0


def evaluate(
    edge: EdgePredictor,
    cloud: Cloud | None,
    source: Source,
    codec: Codec,
    shield: Shield | None = None,
) -> dict[str, Rate | None]:
    """Return the accuracy of the cloud's and of the exit's answer; None where there is none.

    The features go past the shield and through the codec, as they do in use.

    Raises:
        CloudLate: the cloud has not answered for a minute.
    """
    right, shield = {"cloud": 0, "exit": 0}, shield or Open()
    answered = dict.fromkeys(right, 0)
    order = torch.arange(len(source))
    if not isinstance(shield, Open):  # it may mix what comes together, and sets come in order
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    for rows in torch.split(order, BATCH):
        batch = source.fetch(rows)
        features, early = edge.predict(batch.inputs)
        late = None
        if features is not None and cloud is not None:
            sent = release(features, codec, shield)
            late = sent.read(cloud.ask(sent.payload, timeout_s=_PATIENCE_S))
        for name, logits_BK in (("cloud", late), ("exit", early)):
            if logits_BK is not None:
                right[name] += int((logits_BK.argmax(dim=1).cpu() == batch.labels).sum())
                answered[name] += len(batch.labels)
    return {k: Rate.of(right[k], answered[k]) if answered[k] else None for k in right}


def changed_alone(
    edge: EdgePredictor, cloud: Cloud, source: Source, codec: Codec
) -> tuple[str, ...]:
    """Return a sentence where answers change once examples are sent one by one; else nothing.

    A codec that fits its range to a payload rounds an example otherwise in other company. For
    predictors without noise and without a shield.
    """
    batch = source.fetch(torch.arange(min(len(source), BATCH)))
    features, _ = edge.predict(batch.inputs)
    if features is None:
        return ()

    def asked(some: Tensor) -> Tensor:
        sent = release(some, codec, Open())
        return sent.read(cloud.ask(sent.payload, timeout_s=_PATIENCE_S))

    together, n = asked(features), min(len(features), _ALONE)
    alone = [asked(features[i : i + 1]) for i in range(n)]
    changed = int((torch.cat(alone).argmax(dim=1) != together[:n].argmax(dim=1)).sum())
    if changed <= _CHANGED:
        return ()
    return (
        f"{changed} of {n} examples get another answer when they are sent alone: the codec "
        f"{codec.name} fits its range to a payload, and the accuracy was measured in payloads of "
        f"{len(features)}; send as many together (eaves infer --batch-size), or take more bits",
    )


def parts_of(method: Method) -> dict[str, nn.Module]:
    """Return the parts of both halves by name."""
    halves = {"edge": method.edge_modules, "cloud": method.cloud_modules}
    return {
        name if name == side else f"{side}'s {name}": part
        for side, parts in halves.items()
        for name, part in parts.items()
    }


def dependences(parts: Mapping[str, nn.Module], seen: InputsSeen) -> dict[str, Dependence]:
    """Return which parts do not answer an example as they would alone, on what they were asked."""
    asked = {name: dependence(parts[name], x_B) for name, x_B in seen.of.items()}
    return {name: found for name, found in asked.items() if found is not None}


def on_batch(found: Mapping[str, Dependence]) -> list[str]:
    """Return sentences about the parts that answer an example by its batch, for a manifest."""
    return [f"the part '{name}': {x.why}" for name, x in found.items() if x.on_batch]


def dependence_text(name: str, found: Dependence) -> str:
    """Return a dependence as a sentence for people."""
    return (
        f"the part '{name}' of the net: {found.why}. So the accuracy, measured in batches of "
        f"{BATCH}, is not that of other batches, or of another time"
    )
