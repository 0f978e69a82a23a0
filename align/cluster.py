"""A connection to Ray, for who trains and for who samples.

Ray itself is handed in by the two files that may name it.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from align.errors import LaunchError

CONNECT = 10.0  # seconds that a running cluster may take to accept a connection


# Read by Ray as it is imported, or later; who knows better sets them in the environment.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # on a death Ray prints a page of its own; ours is a line, and says what follows
}


def before_import() -> None:
    """To be called before ``import ray``."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def connected(
    library: Any, address: str | None, cpus: int, object_store_mb: int, logs: str | None = None
) -> Iterator[None]:
    """A connection to Ray: one that is open is used and left open, otherwise one is made and closed.

    Args:
        library: the module ray.
        address: of a running cluster; None starts one on this machine that ends with the block.
        cpus: that a cluster started here counts.
        object_store_mb: shared memory of a cluster started here, MB.
        logs: folder of Ray's own files; its default is in the system's temporary folder.

    Raises:
        LaunchError: the cluster does not answer or cannot be started.
    """
    opened = library.is_initialized()
    address = address or (None if opened else os.environ.get("RAY_ADDRESS"))
    _knock(address)  # also where Ray is open: an address that nobody answers at is a mistake all the same
    if opened:
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if address:
                library.init(address=address, **quiet)
            else:
                library.init(
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=object_store_mb * 1_000_000,
                    _temp_dir=logs,
                    **quiet,
                )
    except Exception as error:  # Ray says so by exceptions of many classes, plain Exception among them
        raise LaunchError(f"Ray at {address or 'this machine'}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        library.shutdown()


def room(library: Any) -> str:
    """What the cluster has and what of it is free, for messages."""
    every, free = library.cluster_resources(), library.available_resources()
    counted = [f"{free.get(name, 0):g} of {every.get(name, 0):g} {name}s" for name in ("CPU", "GPU")]
    return f"free in the cluster: {' and '.join(counted)}"


def _knock(address: str | None) -> None:
    """Refuse ``host:port`` where nobody listens: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT).close()
        except OSError as error:
            raise LaunchError(f"Ray at {address}: {error}; start it with `ray start --head` or mend address") from error
