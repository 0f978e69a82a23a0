"""PPO whose answers a pool samples: by version, in step with the trainer or one step ahead."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import work_dir
from align.config import parse
from align.engine.metrics import read_metrics
from align.records import Request
from align.rollout import pool as pools
from align.stages import ppo
from align.stages.ppo import Recipe, learn
from tests.stages.ppo_server import Server, chance, same_but_for_times
from tests.stages.test_ppo_resume import compare, plain, run

AHEAD: dict[str, Any] = {"pool": {"kind": "ray", "actors": 2}, "ahead": True}


def start(models: Path, home: Path, name: str, **changes: Any) -> Path:
    out = home / name / "ppo"
    work_dir(out).mkdir(parents=True, exist_ok=True)
    ppo.run(parse(Recipe, plain(models, home, **changes), "ppo.yaml"), out)
    return out


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A pool in this process instead of Ray's; what it is asked, and when an update begins, in order."""
    told: list[tuple[str, Any]] = []
    real, improve = pools.open_pool, learn.improve

    @contextmanager
    def opened(policy: Path, config: Any, *rest: Any) -> Iterator[Any]:
        with real(policy, dataclasses.replace(config, kind="local"), *rest) as made:
            load, generate = made.load_weights, made.generate

            def load_and_tell(weights: Any, version: str) -> None:
                told.append(("weights", version))
                load(weights, version)

            def generate_and_tell(requests: Sequence[Request], *rest: Any) -> Any:
                told.append(("answers", requests[0].step))
                return generate(requests, *rest)

            made.load_weights, made.generate = load_and_tell, generate_and_tell
            yield made

    def improve_and_tell(recipe: Any, models: Any, iteration: int, *rest: Any) -> Any:
        told.append(("update", iteration))
        return improve(recipe, models, iteration, *rest)

    monkeypatch.setattr(pools, "open_pool", opened)
    monkeypatch.setattr(learn, "improve", improve_and_tell)
    return told


def test_in_step_a_pool_answers_with_the_newest_weights(
    models: Path, tmp_path: Path, events: list[tuple[str, Any]]
) -> None:
    inside = start(models, tmp_path, "inside", held_out=None)
    pooled = start(models, tmp_path, "pooled", held_out=None, pool={"kind": "local"})
    asked = events[5:]  # the first run updates five times and has no pool
    assert asked == [
        event
        for i in range(5)
        for event in (("weights", f"step {i}"), ("answers", i), ("update", i))
    ]  # fmt: skip
    for one, other in zip(*(read_metrics(out / "metrics.jsonl") for out in (inside, pooled)), strict=True):
        assert other == pytest.approx(one, abs=1e-4)


def test_one_step_ahead_the_answers_are_one_version_old(
    models: Path, tmp_path: Path, events: list[tuple[str, Any]]
) -> None:
    out = start(models, tmp_path, "ahead", held_out=None, **AHEAD, ppo={"critic_warmup": 0})
    order = {event: place for place, event in enumerate(events)}
    assert [event for event in events if event[0] == "update"] == [("update", i) for i in range(5)]
    for i in range(1, 5):
        handed = order["weights", f"before iteration {i}"]
        assert handed < order["answers", i]
        assert handed < order["update", i - 1], "by the policy before that update"
        assert i == 1 or handed > order["update", i - 2], "and after the one before it"
    gaps = [row["gap"] for row in read_metrics(out / "metrics.jsonl")]
    assert gaps[0] < 1e-4
    assert min(gaps[1:]) > 10 * gaps[0], "the ratio is to the log-probs of the policy that answered"


@pytest.mark.slow
def test_one_step_ahead_resumes_with_the_answers_that_were_under_way(
    models: Path, tmp_path: Path, events: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = start(models, tmp_path, "straight", **AHEAD)
    improve = learn.improve
    broken = iter([False] * 3 + [True] + [False] * 99)

    def interrupted(*args: Any) -> Any:
        if next(broken):
            raise KeyboardInterrupt
        return improve(*args)

    monkeypatch.setattr(learn, "improve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(models, tmp_path, "disturbed", **AHEAD)
    disturbed = start(models, tmp_path, "disturbed", **AHEAD)
    assert same_but_for_times(straight, disturbed) == []
    assert events


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [False, True])
def test_killed_with_a_ray_pool_it_ends_in_the_same_bytes(
    server: Server,
    models: Path,
    tmp_path: Path,
    ahead: bool,
) -> None:
    recipe = plain(models, tmp_path, **(AHEAD | {"ahead": ahead}))
    seed, random = chance()
    kills = [(phase, random.randint(3, 4), random.random() / 20) for phase in ("rollout", "update")]
    assert run(server, recipe, tmp_path / "straight" / "ppo", []) == 0
    assert run(server, recipe, tmp_path / "disturbed" / "ppo", kills) >= 1, seed
    compare(tmp_path, seed)
    shutil.rmtree(tmp_path / "straight")
