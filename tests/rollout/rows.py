"""Rows of the rollout schema, made by hand."""

from __future__ import annotations

from typing import Any

SHA = {"sft": "a" * 64, "v1": "b" * 64, "v2": "c" * 64, "v3": "d" * 64}


def row(prompt: str, score: float, answer: str = "yes", finish: str = "stop", policy: str = "sft") -> dict[str, Any]:
    return {
        "prompt_id": prompt, "prompt": [{"role": "user", "content": prompt}], "answer": answer, "finish": finish,
        "policy": policy, "policy_sha256": SHA[policy], "temperature": 0.9, "sample": 0,
        "scores": {"helpful": 0.0, "safety": 0.0, "combined": score},
    }  # fmt: skip
