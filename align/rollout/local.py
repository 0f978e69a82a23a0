"""The in-repo sampling engine: continuous batching over a fixed pool of slots, one prefill for a prompt's samples.

A request waits; its prompt is prefilled into a staging row of the cache, once for all samples; the row is copied
to a free slot; the slot is decoded one token a step with all others and refilled in the step after its last
token. The decode step is tensors only; Python looks at rows when one is done or admitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from align.model.llama import KVCache, Llama
from align.model.strict import DTYPES
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig, check_requests, room
from align.rollout.slots import Slots, Waiting, least_rows, round_up
from align.rollout.sync import fill

if TYPE_CHECKING:
    from align.rollout.backend import OnResult, Weights

PREFILL_TOKENS = 8192  # of one prefill, padding included: bounds its activations


class LocalEngine:
    """A policy and its cache, held open between calls, each of which reads the weights as they then are."""

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
        columns = max(slots, least_rows())
        staged = range(columns, columns + min(waiting.prompts, max(4, slots // 4)))
        longest = max((len(r.tokens) + room(r, sampling, self.max_len) for r in requests), default=1)
        cache = self._room_for(staged.stop, longest)
        table = Slots(self.model, cache, self.stops, sampling, slots=slots, columns=columns, max_len=self.max_len)
        while waiting or table.running:
            while waiting and table.free:
                if not waiting.ready:
                    self._prefill(waiting, cache, staged)
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
                self._cache = None
                self.max_len = min(self.max_len, model.config.max_seq_len)
            self.model = model
            self.version = version or weights.name
            return
        fill(self.model, weights, f"weights of version {version}")
        self.version = version or self.version

    def _prefill(self, waiting: Waiting, cache: KVCache, rows: range) -> None:
        """Fill staging rows with the next prompts, less each one's last token: the first decode step reads it."""
        prompts = waiting.stage(rows, PREFILL_TOKENS)
        if len(prompts[0]) == 1:
            return
        device = cache.k.device
        width = round_up(len(prompts[0]) - 1)
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
            self._cache = held = KVCache(self.model.config, rows, round_up(length), dtype, parameter.device)
        return held
