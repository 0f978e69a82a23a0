"""Ray around a backend or a reward model: start workers, call them, tell a lost worker from a failing one.

The only place in rollout/ that names ray. What to do about a loss is decided in fleet.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from align import cluster

Future = Any  # ray.ObjectRef


class ActorLostError(Exception):
    """The worker's process is gone, or never came up."""


class CallFailedError(Exception):
    """The worker is well and the code it ran raised; the exception is the cause."""


class Worker:
    """What runs in an actor's process: one object, made there, and calls to its methods."""

    def __init__(self) -> None:
        self.made: Any = None

    def make(self, make: Callable[[], Any]) -> str:
        """Make the object: a call of its own, so that what it raises is not taken for a lost process.

        Returns:
            Where this is, for messages: process and node.
        """
        import ray

        self.made = make()
        return f"process {os.getpid()} on {ray.util.get_node_ip_address()}"

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the object."""
        return getattr(self.made, method)(*args)

    def pid(self) -> int:
        """The process, for messages and for tests that kill it."""
        return os.getpid()


@dataclass(frozen=True, slots=True)
class Placement:
    """What each actor asks of the cluster."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@contextmanager
def session(address: str | None, cpus: int, object_store_mb: int, logs: str | None = None) -> Iterator[None]:
    """A connection to Ray; arguments and errors are those of :func:`align.cluster.connected`."""
    cluster.before_import()
    import ray

    with cluster.connected(ray, address, cpus, object_store_mb, logs):
        yield


def start(make: Callable[[], Any], placement: Placement) -> tuple[Any, Future]:
    """A new actor, and the call that makes its object; returns at once."""
    import ray

    remote = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus, max_restarts=0, max_task_retries=0)
    actor = remote(Worker).remote()
    return actor, actor.make.remote(make)


def submit(actor: Any, method: str, *args: Any) -> Future:
    """Call a method of the actor's object; calls of one actor run in the order submitted."""
    return actor.call.remote(method, *args)


def wait(futures: Sequence[Future], timeout: float) -> list[Future]:
    """Those that are done, waiting until one is, at most ``timeout`` seconds."""
    import ray

    ready, _ = ray.wait(list(futures), num_returns=1, timeout=max(0.0, timeout))
    if ready:  # whatever else is done by now
        ready, _ = ray.wait(list(futures), num_returns=len(futures), timeout=0)
    return list(ready)


def result(future: Future) -> Any:
    """The value of a call that is done.

    Raises:
        ActorLostError: its process is gone.
        CallFailedError: it raised.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(future)
    except RayTaskError as error:
        raise CallFailedError from (error.cause or error)
    except RayError as error:
        raise ActorLostError(_cause(error)) from error


def pid(actor: Any) -> int:
    """The actor's process id; waits until it is up."""
    import ray

    return int(ray.get(actor.pid.remote()))


def kill(actor: Any) -> None:
    """End an actor's process, whatever it does."""
    import ray

    ray.kill(actor, no_restart=True)


def share(value: Any) -> Future:
    """Put a value into the object store once, for every actor to read."""
    import ray

    return ray.put(value)


def room() -> str:
    """What the cluster has and what of it is free, for messages."""
    import ray

    return cluster.room(ray)


def _cause(error: Exception) -> str:
    """What happened in one sentence: Ray's messages are whole pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(" Some common causes")[0] if lines else type(error).__name__
