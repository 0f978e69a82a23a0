"""Models and data of a few kilobytes, for stages that are run whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from align.artifacts import write_jsonl
from align.data.tokenizer import train_tokenizer
from align.model.config import LlamaConfig
from align.model.saving import save_policy, save_scorer
from tests.data.corpus import corpus
from tests.fakes import tiny_llama, tiny_scorer

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
