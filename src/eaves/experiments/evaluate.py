"""Accuracy of a trained method on data it has not seen, along the way of inference.

Dimension key:  B batch   K classes
"""

from eaves.codecs.base import Codec
from eaves.core.rates import Rate
from eaves.data.batches import batches
from eaves.data.source import Source
from eaves.methods.setup import Method

_BATCH = 256


def evaluate(method: Method, source: Source, codec: Codec) -> dict[str, Rate | None]:
    """Return the accuracy of the cloud's and of the exit's answer; None where there is none.

    The features go through the codec as they do in training.
    """
    right = {"cloud": 0, "exit": 0}
    answered = dict.fromkeys(right, 0)
    for batch in batches(source, batch_size=_BATCH, seed=0, epoch=0, shuffle=False):
        features, early = method.edge_predictor.predict(batch.inputs)
        late = None
        if features is not None and method.cloud_predictor is not None:
            late = method.cloud_predictor.answer(codec.decode(codec.encode(features)))
        for name, logits_BK in (("cloud", late), ("exit", early)):
            if logits_BK is not None:
                right[name] += int((logits_BK.argmax(dim=1).cpu() == batch.labels).sum())
                answered[name] += len(batch.labels)
    return {k: Rate.of(right[k], answered[k]) if answered[k] else None for k in right}
