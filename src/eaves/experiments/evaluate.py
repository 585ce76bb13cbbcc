"""Accuracy of a trained method on data it has not seen, along the way of inference.

Dimension key:  B batch   K classes
"""

import torch

from eaves.codecs.base import Codec
from eaves.core.rates import Rate
from eaves.core.roles import EdgePredictor
from eaves.core.shield import Open, Shield
from eaves.data.source import Source
from eaves.experiments.answering import Cloud

BATCH = 256
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
            queries, reveal = shield.protect(features)
            late = reveal(cloud.ask(codec.encode(queries), timeout_s=_PATIENCE_S))
        for name, logits_BK in (("cloud", late), ("exit", early)):
            if logits_BK is not None:
                right[name] += int((logits_BK.argmax(dim=1).cpu() == batch.labels).sum())
                answered[name] += len(batch.labels)
    return {k: Rate.of(right[k], answered[k]) if answered[k] else None for k in right}
