"""What every sampler offers, and how an answer is drawn. Free of torch: recipes are checked quickly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeAlias

import pydantic

from align.config import config
from align.errors import DataError
from align.records import Request, Rollout

if TYPE_CHECKING:
    from torch import Tensor

    OnResult: TypeAlias = Callable[[Rollout], None]
    Weights: TypeAlias = Path | Mapping[str, Tensor]

Temperature: TypeAlias = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
TokenId: TypeAlias = Annotated[int, pydantic.Field(ge=0)]
Share: TypeAlias = Annotated[float, pydantic.Field(gt=0, le=1)]


@config
class SamplingConfig:
    """How the next token is drawn: logits / temperature, then the top k, then the nucleus of mass top_p."""

    temperature: Temperature = 1.0  # 0 takes the likeliest token; its log-probs are those at temperature 1
    top_p: Share = 1.0  # tokens before which the mass is at most top_p stay, as in Meta's chat code
    top_k: Annotated[int, pydantic.Field(ge=0)] = 0  # 0 keeps all; ties with the k-th stay
    max_new_tokens: Annotated[int, pydantic.Field(ge=1)]  # EOS counts; cut to what the context has room for
    # an answer that ends with one of these sequences is done, as at EOS, and keeps it
    stop: tuple[Annotated[tuple[TokenId, ...], pydantic.Field(min_length=1)], ...] = ()


class Backend(Protocol):
    """A sampler. Equal requests get equal answers whatever else is asked, in whatever order."""

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_result: OnResult | None = None
    ) -> list[Rollout]:
        """Answer every request.

        Args:
            requests: encoded prompts, each with the address of its randomness.
            sampling: how tokens are drawn.
            on_result: sees each answer as it is done, in the order they are done.

        Returns:
            Answers in the order of the requests.

        Raises:
            DataError: a prompt is empty or leaves no room in the context for an answer.
        """
        ...

    def load_weights(self, weights: Weights, version: str | None = None) -> None:
        """Answer with other weights from now on.

        Args:
            weights: a policy folder, or every parameter by name.
            version: what rollouts will say; a folder's name by default.
        """
        ...


def check_requests(requests: Sequence[Request], max_len: int) -> None:
    """Refuse a prompt that cannot be answered.

    Args:
        requests: encoded prompts.
        max_len: tokens of context, prompt and answer together.

    Raises:
        DataError: naming the prompt, its length and the room.
    """
    for request in requests:
        length = len(request.tokens)
        if not 0 < length < max_len:
            found = "no tokens" if length == 0 else f"{length} tokens, which leave no room for an answer"
            raise DataError(f"prompt {request.prompt}: found {found}; expected 1 to {max_len - 1} (context {max_len})")


def room(request: Request, sampling: SamplingConfig, max_len: int) -> int:
    """Tokens an answer may have: ``max_new_tokens``, or what the context leaves (it then ends by ``length``)."""
    return min(sampling.max_new_tokens, max_len - len(request.tokens))
