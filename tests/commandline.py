"""The `align` command, in a process of its own or in the tests', and a policy and a recipe to use it on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from align.artifacts import building, publish, write_jsonl

BIN = Path(sys.executable).parent / "align"


def align(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(BIN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=120)


def here(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command in this process: no interpreter and no torch to start. What nobody foresaw is raised."""
    from align.cli import app

    typed = [*map(str, arguments)]
    done = CliRunner().invoke(app, typed, input=stdin, prog_name="align", catch_exceptions=False)
    return subprocess.CompletedProcess(typed, done.exit_code, done.stdout, done.stderr)


def refused(*arguments: str | Path, code: int = 2) -> str:
    """The single line on stderr of a command that must fail."""
    return _one_line(here(*arguments), code)


def refused_as_typed(*arguments: str | Path, code: int = 2) -> str:
    """``refused`` of the real command: whatever writes to stderr in its process, it is the single line."""
    return _one_line(align(*arguments), code)


def _one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").rstrip("\n")


SFT = """stage: sft
policy: POLICY
data: [{path: DATA}]
batch: {rows: 8, micro_rows: 4, length: 64}
optim: {lr: 1.0e-3, betas: [0.9, 0.95], eps: 1.0e-5, weight_decay: 0.1, clip: 1.0, schedule: cosine}
zero: {stage: 0, dtype: fp32}
"""
WORDS = ["hello good day how are you", "I am well", "what is the time", "it is noon"]
TURN = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Good day."}]


def make_policy(folder: Path) -> Path:
    """A tiny random policy, published as an artifact."""
    from align.data.tokenizer import train_tokenizer
    from align.model.config import LlamaConfig
    from align.model.llama import Llama, init_weights
    from align.model.weights import save_policy

    sizes = LlamaConfig(vocab_size=320, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=24, max_seq_len=96)
    model = Llama(sizes)
    init_weights(model, 0)
    with building(folder) as partial:
        save_policy(model, sizes, partial)
        train_tokenizer(WORDS * 20, 320, partial / "tokenizer.model")
        publish(
            partial, folder, stage="pretrain", name="policy", recipe={"hf_token": "hush", "lr": 0.5}, seed=5,
            metrics={"loss": 1.25},
        )  # fmt: skip
    return folder


def make_reward_model(folder: Path) -> Path:
    """A tiny random reward model, published as an artifact."""
    from align.data.tokenizer import train_tokenizer
    from align.model.config import LlamaConfig
    from align.model.heads import Scorer
    from align.model.weights import save_scorer
    from tests.model.peers import randomise

    sizes = LlamaConfig(vocab_size=320, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=24, max_seq_len=96)
    scorer = Scorer(sizes)
    randomise(scorer)
    with building(folder) as partial:
        save_scorer(scorer, sizes, partial)
        train_tokenizer(WORDS * 20, 320, partial / "tokenizer.model")
        publish(partial, folder, stage="reward", name="rm", recipe={}, seed=0, metrics={})
    return folder


def make_recipe(folder: Path, policy: Path) -> Path:
    """An SFT recipe of that policy and three rows."""
    data = folder / "sft.jsonl"
    write_jsonl(data, [{"messages": TURN}] * 3)
    path = folder / "sft.yaml"
    path.write_text(SFT.replace("POLICY", str(policy)).replace("DATA", str(data)))
    return path
