"""Who samples and who scores in a round: the samplers themselves, or scorers of their own; here or as actors."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from align.rollout import collect
from align.rollout.pool import PoolConfig
from tests.stages.rounds import Runner


class Opened:
    """Counts what is opened, and holds that a pool is closed before scorers of their own are opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.up = 0
        for name in ("open_pool", "open_scorers"):
            monkeypatch.setattr(collect, name, self.watched(name, getattr(collect, name)))

    def watched(self, name: str, real: Any) -> Any:
        @contextmanager
        def opening(folder: Path, config: PoolConfig, *rest: Any) -> Any:
            self.names.append(f"{name} {folder.name} {config.slots}")
            self.up += 1
            assert self.up == 1, "one at a time: the machine has room for one"
            try:
                with real(folder, config, *rest) as made:
                    yield made
            finally:
                self.up -= 1

        return opening


def test_the_samplers_score_where_nobody_else_is_named(go: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    grid = {"grid": [0.5, 0.9], "prompts": 2, "samples": 3}
    go("round", ["one/policy", "two/policy"], "first.jsonl", temperature=grid)
    # the probes' policy is the latest; the round then begins with the oldest, in the same pool
    assert opened.names == ["open_pool policy 64"]
    assert opened.up == 0


def test_scorers_of_their_own_take_the_samplers_place_and_find_the_same(
    go: Runner, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, _ = go("together", ["one/policy"], "first.jsonl")
    opened = Opened(monkeypatch)
    apart, _ = go("apart", ["one/policy"], "first.jsonl", scoring={"slots": 7})
    assert opened.names == ["open_pool policy 64", "open_scorers helpful 7", "open_scorers safety 7"]
    assert apart == together
    # nothing to sample: no policy is loaded
    opened.names.clear()
    judges = {"helpful": str(go.models / "safety"), "safety": str(go.models / "helpful")}
    swapped, _ = go("swapped", ["one/policy"], "first.jsonl", history=[str(home / "apart")], **judges)
    assert opened.names == ["open_scorers safety 64", "open_scorers helpful 64"]
    assert [row["scores"]["helpful"] for row in swapped] == pytest.approx(
        [row["scores"]["safety"] for row in together], abs=1e-6
    )


def test_one_model_as_both_reads_each_answer_once(go: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = go("round", ["one/policy"], "first.jsonl", safety=str(go.models / "helpful"))
    assert all(row["scores"]["helpful"] == row["scores"]["safety"] == row["scores"]["combined"] for row in rows)
    assert go.metrics("round")["rollouts"]["scored"] == {"helpful": len(rows), "safety": len(rows)}


@pytest.mark.slow
def test_actors_that_score_give_what_this_process_gives(go: Runner) -> None:
    here, _ = go("here", ["one/policy", "two/policy"], "first.jsonl")
    ray = {"kind": "ray", "actors": 2}
    there, _ = go("there", ["one/policy", "two/policy"], "first.jsonl", pool=ray)
    apart, _ = go("apart", ["one/policy", "two/policy"], "first.jsonl", pool=ray, scoring=ray | {"actors": 1})
    for other in (there, apart):
        assert [row["tokens"] for row in other] == [row["tokens"] for row in here]
        for name in ("helpful", "safety", "combined"):
            mine, theirs = ([row["scores"][name] for row in rows] for rows in (here, other))
            assert theirs == pytest.approx(mine, abs=1e-5)
