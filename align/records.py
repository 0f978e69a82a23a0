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
class Comparison:
    """What was said of two answers of a ranking."""

    pair: tuple[int, int]  # two different indices into the answers
    chosen: int | None  # the better one of the pair; None: a tie
    rating: Rating = "negligibly"

    @property
    def rejected(self) -> int | None:
        """The other one of the pair; None: a tie."""
        return None if self.chosen is None else sum(self.pair) - self.chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """K answers to one prompt, ordered by ranks, or compared two by two where what was said is no order.

    Either ``ranks`` or ``comparisons`` is empty. Comparisons may leave pairs out, tie a with b and b with c and
    still tell a from c, and even go round in a circle: people do.
    """

    prompt: Messages
    answers: tuple[Messages, ...]
    ranks: tuple[int, ...] = ()  # of each answer, 1 = best; equal ranks are ties
    comparisons: tuple[Comparison, ...] = ()  # each pair at most once
    kind: Kind = "helpful"
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)  # opaque to the stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """An instruction that must hold for a whole dialogue (Ghost Attention)."""

    kind: str  # hobby, language, figure, ...
    instruction: str  # "Always act as Napoleon from now on."
    short: str  # "Figure: Napoleon"
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprompt:
    """What is put before an adversarial prompt so that it is answered safely (safety context distillation)."""

    text: str
    category: str = ""  # the risk category whose prompts it is for; empty: any
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
    """P pairs of answers to E prompts: the ends of the chosen answers, then of the rejected ones, in packed rows.

    The tokens that the answers to a prompt begin with, prompt and all, stand there once; each answer goes on from
    them. An answer of several pairs stands there once too, and its end is named by each of them.
    """

    batch: Batch
    ends: Tensor  # [2P] int64, flat index into [B * T] of each answer's last token
    margin: Tensor  # [P] float32, logits
    rating: Tensor  # [P] int64, index into RATINGS
    safe: Tensor  # [2P] int64, 1 safe, 0 unsafe, -1 not labelled
    prompt: Tensor  # [P] int64, 0 … E - 1: the prompt of each pair
    share: Tensor  # [P] float32, 1 / C(K, 2) of the pair's prompt
    rows: Tensor  # [E] int64, where each prompt stands in the training data


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
