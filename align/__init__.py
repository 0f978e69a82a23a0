"""From a LLaMA-2 base model to a chat model, the Llama-2-Chat way."""

import os

__version__ = "0.1.0"

# Before torch loads OpenMP: its threads spin while they wait, and where another process wants a core (an actor, a
# second rank, a neighbour) two spinning threads ran many times slower than one. Sleeping at once costs a lone process
# a fifth of its training speed, a spin of some microseconds nothing that was seen in either case.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
