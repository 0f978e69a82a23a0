"""One iteration of TRL's last PPO, ``trl.experimental.ppo`` of the release named here, installed aside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from measure import tokenizer_of
from ppo_cases import END, PAD, Case, prompts_of
from ppo_ours import BETA, CLIP, GAMMA, LAM, OPTIM, VALUE_CLIP, VALUE_WEIGHT

RELEASE = "1.12.0"
ASIDE = Path(__file__).resolve().parents[1] / "build" / f"trl-{RELEASE}"


def install() -> None:
    """Put the release where nobody else finds it. What it needs (transformers, accelerate, datasets) is there already
    in versions that it takes; the environment is left as it is."""
    if (ASIDE / "trl").is_dir():
        return
    print(f"installing trl {RELEASE} into {ASIDE}", flush=True)
    ASIDE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ASIDE.parent) as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--no-deps", "--target", f"{folder}/trl", f"trl=={RELEASE}"])
        if done.returncode:
            raise SystemExit(f"bench_ppo.py: trl {RELEASE} could not be installed: exit code {done.returncode}")
        shutil.move(f"{folder}/trl", ASIDE)


def iterate(case: Case, folder: Path, dtype: str, setting: dict[str, Any]) -> dict[str, Any]:
    """An iteration from loaded models to new weights.

    Args:
        case: sizes.
        folder: of the models.
        dtype: fp32, or bf16: weights in bf16.
        setting: ``rollout``, answers a forward pass without gradients, ``micro``, with them, and ``attention``.
    """
    os.environ |= {"TQDM_DISABLE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    warnings.filterwarnings("ignore", category=FutureWarning)  # names that transformers is about to change
    sys.path.insert(0, str(ASIDE))
    import datasets
    import transformers
    import trl
    from trl.experimental import ppo
    from trl.experimental.ppo import ppo_trainer

    assert trl.__version__ == RELEASE, (trl.__version__, trl.__file__)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()

    def load(kind: Any, name: str) -> Any:
        weights = torch.bfloat16 if dtype == "bf16" else torch.float32
        return kind.from_pretrained(folder / name, dtype=weights, attn_implementation=setting["attention"])

    scorer, lm = transformers.AutoModelForSequenceClassification, transformers.AutoModelForCausalLM
    rows = [list(prompt) for prompt in prompts_of(case) for _ in range(case.samples)]
    # twice as many rows as are used: at a dataset's end accelerate steps the optimizer after every forward pass
    data = datasets.Dataset.from_dict({"input_ids": rows + rows})
    with tempfile.TemporaryDirectory() as out:
        args = ppo.PPOConfig(
            output_dir=out, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_steps=1, num_sample_generations=0, seed=0, optim="adamw_torch_fused",
            learning_rate=OPTIM["lr"], lr_scheduler_type="constant", adam_beta1=OPTIM["betas"][0],
            adam_beta2=OPTIM["betas"][1], adam_epsilon=OPTIM["eps"], weight_decay=OPTIM["weight_decay"],
            per_device_train_batch_size=setting["micro"], gradient_accumulation_steps=case.answers // setting["micro"],
            num_mini_batches=case.steps, num_ppo_epochs=1, total_episodes=case.answers,
            local_rollout_forward_batch_size=setting["rollout"], response_length=case.new, stop_token="eos",
            temperature=1.0, kl_coef=BETA, cliprange=CLIP, cliprange_value=VALUE_CLIP, vf_coef=VALUE_WEIGHT,
            gamma=GAMMA, lam=LAM,
        )  # fmt: skip
        trainer = ppo.PPOTrainer(
            args, tokenizer_of(case.config.vocab_size, padding_side="left"), load(lm, "policy"), load(lm, "policy"),
            load(scorer, "reward"), data, load(scorer, "critic"),
        )  # fmt: skip
        # it would step once a batch, whatever num_mini_batches says
        trainer.accelerator.gradient_accumulation_steps = case.mini_batch // setting["micro"]
        trainer.dataloader = in_order(data, case.answers, trainer)
        return watched(trainer, ppo_trainer)


def in_order(data: Any, batch: int, trainer: Any) -> Any:
    """The rows as they stand, so that an iteration answers every prompt."""
    loader = torch.utils.data.DataLoader(data, batch_size=batch, collate_fn=trainer.data_collator)
    return trainer.accelerator.prepare(loader)


def watched(trainer: Any, module: Any) -> dict[str, Any]:
    """Train, and tell what was done: nothing is changed, only looked at."""
    seen: dict[str, Any] = {"tokens": 0, "answers": 0, "steps": 0}
    times: dict[str, float] = {}
    generate = module.batch_generation

    def counted(model: Any, queries: Any, *rest: Any) -> Any:
        found = generate(model, queries, *rest)
        times["generated"] = time.perf_counter()
        answers = found[0][:, queries.shape[1] :]
        ended = answers == END
        seen["tokens"] += int(torch.where(ended.any(1), ended.int().argmax(1) + 1, (answers != PAD).sum(1)).sum())
        seen["answers"] += len(answers)
        return found

    def began_update(*_: Any) -> None:
        times.setdefault("update", time.perf_counter())

    def stepped(*_: Any) -> None:
        seen["steps"] += 1

    module.batch_generation = counted
    trainer.model.register_forward_pre_hook(began_update)
    trainer.optimizer.optimizer.register_step_post_hook(stepped)
    began, spent = time.perf_counter(), time.process_time()
    trainer.train()
    ended, spent = time.perf_counter(), time.process_time() - spent
    log = next(entry for entry in trainer.state.log_history if "objective/scores" in entry)
    return seen | {
        "seconds": ended - began,
        "cpu_seconds": spent,
        "phases": {
            "sample": times["generated"] - began,
            "score, reference, value": times["update"] - times["generated"],
            "update": ended - times["update"],
        },
        "score": log["objective/scores"],
        "kl": log["objective/kl"],
        "value_loss": log["loss/value_avg"],
    }  # fmt: skip
