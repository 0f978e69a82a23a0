"""vLLM behind the engine's Protocol, for GPU machines that have it installed.

It is imported when it is chosen, and nowhere else. What differs from the in-repo engine: its random numbers are
its own (seeded by the same address), and whether an answer depends on what runs beside it is up to vLLM
(``VLLM_BATCH_INVARIANT=1`` where the GPU supports it).

vLLM's interface as of 0.10.2 and later: ``logprobs_mode`` gives log-probabilities of the distribution drawn from,
``reload_weights`` takes a folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align.errors import LaunchError, RolloutError, WeightsError
from align.model.config import HF_DTYPES, Dtype, read_config
from align.model.randomness import key
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig, check_requests, room

if TYPE_CHECKING:
    from align.rollout.backend import OnResult, Weights


class VllmEngine:
    """A policy folder in vLLM, held open between calls."""

    def __init__(
        self,
        policy: Path,
        eos: int | Sequence[int],
        slots: int = 64,
        max_len: int | None = None,
        dtype: Dtype = "bf16",
        version: str | None = None,
    ) -> None:
        """Start vLLM on a policy.

        Args:
            policy: a policy folder.
            eos: token, or tokens, that end an answer and belong to it.
            slots: answers under way at once.
            max_len: tokens of context, prompt and answer together; the model's own by default and at most.
            dtype: of weights and cache.
            version: of the weights, written into rollouts; the folder's name by default.

        Raises:
            LaunchError: vLLM is not installed.
        """
        try:
            import vllm
        except ImportError as error:
            raise LaunchError(
                f"engine: vllm cannot be imported ({error}); install it on a GPU machine with `pip install vllm`, "
                "or choose engine: local"
            ) from error
        self.stops = (eos,) if isinstance(eos, int) else tuple(eos)
        context = read_config(policy).max_seq_len
        self.max_len = min(max_len or context, context)
        self.policy, self.version = policy, version or policy.name
        self._params = vllm.SamplingParams
        self._llm: Any = vllm.LLM(
            model=str(policy),
            dtype=HF_DTYPES[dtype],
            max_model_len=self.max_len,
            max_num_seqs=slots,
            enable_prefix_caching=True,
            skip_tokenizer_init=True,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # not the folder's: sampling is the recipe's affair
            seed=0,
        )

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_result: OnResult | None = None
    ) -> list[Rollout]:
        """Answer every request; see :class:`align.rollout.backend.Backend`. ``on_result`` is told at the end."""
        check_requests(requests, self.max_len)
        if not requests:
            return []
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(request.tokens)} for request in requests],
            [self._sampling(request, sampling) for request in requests],
            use_tqdm=False,
        )
        if len(outputs) != len(requests):
            raise RolloutError(f"vllm: found {len(outputs)} answers to {len(requests)} requests")
        rollouts = [self._rollout(r, o.outputs[0], sampling) for r, o in zip(requests, outputs, strict=True)]
        for rollout in rollouts:
            if on_result:
                on_result(rollout)
        return rollouts

    def load_weights(self, weights: Weights, version: str | None = None) -> None:
        """Answer with other weights from now on; see :class:`align.rollout.backend.Backend`.

        Named tensors are handed over as a folder of safetensors, which every one of vLLM's workers reads.

        Raises:
            WeightsError: vLLM does not take them; it then still has the weights before, or none that can be relied on.
        """
        if isinstance(weights, Mapping):
            from safetensors.torch import save_file

            with tempfile.TemporaryDirectory(prefix="align-weights-") as folder:
                shutil.copy(self.policy / "config.json", folder)
                whole = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
                save_file(whole, Path(folder) / "model.safetensors", metadata={"format": "pt"})
                self._reload(Path(folder), f"version {version}")
            self.version = version or self.version
            return
        self._reload(weights, str(weights))
        self.version = version or weights.name

    def _reload(self, folder: Path, where: str) -> None:
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        except (ValueError, KeyError, AssertionError, OSError, RuntimeError) as error:
            raise WeightsError(f"{where}: vllm does not take the weights: {error}") from error
        self._llm.reset_prefix_cache()  # what prompts it holds were read by the weights before

    def _sampling(self, request: Request, sampling: SamplingConfig) -> Any:
        address = key(request.seed, request.step, request.prompt, request.sample)
        return self._params(
            n=1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=room(request, sampling, self.max_len),
            seed=address & ((1 << 63) - 1),
            stop_token_ids=[*self.stops, *(stop[0] for stop in sampling.stop if len(stop) == 1)],
            ignore_eos=True,  # only the stops above end an answer
            logprobs=0,  # of the token drawn
            detokenize=False,
        )

    def _rollout(self, request: Request, answer: Any, sampling: SamplingConfig) -> Rollout:
        tokens = tuple(int(token) for token in answer.token_ids)
        logprobs = tuple(float(at[token].logprob) for token, at in zip(tokens, answer.logprobs, strict=True))
        finish: Literal["stop", "length"] = "stop" if answer.finish_reason == "stop" else "length"
        if answer.finish_reason not in ("stop", "length"):
            raise RolloutError(f"prompt {request.prompt}: vllm ended the answer with {answer.finish_reason!r}")
        end = first_end(tokens, sampling.stop)
        if end is not None:  # vLLM knows stops of one token only
            tokens, logprobs, finish = tokens[:end], logprobs[:end], "stop"
        return Rollout(request.prompt, request.sample, tokens, logprobs, finish, self.version)


def first_end(tokens: Sequence[int], stops: Sequence[Sequence[int]]) -> int | None:
    """Number of tokens up to and with the first stop sequence, None where there is none."""
    for end in range(1, len(tokens) + 1):
        if any(len(stop) <= end and tuple(tokens[end - len(stop) : end]) == tuple(stop) for stop in stops):
            return end
    return None
