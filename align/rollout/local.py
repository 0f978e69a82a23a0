"""The in-repo sampling engine: continuous batching over a fixed pool of slots, one prefill for all samples of a prompt.

A request waits, is prefilled into a staging row of the cache (all samples of a prompt once), then copied to a slot,
decoded one token a step with all other slots, and its slot is refilled in the step after its last token. The decode
step is tensors only; Python looks at rows when one is done or admitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from align.model.llama import KVCache, Llama
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig, check_requests, room
from align.rollout.slots import Slots, Waiting
from align.rollout.sync import fill

if TYPE_CHECKING:
    from align.rollout.backend import OnResult, Weights

PREFILL_TOKENS = 8192  # of one prefill, padding included: bounds its activations
ROUND = 64  # the cache's length is a multiple of this, so that similar calls share one


class LocalEngine:
    """A policy, its cache and its slots, held open between calls. Reads the model's weights as they are at each call."""

    def __init__(
        self, model: Llama, eos: int | Sequence[int], slots: int = 64, max_len: int | None = None, version: str = "0"
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
        self._cache: KVCache | None = None

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_result: OnResult | None = None
    ) -> list[Rollout]:
        """Answer every request; see :class:`align.rollout.backend.Backend`."""
        check_requests(requests, self.max_len)
        rollouts: dict[int, Rollout] = {}
        waiting = Waiting(requests)
        slots = min(self.slots, len(requests))
        staging = min(waiting.prompts, max(4, slots // 4))
        longest = max((len(r.tokens) + room(r, sampling, self.max_len) for r in requests), default=0)
        cache = self._room_for(slots + staging, longest)
        table = Slots(self.model, cache, self.stops, sampling, slots, self.max_len)
        staged = range(slots, slots + staging)
        while waiting or table.running:
            while waiting and table.free:
                if not waiting.ready:
                    self._prefill(waiting, cache, staged)
                table.admit(waiting.take(len(table.free)), requests)
            for index, tokens, logprobs, stopped in table.step(last=not waiting):
                request = requests[index]
                finish = "stop" if stopped else "length"
                rollouts[index] = Rollout(
                    request.prompt, request.sample, tokens, logprobs, finish, self.version  # type: ignore[arg-type]
                )
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
            model = load_policy(weights, dtype={torch.float32: "fp32", torch.bfloat16: "bf16"}[parameter.dtype])
            if model.config != self.model.config:
                self._cache = None
                self.max_len = min(self.max_len, model.config.max_seq_len)
            self.model = model.to(parameter.device)
            self.version = version or weights.name
            return
        fill(self.model, weights, f"weights of version {version}")
        self.version = version or self.version

    def _prefill(self, waiting: Waiting, cache: KVCache, rows: range) -> None:
        """Fill staging rows with the next prompts, all but each one's last token, which the first decode step reads."""
        prompts = waiting.stage(rows, PREFILL_TOKENS)
        width = len(prompts[0]) - 1
        if width:
            device = cache.k.device
            tokens = torch.tensor([[*p[:-1], *[0] * (width + 1 - len(p))] for p in prompts], device=device)
            cache.rows = torch.arange(rows.start, rows.start + len(prompts), device=device)
            # padding on the right writes keys that the row's own tokens overwrite before anything attends to them
            self.model.model(tokens, cache=cache)
            cache.rows = None

    def _room_for(self, rows: int, length: int) -> KVCache:
        """The cache, made anew only where it is too small."""
        held = self._cache
        if held is None or held.k.shape[1] < rows or held.slots < length:
            self._cache = held = None
            parameter = next(self.model.parameters())
            dtype = torch.float32 if parameter.device.type == "cpu" else parameter.dtype  # CPU: see KVCache
            context = min(-(-length // ROUND) * ROUND, self.model.config.max_seq_len)
            self._cache = held = KVCache(self.model.config, rows, context, dtype, parameter.device)
        return held
