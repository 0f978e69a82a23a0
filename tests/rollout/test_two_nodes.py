"""A rollout job submitted to a cluster of two nodes, one of which dies on the way: it ends with the same data."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.rollout import job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def node(environment: dict[str, str], log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node of one CPU, in the foreground; all its processes are killed in the end."""
    agent, client, grpc, runtime = free_ports(4)
    command = [
        RAY, "start", "--block", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
        f"--runtime-env-agent-port={runtime}", *options,
    ]  # fmt: skip
    if "--head" in options:
        command.append(f"--ray-client-server-port={client}")
    with (
        log.open("wb") as said,
        subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True) as started,
    ):
        try:
            yield started
        finally:
            kill_all(started)


def kill_all(started: subprocess.Popen[bytes]) -> list[int]:
    """SIGKILL a node's processes, as when the machine goes."""
    pids = [started.pid, *job.descendants(started.pid)] if started.poll() is None else []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def test_a_submitted_job_outlives_one_of_two_nodes(tmp_path: Path) -> None:
    job.make_models(tmp_path)
    port, dashboard = free_ports(2)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    with ExitStack() as nodes:
        temporary = tempfile.mkdtemp(prefix="align")  # short: the names of Ray's sockets are bounded
        nodes.callback(shutil.rmtree, temporary, ignore_errors=True)
        head = nodes.enter_context(
            node(environment, tmp_path / "head.log", "--head", f"--port={port}", f"--dashboard-port={dashboard}",
                 f"--temp-dir={temporary}")
        )  # fmt: skip
        job.until(lambda: b"This command will now block" in (tmp_path / "head.log").read_bytes(), 90)
        other = nodes.enter_context(node(environment, tmp_path / "other.log", f"--address=127.0.0.1:{port}"))
        job.until(lambda: b"This command will now block" in (tmp_path / "other.log").read_bytes(), 90)

        def submit(out: Path) -> subprocess.Popen[str]:
            """``ray job submit`` of ``align run``, its output followed; returns at once."""
            recipe = out.with_suffix(".yaml")
            # few slots: slow enough for both nodes to be at work in the middle, though one comes up late
            pool = {"address": "auto", "slots": 6, "start_timeout_s": 60.0}
            recipe.write_text(json.dumps(job.recipe(tmp_path, out, **pool)))
            return subprocess.Popen(
                [RAY, "job", "submit", f"--address=http://127.0.0.1:{dashboard}", "--log-color=false", "--",
                 sys.executable, "-m", "align.cli", "run", str(recipe)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

        with submit(tmp_path / "undisturbed") as submitted:
            told = submitted.communicate(timeout=300)[0]
        assert submitted.returncode == 0, told
        expected = job.dataset(tmp_path / "undisturbed")
        assert len(expected["rollouts.jsonl"].splitlines()) == 2 * job.PROMPTS * job.SAMPLES

        out = tmp_path / "reject"
        with submit(out) as submitted:
            job.until(lambda: len(job.journalled(out)) >= job.CHUNKS // 2, 200)
            on_other = job.until(lambda: job.actors_below(other.pid), 60)
            assert job.actors_below(head.pid), "one actor on each node"
            kill_all(other)
            told = submitted.communicate(timeout=400)[0]
        assert submitted.returncode == 0, told
        assert any(f"process {pid} on" in told for pid in on_other), told
        assert "was lost" in told
        assert job.dataset(out) == expected
