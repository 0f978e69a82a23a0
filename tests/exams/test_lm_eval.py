"""EleutherAI's lm-evaluation-harness reads an artifact as it is, and its log-likelihoods are ours.

It is not among the dependencies: ``pip install --target FOLDER lm-eval`` puts it beside them, ALIGN_LM_EVAL is FOLDER.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from align.artifacts import building, publish, write_jsonl
from align.data.tokenizer import Tokenizer
from align.exams.question import Question, encode, user
from align.model.meta import load_llama2c
from align.model.saving import save_policy
from align.model.weights import load_policy
from align.rollout.choices import continuation_logprobs

ASIDE = os.environ.get("ALIGN_LM_EVAL", "")
needs = pytest.mark.skipif(
    not ASIDE and find_spec("lm_eval") is None,
    reason="lm_eval is not installed; pip install --target FOLDER lm-eval, and ALIGN_LM_EVAL=FOLDER",
)
CHOICES = (
    ("Once upon a time, there was a little", ("girl named Lily.", "integral over x.")),
    ("Q: Who flew away?\nA:", ("The bird did.", "Nine of 7,000", "a")),
    ("She was very happy and", ("went home", "the of")),
)
TASK = """
task: local_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{rows}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


def artifact(shared_data: Path, out: Path) -> Path:
    source = shared_data / "llama_stories260K"
    model = load_llama2c(source / "stories260K.bin")
    with building(out) as folder:
        save_policy(model, model.config, folder)
        shutil.copy(source / "tok512.model", folder / "tokenizer.model")
        publish(folder, out, stage="sft", name=out.name, recipe={}, seed=0)
    return out


@needs
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_lm_eval_runs_on_an_artifact_and_agrees(shared_data: Path, tmp_path: Path) -> None:
    policy = artifact(shared_data, tmp_path / "policy")
    rows = [{"question": asked, "options": list(options), "answer": 0} for asked, options in CHOICES]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    start = f"import sys; sys.path.append({ASIDE!r}); from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    done = subprocess.run(
        [
            sys.executable, "-c", start, "run", "--model", "hf", "--model_args",
            f"pretrained={policy},dtype=float32,add_bos_token=True", "--tasks", "local_choices", "--include_path",
            str(tmp_path / "tasks"), "--device", "cpu", "--batch_size", "1", "--log_samples", "--output_path",
            str(tmp_path / "out"),
        ],
        env={
            **os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        },
        cwd=tmp_path, capture_output=True, text=True, timeout=1100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["local_choices"]["acc,none"] >= 0
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    theirs = {row["doc_id"]: row for row in map(json.loads, samples.read_text().splitlines())}
    tokenizer, model = Tokenizer(policy / "tokenizer.model"), load_policy(policy)
    for number, (asked, options) in enumerate(CHOICES):
        question = Question(id="q", where="f:1", messages=(user("q"),), plain=asked, options=options)
        one = encode(tokenizer, question, "plain")
        (ours,) = continuation_logprobs(model, [(one.context, one.options)])
        found = [float(answer[0][0]) for answer in theirs[number]["resps"]]
        assert ours == pytest.approx(found, abs=1e-2)
