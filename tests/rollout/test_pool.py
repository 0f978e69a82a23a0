"""Pools over Ray: the same answers whatever happens to the actors, and plain words where it cannot go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from align.config import parse, to_plain
from align.engine.launch import LaunchConfig
from align.errors import ArtifactError, DataError, RecipeError, RolloutError, WeightsError
from align.model.weights import save_policy, save_scorer
from align.records import Request, Rollout
from align.rollout import actors
from align.rollout.backend import SamplingConfig
from align.rollout.fleet import Fleet
from align.rollout.pool import Pool, PoolConfig, deal, end_of_answer, open_pool, open_scorers
from align.rollout.sync import hand_over
from tests.fakes import TINY, FakeBackend, UnluckyBackend, tiny_llama, tiny_scorer, unmakeable
from tests.rollout.test_local import prompts, requests, words

SAMPLING = SamplingConfig(max_new_tokens=12)
WORK = [Request(i, (1, i), k, 5, 6) for i in range(10) for k in range(2)]
RIGHT = FakeBackend().generate(WORK, SAMPLING)
RAY = PoolConfig(kind="ray", actors=2, chunk=8, timeout_s=120)


@contextmanager
def fleet(
    make: Callable[[], Any], size: int = 2, timeout: float = 120, retries: int = 2, in_flight: int = 2
) -> Iterator[Fleet]:
    made = Fleet(
        make,
        size=size,
        placement=actors.Placement(1, 0),
        timeout=timeout,
        start_timeout=120,
        retries=retries,
        in_flight=in_flight,
    )
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "chat"
    save_policy(tiny_llama(), TINY, folder)
    return folder


@pytest.mark.usefixtures("ray_session")
def test_actors_answer_as_the_engine_does_in_order_and_take_weights(policy: Path, tmp_path: Path) -> None:
    work = requests(prompts(14), samples=4)
    with open_pool(policy, PoolConfig(slots=16)) as alone:
        expected = alone.generate(work, SAMPLING)
        alone.load_weights(dict(tiny_llama(seed=1).named_parameters()), "1")
        later = alone.generate(work, SAMPLING)
    told: list[Rollout] = []
    with open_pool(policy, RAY) as pool:
        found = pool.generate(work, SAMPLING, told.append)
        assert words(found) == words(expected)
        assert sorted(words(told)) == sorted(words(expected))
        assert {r.version for r in found} == {"chat"}
        for a, b in zip(found, expected, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=2e-5)

        cost = hand_over(tiny_llama(seed=1).named_parameters(), pool, "1")
        assert cost.size == 4 * TINY.parameters()
        found = pool.generate(work, SAMPLING)
        assert words(found) == words(later) != words(expected)
        assert {r.version for r in found} == {"1"}

        with pytest.raises(DataError, match="prompt 3: found 96 tokens"):
            pool.generate([Request(3, (1,) * 96)], SAMPLING)
        with pytest.raises(WeightsError, match="nonsense"):
            pool.load_weights({"nonsense": tiny_llama().lm_head.weight})
        assert isinstance(pool.crew, Fleet)
        os.kill(actors.pid(pool.crew.members[0].actor), signal.SIGKILL)
        assert words(pool.generate(work, SAMPLING)) == words(later)  # its successor has the pushed weights too
        assert pool.crew.replaced >= 1


@pytest.mark.usefixtures("ray_session")
def test_scorers_score_as_one_does(policy: Path, tmp_path: Path) -> None:
    save_scorer(tiny_scorer(), TINY, tmp_path)
    rows = prompts(30, seed=2)
    with open_scorers(tmp_path, PoolConfig()) as alone:
        expected = alone.score(rows)
    with open_pool(policy, RAY, scorers={"helpful": tmp_path}) as pool:  # by the samplers themselves
        assert pool.score("helpful", rows) == pytest.approx(expected, abs=1e-5)
        assert len(pool.generate(requests(rows[:3]), SAMPLING)) == 3


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("what", "timeout"), [("kill", 120.0), ("hang", 3.0)])
def test_actors_lost_twice_change_nothing(what: str, timeout: float, tmp_path: Path) -> None:
    told: list[Rollout] = []
    with fleet(partial(UnluckyBackend, what, 7, tmp_path, times=2), timeout=timeout) as unlucky:
        unlucky.prepare("load_weights", tmp_path, "v3")
        found = Pool(unlucky, chunk=3).generate(WORK, SAMPLING, told.append)
        assert unlucky.replaced == 2
    assert [r.tokens for r in found] == [r.tokens for r in RIGHT]
    assert {r.version for r in found} == {"v3"}
    assert len(told) == len(WORK)


@pytest.mark.usefixtures("ray_session")
def test_too_many_losses_tell_where_and_why() -> None:
    # in flight 1: a dying actor may take the answer to the call before with it, and that call is then named
    with (
        fleet(partial(UnluckyBackend, "kill", 4), retries=1, in_flight=1) as doomed,
        pytest.raises(RolloutError, match=r"was lost: .*at generate\(prompts 4 to 5\); 2 actors"),
    ):
        Pool(doomed, chunk=4).generate(WORK, SAMPLING)
    with (
        fleet(partial(UnluckyBackend, "hang", 4), retries=0, timeout=3) as doomed,
        pytest.raises(RolloutError, match=r"did not answer within 3 s, at generate\(prompts 4 to 5\)"),
    ):
        Pool(doomed, chunk=4).generate(WORK, SAMPLING)


@pytest.mark.usefixtures("ray_session")
def test_work_goes_on_without_an_actor_for_which_there_is_no_place(capfd: pytest.CaptureFixture[str]) -> None:
    """Of the session's 4 CPUs an actor takes 3: as after a node's death, there is room for one of two."""
    crowded = Fleet(
        partial(UnluckyBackend, "sleep", -1), size=1, placement=actors.Placement(3, 0), timeout=120, start_timeout=120,
        retries=0, in_flight=1,
    )  # fmt: skip
    try:
        slow = [(chunk, SAMPLING) for chunk in deal(WORK, 4)]
        found: dict[int, list[Rollout]] = {}
        crowded.run("generate", slow, found.__setitem__)  # the first is up, however long that took
        crowded.size, crowded.start_timeout = 2, 3
        for _ in range(2):  # the second run tries again to fill the place
            began = time.monotonic()
            found.clear()
            crowded.run("generate", slow, found.__setitem__)
            while len(crowded.members) == 2 and time.monotonic() < began + 20:
                crowded.run("generate", slow, found.__setitem__)
            assert len(crowded.members) == 1
        assert [r for number in range(len(slow)) for r in found[number]] == RIGHT
    finally:
        crowded.close()
    said = capfd.readouterr().err
    # 1 CPU is free, or none while Ray still takes back what an actor of the test before held
    told = (
        r"not up yet\) did not answer within 3 s \(it asks for 3 CPUs and 0 GPUs; free in the cluster: [01] of 4 CPUs"
    )
    assert re.search(told, said), said
    assert "1 actors go on" in said
    with pytest.raises(RolloutError, match=r"asks for 5 CPUs .* at starting; 1 actors were lost so"):
        nowhere()


def nowhere() -> None:
    lonely = Fleet(
        FakeBackend, size=1, placement=actors.Placement(5, 0), timeout=9, start_timeout=2, retries=0, in_flight=1
    )
    try:
        lonely.prepare("load_weights", Path("v1"))
    finally:
        lonely.close()


@pytest.mark.usefixtures("ray_session")
def test_the_first_error_is_surfaced_finished_work_is_kept_and_the_pool_goes_on() -> None:
    told: list[Rollout] = []
    with fleet(partial(UnluckyBackend, "raise", 9), size=1) as failing:
        with pytest.raises(RolloutError, match=r"generate\(prompts 8 to 9\): ArithmeticError: the fake was told"):
            Pool(failing, chunk=4).generate(WORK, SAMPLING, told.append)
        assert {r.prompt for r in told} == set(range(8))
        assert Pool(failing, chunk=4).generate(WORK[:4], SAMPLING) == RIGHT[:4]
    with (
        fleet(unmakeable) as failing,
        pytest.raises(RolloutError, match="starting: FileNotFoundError: no such weights"),
    ):
        Pool(failing, chunk=4).generate(WORK, SAMPLING)


def test_work_is_dealt_whole_and_evenly() -> None:
    assert [list(part) for part in deal(range(18), chunk=4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
        [16, 17],
    ]
    assert [len(part) for part in deal(range(10), chunk=256)] == [3, 3, 3, 1]
    assert deal([], chunk=4) == []


def test_the_end_of_an_answer_is_read_from_the_folder(policy: Path, tmp_path: Path) -> None:
    assert end_of_answer(policy) == 2
    (tmp_path / "config.json").write_text('{"eos_token_id": [2, 32000]}')
    assert end_of_answer(tmp_path) == [2, 32000]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="eos_token_id: found None"):
        end_of_answer(tmp_path)


def test_settings_are_checked_and_free_of_heavy_packages() -> None:
    assert parse(PoolConfig, to_plain(PoolConfig()), "pool") == PoolConfig()
    with pytest.raises(RecipeError, match=r"slotz: unknown key.*slots"):
        parse(PoolConfig, {"slotz": 4}, "pool")
    with pytest.raises(RecipeError, match="top_p"):
        parse(SamplingConfig, {"max_new_tokens": 4, "top_p": 0.0}, "sampling")
    code = "import sys, align.rollout.pool, align.rollout.backend; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_pool_closes_the_ray_it_started_and_is_quiet(policy: Path) -> None:
    code = f"""
from pathlib import Path
import ray
from align.records import Request
from align.rollout.backend import SamplingConfig
from align.rollout.pool import PoolConfig, open_pool
with open_pool(Path({str(policy)!r}), PoolConfig(kind="ray", actors=1)) as pool:
    found = pool.generate([Request(0, (1, 7, 8))], SamplingConfig(max_new_tokens=4))
    assert ray.is_initialized()
assert not ray.is_initialized()
print(len(found))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_the_page_on_ray_shows_settings_that_are_read_and_a_cluster_that_ray_takes() -> None:
    import ray

    docs = Path(__file__).parents[2] / "docs"
    shown = re.findall(r"```yaml\n(.*?)```", (docs / "ray.md").read_text(), re.DOTALL)
    read = {"pool": PoolConfig, "launch": LaunchConfig}
    kinds = [
        (section, parse(read[section], values, "docs/ray.md").kind)
        for text in shown
        for section, values in yaml.safe_load(text).items()
    ]
    assert sorted(kinds) == [("launch", "ray")] + 3 * [("pool", "ray")]
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((docs / "ray-cluster.yaml").read_text()), schema)
