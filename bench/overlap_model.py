"""What an update takes on two ranks, if nothing but computing and the wire took time: what acco.py's figure shows beside
the measured points.

Units are one micro-batch's compute. An update has k micro-batches a rank; c is the time on the wire of a reduce-scatter and
an all-gather of the whole vector, which an all-reduce takes as well. Backward is 2/3 of a micro-batch, and its gradients
become final evenly while it runs. Bytes are those of docs/methods/; that c10d's reduce-scatter over Gloo
sends twice what it needs is measured in docs/benchmarks/collectives.md.
"""

import math

BACKWARD, FORWARD = 2 / 3, 1 / 3


def lockstep(k, c):
    """zero1, and DDP with one bucket: everything travels after the last backward."""
    return k + c


def bucketed_ddp(k, c):
    """All-reduce beside the last micro-batch's backward."""
    return k - BACKWARD + max(BACKWARD, c)


def overlapped_zero1(k, c):
    """Reduce-scatter beside the last micro-batch's backward, all-gather beside the next update's first forward."""
    return k - 1 + max(BACKWARD, c / 2) + max(FORWARD, c / 2)


def zero_redundancy_optimizer(k, c):
    """All-reduce, then one rank's parameters after the other's: c each."""
    return k + 2 * c


def torch_zero1(k, c):
    """A reduce-scatter that is an all-reduce, and an all-gather."""
    return k + 1.5 * c


def fixed_acco(k, c):
    """Two rounds, each as long as its half of the micro-batches or its exchange."""
    return 2 * max(k / 2, c)


def dynamic_acco(k, c):
    """Rounds are as long as they have to be, and computing never stops."""
    return max(k, 2 * c)


def delayed(k, c):
    """dpu: one round."""
    return max(k, c)


def dynamic_update(c):
    """Micro-batches a rank that dynamic ACCO commits: in each of two rounds as many as an exchange takes, headers of some
    4 % included, rounded up."""
    return 2 * max(1, math.ceil(1.04 * c))
