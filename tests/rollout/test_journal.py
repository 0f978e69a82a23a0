"""A job killed anywhere goes on: what is written whole is never sampled again, the rest is."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import ArtifactError
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig
from align.rollout.journal import generate
from align.rollout.pool import Pool
from align.rollout.station import Here
from tests.fakes import FakeBackend

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


class Company(FakeBackend):
    """Answers whose last bits depend on what is asked beside them, as a forward pass's do; dies after ``lives``."""

    def __init__(self, lives: int = 1000) -> None:
        super().__init__()
        self.lives = lives
        self.asked: Counter[tuple[int, int]] = Counter()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        on_result: Callable[[Rollout], None] | None = None,
    ) -> list[Rollout]:
        if self.lives == 0:
            raise KilledError
        self.lives -= 1
        self.asked.update((r.prompt, r.sample) for r in requests)
        bits = sum(0.1**request.prompt for request in requests)
        return [Rollout(r.prompt, r.sample, (r.prompt,), (-bits,), "stop", "0") for r in requests]


@given(count=st.integers(1, 40), chunk=st.integers(1, 12), lives=st.lists(st.integers(0, 5), max_size=3), cut=st.data())
def test_a_pool_killed_anywhere_answers_in_the_same_company(
    count: int, chunk: int, lives: list[int], cut: st.DataObject
) -> None:
    """Chunks are finished or sampled again whole, whichever are left: every bit is that of an undisturbed job."""
    asked = requests(count, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        expected = generate(Pool(Here(Company()), chunk), asked, SAMPLING, path.with_name("undisturbed"))
        whole: Counter[tuple[int, int]] = Counter()
        for life in lives:
            with contextlib.suppress(KilledError):
                generate(Pool(Here(Company(life)), chunk), asked, SAMPLING, path)
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            if lines:  # the kill tore the last line, or an order of other actors finished other chunks
                lines = cut.draw(st.permutations(lines))
                path.write_bytes(b"".join(lines[:-1]) + lines[-1][: cut.draw(st.integers(0, len(lines[-1]) - 1))])
                whole = Counter((p, s) for line in lines[:-1] for p, s, *_ in json.loads(line))
        last = Company()
        assert generate(Pool(Here(last), chunk), asked, SAMPLING, path) == expected
        assert last.asked + whole == Counter({(r.prompt, r.sample): 1 for r in asked}), "each sampled once"


def test_a_line_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j"
    generate(Counting(), requests(2, 1), SAMPLING, path)
    path.write_bytes(path.read_bytes() + b'{"prompt": 3}\n')
    with pytest.raises(ArtifactError, match="j:3: no line of a journal"):
        generate(Counting(), requests(4, 1), SAMPLING, path)
