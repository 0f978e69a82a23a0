"""What is written within arrives as whole lines, from whomever."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict

import pytest

from align.engine.relay import forwarded


def test_all_lines_arrive_whole_and_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    parts: dict[str, list[str]] = defaultdict(list)
    before = sys.stdout, sys.stderr
    with forwarded(lambda stream, text: parts[stream].append(text)):
        print("from Python", file=sys.stderr)
        os.write(2, b"from C, in ")
        os.write(2, b"two parts \xff\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        print("x" * 200_000)
        print("no newline", end="", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    print("afterwards", file=sys.stderr)
    assert all(part.endswith("\n") for stream in parts.values() for part in stream)
    assert "".join(parts["stderr"]) == "from Python\nfrom C, in two parts \\xff\nno newline\n"
    assert "".join(parts["stdout"]) == "from a child\n" + "x" * 200_000 + "\n"
    assert capfd.readouterr() == ("", "afterwards\n")
