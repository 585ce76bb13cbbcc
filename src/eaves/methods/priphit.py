"""PriPHiT: adversarial early exits on the edge, and noise.

Source: Sepehri, Pad, Frossard, Dunbar, *PriPHiT: Privacy-Preserving Hierarchical Training of Deep
Neural Networks* (2024), arXiv:2408.05092. It states the parts (adversarial early exits, noise in
training, edge pre-training and then edge-cloud training); losses, noise and schedule are ours::

    x -> E -> bound -> + noise -> z~ --------------> cloud: C(z~) -> task
              |-> D  task exit        CE(D(z~), y)
              |-> S  adversaries      CE(S(z~), s)    s never leaves the edge

    stage 1, edge only:  k times  S <- CE(S(z~), s)
                         E, D    <- CE(D(z~), y) + weight * KL(uniform || S(z~))      S frozen
    stage 2, one way:    send z~ and y;  C <- CE(C(z~), y)

What does most of the work is a narrow, bounded cut that is trained under noise; the adversaries
then remove what is left. With no adversaries this is "noise only"; with ``reversal`` and without
noise, gradient reversal (ML-ARL); with ``entropy`` and without noise, MaxEnt-ARL.
"""

from eaves.core.net import output_shape
from eaves.methods.adversaries import adversaries_of
from eaves.methods.hiding import hiding_method
from eaves.methods.setup import Method, Setup, hiding_of


def priphit(setup: Setup) -> Method:
    """Build both halves of PriPHiT.

    Raises:
        ConfigError: no private attribute is named.
    """
    hiding, split = hiding_of(setup), setup.split()
    shape = output_shape(split.edge, setup.input_shape)
    return hiding_method(setup, split, adversaries_of(hiding, shape, setup.device))
