"""Models and data of a few kilobytes, for stages that are run whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import write_jsonl
from align.data.tokenizer import train_tokenizer
from align.model.config import LlamaConfig
from align.model.saving import save_policy, save_scorer
from align.records import Request
from align.rollout import journal
from tests.data.corpus import WORDS, corpus
from tests.fakes import tiny_llama, tiny_scorer
from tests.stages.ppo_server import Server
from tests.stages.rounds import Runner

SMALL = LlamaConfig(vocab_size=400, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=32, max_seq_len=256)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies in folders of one name, and two reward models, all random."""
    root = tmp_path_factory.mktemp("models")
    train_tokenizer(corpus(), SMALL.vocab_size, root / "tokenizer.model")
    for seed, folder in enumerate(("one/policy", "two/policy", "helpful", "safety")):
        if folder.endswith("policy"):
            save_policy(tiny_llama(seed, SMALL), SMALL, root / folder)
        else:
            save_scorer(tiny_scorer(seed, SMALL), SMALL, root / folder)
        shutil.copy(root / "tokenizer.model", root / folder / "tokenizer.model")
    question = {"prompt": [{"role": "user", "content": "who loves chess?"}]}
    write_jsonl(root / "prompts.jsonl", [question | {"id": f"p{i}", "kind": ("helpful", "safety")[i]} for i in (0, 1)])
    turns = [{"role": r, "content": c} for r, c in (("user", "hello"), ("assistant", "yes"), ("user", "who says"))]
    begin = [{"role": "system", "content": "a fox"}]
    write_jsonl(root / "dialogues.jsonl", [{"id": f"d{i}", "prompt": begin + turns} for i in range(6)])
    return root


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Starts PPO runs for a test to kill."""
    made = Server()
    yield made
    made.close()


@pytest.fixture
def home(models: Path, tmp_path: Path) -> Path:
    """Nine prompts, every third about safety, in files of different order."""
    rows = [
        {
            "id": f"p{i}", "prompt": [{"role": "user", "content": f"who says {WORDS[i]}?"}],
            "kind": "safety" if i % 3 == 0 else "helpful", "source": f"of/{i % 2}", "meta": {"number": i},
        }
        for i in range(9)
    ]  # fmt: skip
    write_jsonl(tmp_path / "first.jsonl", rows[:5])
    write_jsonl(tmp_path / "second.jsonl", [rows[6], rows[4], rows[3], rows[7]])
    return tmp_path


@pytest.fixture
def go(models: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    asked: list[tuple[str, Request]] = []
    real = journal.generate

    def generate(sampler: Any, requests: Sequence[Request], sampling: Any, path: Path) -> Any:
        asked.extend((path.name, request) for request in requests)
        return real(sampler, requests, sampling, path)

    monkeypatch.setattr(journal, "generate", generate)
    return Runner(models, home, asked)
