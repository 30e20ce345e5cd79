"""The engine "traced": a critic's whole penalty, with all its gradients, as one graph without derivatives.

values.py       values as parts of a key; which functions and classes read nothing but their arguments
code.py         what a critic's own code depends on besides its attributes
fingerprint.py  a critic's state as a key: what must be the same for a graph to be valid
watch.py        while a critic is traced, no code may run that was not looked at
snapshot.py     what tracing must leave as it was
trace.py        the graph, from torch's autograd over fake tensors
prune.py        zeros propagated, dead code removed
engine.py       which graph runs when; the autograd Function around it; the comparison with eager
"""

from gankern.penalty.traced.engine import attempt, warn

__all__ = ["attempt", "warn"]
