"""What a LLaMA is, without torch: sizes, presets, parameter count, Hugging Face's ``config.json``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import pydantic

from align.config import config
from align.errors import ArtifactError, nearest

Count: TypeAlias = Annotated[int, pydantic.Field(ge=1)]
Positive: TypeAlias = Annotated[float, pydantic.Field(gt=0)]
Dtype: TypeAlias = Literal["fp32", "bf16", "fp16"]
Architecture: TypeAlias = Literal["LlamaForCausalLM", "LlamaForSequenceClassification"]
# what of a layer's forward is computed again in the backward: nothing, all but what is dear, everything
Checkpointing: TypeAlias = Literal["none", "selective", "full"]
Linear: TypeAlias = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# what bounds a step's memory, told here for estimates that must do without torch
LONG = 512  # a packed row of more tokens gets no [T, T] mask (align/model/attention.py)
PIECE = 256  # tokens of neighbouring documents that share one small mask instead
HEAD_CHUNK = 1 << 25  # logits held at a time (align/model/lm_head.py) ...
HEAD_CHUNK_CPU = 1 << 24  # ... and on a CPU

HF_DTYPES: dict[Dtype, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@config
class LlamaConfig:
    """Sizes of one LLaMA (paper table 1; the recipe's section 1)."""

    vocab_size: Count
    dim: Count
    n_layers: Count
    n_heads: Count
    n_kv_heads: Count  # fewer than n_heads: each serves n_heads / n_kv_heads consecutive query heads (GQA)
    ffn_dim: Count
    norm_eps: Positive = 1e-5
    rope_theta: Positive = 10000.0
    max_seq_len: Count = 4096
    tie_embeddings: bool = False  # the output head is the embedding matrix

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide."""
        if self.dim % self.n_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"the head width dim / n_heads = {self.head_dim} must be even (rotary pairs)")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    def backbone_parameters(self) -> int:
        """Number of weights without an output head: embedding, layers, final norm."""
        kv_dim = self.n_kv_heads * self.head_dim
        attention = 2 * self.dim * self.dim + 2 * self.dim * kv_dim
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        return self.vocab_size * self.dim + self.n_layers * layer + self.dim

    def parameters(self) -> int:
        """Number of weights of the language model; a tied head is counted once."""
        head = 0 if self.tie_embeddings else self.vocab_size * self.dim
        return self.backbone_parameters() + head


@config
class LoraConfig:
    """Low-rank adapters on a frozen base: W x + (alpha / rank) B A x (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Count = 16
    alpha: Positive = 32.0
    targets: tuple[Linear, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        """Refuse adapters on nothing."""
        if not self.targets:
            raise ValueError("targets: at least one linear layer must be named")


def ffn_width(dim: int, multiple_of: int, multiplier: float | None = None) -> int:
    """Meta's feed-forward width: 8/3 of ``dim``, times the multiplier, up to the next multiple."""
    width = int(2 * 4 * dim / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


def _llama2(dim: int, layers: int, heads: int, kv_heads: int, ffn: int) -> LlamaConfig:
    return LlamaConfig(vocab_size=32000, dim=dim, n_layers=layers, n_heads=heads, n_kv_heads=kv_heads, ffn_dim=ffn)


PRESETS: dict[str, LlamaConfig] = {
    "llama2-7b": _llama2(4096, 32, 32, 32, ffn_width(4096, 256)),
    "llama2-13b": _llama2(5120, 40, 40, 40, ffn_width(5120, 256)),
    # the paper gives no dims for 34B; these are CodeLlama-34B's
    "llama2-34b": _llama2(8192, 48, 64, 8, ffn_width(8192, 256, 1.0)),
    "llama2-70b": _llama2(8192, 80, 64, 8, ffn_width(8192, 4096, 1.3)),
    # ours: small ones for tests, the practice world and benchmarks
    "tiny-1m": LlamaConfig(vocab_size=512, dim=128, n_layers=4, n_heads=4, n_kv_heads=2, ffn_dim=352, max_seq_len=1024),
    "small-8m": LlamaConfig(
        vocab_size=4096, dim=256, n_layers=8, n_heads=8, n_kv_heads=4, ffn_dim=688, max_seq_len=1024
    ),
    "base-110m": LlamaConfig(
        vocab_size=16000, dim=768, n_layers=12, n_heads=12, n_kv_heads=12, ffn_dim=2048, max_seq_len=1024
    ),
    "base-1b": _llama2(2048, 22, 32, 4, ffn_width(2048, 256)),  # TinyLlama's sizes (arXiv 2401.02385), our context
}


def preset(name: str) -> LlamaConfig:
    """A preset by name.

    Raises:
        ArtifactError: no such preset; the nearest is named.
    """
    if name not in PRESETS:
        raise ArtifactError(f"{name!r}: no such model preset{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def to_hf(
    llama: LlamaConfig,
    architecture: Architecture,
    *,
    dtype: Dtype = "fp32",
    bos: int = 1,
    eos: int = 2,
    pad: int = 0,
) -> dict[str, Any]:
    """Hugging Face's ``config.json`` of a policy or a reward model.

    ``pad`` is written for reward models only: LlamaForSequenceClassification reads its score at the last
    token that is not ``pad``. The unknown piece (0) serves: with byte fallback no text encodes to it.
    """
    values: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": "llama",
        "vocab_size": llama.vocab_size,
        "hidden_size": llama.dim,
        "intermediate_size": llama.ffn_dim,
        "num_hidden_layers": llama.n_layers,
        "num_attention_heads": llama.n_heads,
        "num_key_value_heads": llama.n_kv_heads,
        "head_dim": llama.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": llama.max_seq_len,
        "rms_norm_eps": llama.norm_eps,
        "rope_theta": llama.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": llama.tie_embeddings,
        "use_cache": True,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": HF_DTYPES[dtype],
    }
    if architecture == "LlamaForSequenceClassification":
        labels = {"id2label": {"0": "score"}, "label2id": {"score": 0}}
        values |= {"num_labels": 1, **labels, "problem_type": "regression", "pad_token_id": pad}
    return values


def from_hf(values: Mapping[str, Any], where: str) -> LlamaConfig:
    """Sizes from Hugging Face's ``config.json``.

    Args:
        values: the file's contents.
        where: the file's name, for messages.

    Raises:
        ArtifactError: not a LLaMA, a missing or impossible value, or a variant that LLaMA-2 does not have
            (biases, scaled rotary embedding, another activation).
    """

    def need(key: str) -> Any:
        if values.get(key) is None:
            raise ArtifactError(f"{where}: {key} is missing{nearest(key, values)}")
        return values[key]

    def must_be(key: str, expected: Any) -> None:
        if values.get(key, expected) not in (expected, None):
            raise ArtifactError(f"{where}: {key}: expected {expected!r}, found {values[key]!r}")

    if need("model_type") != "llama":
        raise ArtifactError(f"{where}: model_type: expected 'llama', found {values['model_type']!r}")
    for key, expected in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}.items():
        must_be(key, expected)
    must_be("head_dim", int(need("hidden_size")) // int(need("num_attention_heads")))
    # transformers 5 keeps theta and scaling together in rope_parameters; 4 kept them apart
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ArtifactError(f"{where}: rope type: LLaMA-2 has no scaled rotary embedding, found {kind!r}")
    eps = values.get("rms_norm_eps", 1e-6)
    warn_eps(eps, where)
    try:
        return LlamaConfig(
            vocab_size=need("vocab_size"),
            dim=need("hidden_size"),
            n_layers=need("num_hidden_layers"),
            n_heads=need("num_attention_heads"),
            n_kv_heads=values.get("num_key_value_heads") or need("num_attention_heads"),
            ffn_dim=need("intermediate_size"),
            norm_eps=eps,
            rope_theta=rope.get("rope_theta") or values.get("rope_theta") or 10000.0,
            max_seq_len=values.get("max_position_embeddings", 2048),
            tie_embeddings=bool(values.get("tie_word_embeddings", False)),
        )
    except pydantic.ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'sizes'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ArtifactError(f"{where}: {mistakes}") from error


def warn_eps(eps: float, where: str) -> None:
    """Warn of the one wrong norm epsilon that was ever shipped."""
    if eps == 1e-6:
        warnings.warn(
            f"{where}: the norm's epsilon is 1e-6; every Llama 2 size was trained with 1e-5"
            " (the first release of 7B-chat said 1e-6 by mistake)",
            stacklevel=3,
        )


def read_hf(folder: Path) -> dict[str, Any]:
    """The raw ``config.json`` of a model folder.

    Raises:
        ArtifactError: no such folder or file, or not a JSON object.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise ArtifactError(f"{folder}: no such model folder{nearest(folder.name, beside)}")
    if not path.is_file():
        raise ArtifactError(f"{folder}: no config.json; a Hugging Face model folder was expected")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def read_config(folder: Path) -> LlamaConfig:
    """Sizes of the model in a Hugging Face folder, policy or reward model; see :func:`from_hf`."""
    return from_hf(read_hf(Path(folder)), str(Path(folder) / "config.json"))
