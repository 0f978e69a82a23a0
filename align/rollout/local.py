"""The in-repo sampling engine: continuous batching over a fixed pool of slots, one prefill for a prompt's samples.

A request waits; its prompt is prefilled once for all samples; it takes a free slot, is decoded one token a step
with all others, and its slot is refilled in the step after its last token. The decode step is tensors only; Python
looks at answers when one comes, goes or has filled a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from align.model.llama import Llama
from align.model.strict import DTYPES
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig, check_requests, room
from align.rollout.dense import Dense
from align.rollout.paged import Paged
from align.rollout.slots import LEAST, Slots, Waiting, round_up
from align.rollout.sync import fill

if TYPE_CHECKING:
    from align.rollout.backend import OnResult, Weights

PREFILL_TOKENS = 8192  # of one prefill, padding included: bounds its activations


class LocalEngine:
    """A policy held open between calls, each of which reads the weights as they then are."""

    def __init__(
        self,
        model: Llama,
        eos: int | Sequence[int],
        slots: int = 64,
        max_len: int | None = None,
        version: str = "0",
    ) -> None:
        """Hold a policy.

        Args:
            model: the policy; its own device and dtype are used.
            eos: token, or tokens, that end an answer and belong to it.
            slots: answers under way at once.
            max_len: tokens of context, prompt and answer together; the model's own by default and at most.
            version: of the weights, written into rollouts.
        """
        self.model = model
        self.stops = (eos,) if isinstance(eos, int) else tuple(eos)
        self.slots = slots
        self.max_len = min(max_len or model.config.max_seq_len, model.config.max_seq_len)
        self.version = version

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_result: OnResult | None = None
    ) -> list[Rollout]:
        """Answer every request; see :class:`align.rollout.backend.Backend`."""
        check_requests(requests, self.max_len)
        if not requests:
            return []
        rollouts: dict[int, Rollout] = {}
        waiting = Waiting(requests)
        slots = min(self.slots, len(requests))
        columns = round_up(slots, LEAST)
        device = next(self.model.parameters()).device
        decoder = (Paged if device.type == "cpu" else Dense)(
            self.model,
            columns=columns,
            rows=min(waiting.prompts, slots + max(4, slots // 4)),
            prompt=max(len(request.tokens) for request in requests),
            answer=max(room(request, sampling, self.max_len) for request in requests),
        )
        table = Slots(decoder, self.stops, sampling, slots=slots, columns=columns, max_len=self.max_len, device=device)
        while waiting or table.running:
            while waiting and table.free:
                if not waiting.ready:
                    waiting.stage(decoder, PREFILL_TOKENS)
                table.admit(waiting.take(len(table.free)), requests)
            for index, tokens, logprobs, stopped in table.step(last=not waiting):
                request = requests[index]
                finish: Literal["stop", "length"] = "stop" if stopped else "length"
                rollouts[index] = Rollout(request.prompt, request.sample, tokens, logprobs, finish, self.version)
                if on_result:
                    on_result(rollouts[index])
        return [rollouts[index] for index in range(len(requests))]

    def load_weights(self, weights: Weights, version: str | None = None) -> None:
        """Answer with other weights from now on; see :class:`align.rollout.backend.Backend`.

        A folder's policy replaces the model; named tensors are copied into it.

        Raises:
            WeightsError: a tensor is missing, left over or of another shape.
        """
        if isinstance(weights, Path):
            from align.model.weights import load_policy

            parameter = next(self.model.parameters())
            dtype = next(name for name, value in DTYPES.items() if value == parameter.dtype)
            model = load_policy(weights, dtype, str(parameter.device))
            if model.config != self.model.config:
                self.max_len = min(self.max_len, model.config.max_seq_len)
            self.model = model
            self.version = version or weights.name
            return
        fill(self.model, weights, f"weights of version {version}")
        self.version = version or self.version
