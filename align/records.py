"""The records that flow through the library, each frozen, each field with its meaning.

JSONL -> Dialog | Preference | Ranking | Prompt -> Row -> Batch -> ... and, for sampling, Request -> Rollout.

Dims: B rows, T tokens, N gathered positions, P pairs, V vocabulary, D width.
Masks are bool, True = counts. Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Role = Literal["system", "user", "assistant"]
Kind = Literal["helpful", "safety"]
Rating = Literal["significantly", "better", "slightly", "negligibly"]
Vote = Literal["chosen", "rejected", "tie"]
RATINGS: tuple[Rating, ...] = ("significantly", "better", "slightly", "negligibly")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a dialogue."""

    role: Role
    content: str


Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialog:
    """A dialogue to learn from: optional system, then user, assistant, …, ending with assistant."""

    messages: Messages
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A dialogue to be answered: it ends with user."""

    id: str
    messages: Messages
    kind: Kind = "helpful"
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)  # opaque to the stages; handed to a judge as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two answers to one prompt, a forced choice and how sure the annotator was (paper section 3.2.1)."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    rating: Rating = "negligibly"
    chosen_safe: bool | None = None
    rejected_safe: bool | None = None
    votes: tuple[Vote, ...] = ()  # one an annotator, where several compared the two
    kind: Kind = "helpful"
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """K answers to one prompt with ranks, 1 = best; equal ranks are ties."""

    prompt: Messages
    answers: tuple[Messages, ...]
    ranks: tuple[int, ...]
    kind: Kind = "helpful"
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """An instruction that must hold for a whole dialogue (Ghost Attention)."""

    kind: str  # hobby, language, figure, ...
    instruction: str  # "Always act as Napoleon from now on."
    short: str  # "Figure: Napoleon"
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded dialogue."""

    tokens: NDArray[np.int32]  # [T]
    mask: NDArray[np.bool_]  # [T] True where the token counts in the loss


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens: packed with several documents each, or one document a row, padded on the right."""

    tokens: Tensor  # [B, T] int64
    mask: Tensor  # [B, T] bool, True where the token counts in the loss (never a document's first)
    positions: Tensor  # [B, T] int64, position of the token within its own document
    segments: Tensor | None  # [B, T] int64, document of each token, 0 is padding; None: one document a row
    stems: Tensor | None = None  # [B, T] int64, the document that a token's own one goes on from, -1: none


@dataclass(frozen=True, slots=True)
class PairBatch:
    """P pairs: the ends of their chosen answers, then of their rejected ones, in packed rows.

    The tokens that both answers of a pair begin with, prompt and all, stand there once; each answer goes on from them.
    """

    batch: Batch
    ends: Tensor  # [2P] int64, flat index into [B * T] of each document's last token
    margin: Tensor  # [P] float32, logits
    rating: Tensor  # [P] int64, index into RATINGS
    safe: Tensor  # [2P] int64, 1 safe, 0 unsafe, -1 not labelled


@dataclass(frozen=True, slots=True)
class PPOBatch:
    """Answers to learn from, with what is known of each of their N tokens, in the order of ``batch.mask``."""

    batch: Batch  # the mask is True on the answers' tokens
    logprobs: Tensor  # [N] nats, when sampled
    advantages: Tensor  # [N]
    values: Tensor  # [N] the critic's before the update
    returns: Tensor  # [N]


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to be sampled. Its randomness is addressed by (seed, step, prompt, sample), never by order."""

    prompt: int  # index of the prompt within the job
    tokens: tuple[int, ...]  # the encoded prompt
    sample: int = 0
    seed: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer."""

    prompt: int
    sample: int
    tokens: tuple[int, ...]  # the answer, its EOS included where it was reached
    logprobs: tuple[float, ...]  # of each token under the sampling distribution, nats
    finish: Literal["stop", "length"]
    version: str  # which weights answered
