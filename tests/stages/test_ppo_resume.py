"""A PPO run that is killed with SIGKILL in any phase goes on to the same bytes: weights, optimizer, log, rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest, write_jsonl
from align.config import to_plain
from align.data.schema import read_rollouts
from tests.data.corpus import WORDS
from tests.stages import ppo_toy as toy
from tests.stages.ppo_server import Server, chance, same_but_for_times

PHASES = ["sync", "rollout", "score", "reference", "value", "update", "held_out", "save"]


def plain(models: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """A run in which everything that is remembered between iterations matters."""
    rows = [
        {"id": f"p{i}", "prompt": [{"role": "user", "content": f"who says {WORDS[i]}?"}], "kind": "helpful"}
        for i in range(6)
    ]
    write_jsonl(folder / "prompts.jsonl", rows[:4])
    write_jsonl(folder / "held-out.jsonl", rows[4:])
    folders = {"policy": models / "one" / "policy", "helpful": models / "helpful", "safety": models / "safety"}
    settings: dict[str, Any] = {
        "prompts": str(folder / "prompts.jsonl"),
        "ppo": {
            "iterations": 5, "prompts": 3, "samples": 2, "mini_batch": 4, "epochs": 2, "critic_warmup": 1,
            "adaptive_kl": {"target": 1.0, "horizon": 50.0},
        },
        "held_out": {"prompts": str(folder / "held-out.jsonl"), "every": 1},
        "save_every": 2, "keep_rollouts": 1, "keep_policies": 3, "sampling": {"max_new_tokens": 12},
    }  # fmt: skip
    return to_plain(toy.recipe(folders, **toy.laid_over(settings, changes)))


def run(server: Server, recipe: dict[str, Any], out: Path, kills: list[tuple[str, int, float]]) -> int:
    """Start a run again and again, killed at each of the given moments; how many of them it lived to see."""
    out.parent.mkdir(exist_ok=True)
    killed = [server.run(recipe, out, *kill) for kill in kills]
    assert set(killed) <= {-9, 0}
    if 0 not in killed:
        assert server.run(recipe, out) == 0
    return killed.count(-9)


def compare(tmp_path: Path, seed: Any, iterations: int = 5) -> None:
    names = ("ppo", "ppo-checkpoint")
    for name in names:
        straight, disturbed = tmp_path / "straight" / name, tmp_path / "disturbed" / name
        assert same_but_for_times(straight, disturbed) == [], (name, seed)
    made = read_manifest(tmp_path / "disturbed" / "ppo", verify=True)
    kept = "policies/3/model.safetensors"
    assert set(made.files) >= {"model.safetensors", "metrics.jsonl", "last/model.safetensors", kept}
    assert sum(name.startswith("rollouts/") for name in made.files) == iterations
    rows = list(read_rollouts(tmp_path / "disturbed" / "ppo" / "rollouts" / f"iteration-{iterations - 1:08d}.jsonl"))
    assert [row["sample"] for row in rows] == [0, 1] * 3
    assert made.metrics == read_manifest(tmp_path / "straight" / "ppo").metrics


def test_killed_twice_it_ends_in_the_same_bytes(server: Server, models: Path, tmp_path: Path) -> None:
    recipe, (seed, random) = plain(models, tmp_path, ppo={"iterations": 3, "epochs": 1}, save_every=1), chance()
    kills = [
        (random.choice(PHASES[:-1]), random.randint(2, 3), random.random() / 50),
        ("save", random.randint(1, 2), 0),
    ]
    assert run(server, recipe, tmp_path / "straight" / "ppo", []) == 0
    assert run(server, recipe, tmp_path / "disturbed" / "ppo", kills) == 2, seed
    compare(tmp_path, seed, iterations=3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_killed_in_every_phase_it_ends_in_the_same_bytes(
    server: Server, models: Path, tmp_path: Path, stage: int
) -> None:
    recipe = plain(models, tmp_path, zero={"stage": stage})
    seed, random = chance()
    kills = [(phase, random.randint(1, 2), random.random() / 50) for phase in [*PHASES, *PHASES]]
    random.shuffle(kills)
    kills += [("publish", 1, random.random() / 20)]
    assert run(server, recipe, tmp_path / "straight" / "ppo", []) == 0
    assert run(server, recipe, tmp_path / "disturbed" / "ppo", kills) >= 10, seed
    compare(tmp_path, seed)
