"""A job killed anywhere goes on: what is written whole is never sampled again, the rest is."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig
from align.rollout.journal import generate

SAMPLING = SamplingConfig(max_new_tokens=4)


class KilledError(Exception):
    """What ends the sampler."""


class Counting:
    """Answers in reverse, so that the order of answers is not that of requests, and dies after ``lives`` of them."""

    def __init__(self, lives: int = 1000) -> None:
        self.lives = lives
        self.asked: Counter[tuple[int, int]] = Counter()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        on_result: Callable[[Rollout], None] | None = None,
    ) -> list[Rollout]:
        done = []
        for request in reversed(requests):
            if len(done) == self.lives:
                raise KilledError
            self.asked[request.prompt, request.sample] += 1
            done.append(answer(request))
            if on_result:
                on_result(done[-1])
        return done[::-1]


def answer(request: Request) -> Rollout:
    """What anyone would answer: a function of the address alone, with logprobs that need all their digits."""
    tokens = (request.prompt, request.sample, request.seed)
    logprobs = tuple(-((token + 1) ** 0.5) / 3 for token in tokens)
    return Rollout(request.prompt, request.sample, tokens, logprobs, "length", f"weights {request.step}")


def requests(prompts: int, samples: int) -> list[Request]:
    return [Request(p, (1, p), sample=s, seed=5, step=7) for p in range(prompts) for s in range(samples)]


def test_answers_come_back_in_the_order_of_the_requests_and_to_the_last_digit(tmp_path: Path) -> None:
    asked = requests(3, 2)[::-1]
    expected = [answer(request) for request in asked]
    assert generate(Counting(), asked, SAMPLING, tmp_path / "j") == expected
    second = Counting()
    assert generate(second, asked, SAMPLING, tmp_path / "j") == expected, "read back"
    assert not second.asked


def test_new_requests_are_sampled_beside_those_written(tmp_path: Path) -> None:
    generate(Counting(), requests(2, 1), SAMPLING, tmp_path / "j")
    more = Counting()
    found = generate(more, requests(3, 2), SAMPLING, tmp_path / "j")
    assert found == [answer(request) for request in requests(3, 2)]
    assert more.asked == Counter({(0, 1): 1, (1, 1): 1, (2, 0): 1, (2, 1): 1})


def test_what_came_before_an_error_is_kept(tmp_path: Path) -> None:
    first, second = Counting(lives=4), Counting()
    with pytest.raises(KilledError):
        generate(first, requests(3, 2), SAMPLING, tmp_path / "j")
    assert generate(second, requests(3, 2), SAMPLING, tmp_path / "j") == [answer(r) for r in requests(3, 2)]
    assert first.asked + second.asked == Counter(dict.fromkeys(((p, s) for p in range(3) for s in range(2)), 1))


@pytest.mark.parametrize("left", [1, 10, -1])
def test_a_torn_last_line_is_cut_and_sampled_again(tmp_path: Path, left: int) -> None:
    """Also where only the newline is missing: nothing says that such a line is whole."""
    path = tmp_path / "j"
    generate(Counting(), requests(3, 1), SAMPLING, path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:left])
    again = Counting()
    assert generate(again, requests(3, 1), SAMPLING, path) == [answer(request) for request in requests(3, 1)]
    assert again.asked == Counter({(0, 0): 1}), "answered last, written last"
    assert path.read_bytes() == whole


def test_nothing_asked_writes_nothing(tmp_path: Path) -> None:
    assert generate(Counting(), [], SAMPLING, tmp_path / "j") == []
    assert not (tmp_path / "j").exists()


@given(
    prompts=st.integers(1, 5),
    samples=st.integers(1, 3),
    kills=st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1)), max_size=5),
)
def test_killed_anywhere_any_number_of_times(prompts: int, samples: int, kills: list[tuple[int, float]]) -> None:
    """Each kill lets through some answers and then loses some part of what the file got in that life."""
    asked = requests(prompts, samples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        for lives, part in kills:
            written = set(lines(path))
            sampler = Counting(lives)
            with contextlib.suppress(KilledError):
                generate(sampler, asked, SAMPLING, path)
            assert not written & set(sampler.asked), "sampled twice"
            raw, kept = path.read_bytes() if path.exists() else b"", len(written)
            safe = sum(len(line) for line in raw.splitlines(keepends=True)[:kept])
            if path.exists():
                path.write_bytes(raw[: safe + round(part * (len(raw) - safe))])
        written = set(lines(path))
        last = Counting()
        assert generate(last, asked, SAMPLING, path) == [answer(request) for request in asked]
        assert set(last.asked) == {(r.prompt, r.sample) for r in asked} - written
        assert set(last.asked.values()) <= {1}
        assert Counter(lines(path)) == Counter({(r.prompt, r.sample): 1 for r in asked})


def lines(path: Path) -> list[tuple[int, int]]:
    """The addresses on whole lines, read by eye: ``[[prompt, sample, …``."""
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    addresses = [line.removeprefix("[[").split(", ")[:2] for line in whole]
    return [(int(prompt), int(sample)) for prompt, sample in addresses]
