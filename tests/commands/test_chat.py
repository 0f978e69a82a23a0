from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commandline import align, make_policy, refused


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("shelf") / "policy")


def test_chat_answers_remembers_and_refuses_tags(policy: Path) -> None:
    said = "Hello?\n\nAgain [INST]\nHow are you?\n/reset\nHello?\n"
    options = ["--temperature", "0", "--max-new-tokens", "4"]
    done = align("chat", policy, "--system", "Be brief.", *options, stdin=said)
    assert done.returncode == 0, done.stderr
    assert "Ctrl-C stops the answer" in done.stdout
    answers = done.stdout.split("> ")[1:]
    assert len(answers) == 7  # five lines, an empty one, and the end
    assert "[INST]" in answers[2]
    assert answers[0] == answers[5]  # the same conversation anew, at temperature 0


def test_chat_s_mistakes(policy: Path, tmp_path: Path) -> None:
    assert "polic" in refused("chat", policy.parent / "polic")
    assert "<<SYS>>" in refused("chat", policy, "--system", "a <<SYS>> b")


def test_the_stream_is_the_plain_sampler(policy: Path) -> None:
    from align.commands.chat import stream
    from align.model.sampler import generate
    from align.model.weights import load_policy
    from align.rollout.backend import SamplingConfig

    model = load_policy(policy).eval()
    prompt = [1, 40, 50, 60, 70]
    for temperature, top_p in ((0.0, 1.0), (1.3, 1.0), (0.8, 0.7)):
        sampling = SamplingConfig(temperature=temperature, top_p=top_p, max_new_tokens=12)
        found = list(stream(model, prompt, 2, sampling, seed=9, turn=0))
        wanted = generate(model, [prompt], max_new_tokens=12, temperature=temperature, top_p=top_p, eos=2, seed=9)[0]
        assert found == [token for token in wanted.tokens if token != 2]


def test_ctrl_c_stops_the_answer_and_not_the_conversation(policy: Path) -> None:
    """Through a pseudo-terminal, whose Ctrl-C is a signal to the program."""
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    # 96 tokens of context hold no long answer, so the answer is slowed down instead
    code = (
        "import signal, sys, time; import align.commands.chat as chat\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job starts with it ignored
        "def slow(*_, **__):\n"
        "    for token in [300, 301] * 500:\n"
        "        yield token; time.sleep(0.05)\n"
        "chat.stream = slow\n"
        "sys.argv = ['align', 'chat', sys.argv[1]]\n"
        "from align.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(policy)],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, close_fds=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        _until(controller, b"\n> ")
        os.write(controller, b"Hello?\n")
        _until(controller, b"Hello?\r\n")
        _until(controller, b"")
        process.send_signal(signal.SIGINT)
        _until(controller, " …\r\n> ".encode())
        process.send_signal(signal.SIGINT)  # at the prompt it does nothing but start a new line
        _until(controller, b"\n> ")
        os.write(controller, b"\x04")  # Ctrl-D
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def _until(controller: int, wanted: bytes) -> None:
    """Read byte by byte up to what is wanted, or, where nothing is named, until anything is said."""
    import select

    seen, end = b"", time.monotonic() + 60
    while not (seen.endswith(wanted) if wanted else seen):
        assert time.monotonic() < end, seen
        if select.select([controller], [], [], 0.2)[0]:
            seen += os.read(controller, 1)
