"""Jobs for a test to kill: one process imports everything once and forks a child for each job it is asked for.

``python -m tests.forked MODULE`` calls ``MODULE.ready()``, which imports what a job needs and starts no thread: none
would survive the fork. Then it reads lines of JSON, runs ``MODULE.job(*line)`` in a child, prints the child's process
id, and when that has ended its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from typing import Any

from tests.conftest import REPO


class Forks:
    """The other process, from the test's side."""

    def __init__(self, module: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", module],
            cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *arguments: Any) -> int:
        """Start a job of plain values; the child's process id."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def ended(self) -> int:
        """Wait for the child: 0 where it came to its end, -9 where it was killed."""
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def main(name: str) -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    module = importlib.import_module(name)
    module.ready()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 0
            try:
                module.job(*json.loads(line))
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
