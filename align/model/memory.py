"""How much memory a run will need on each device, worked out before anything is loaded and without torch.

The parts follow from the sizes; activations are those that this library's forward keeps for backward (a test
counts them, in each mode of checkpointing; on a CPU norms and SwiGLU keep less, and documents of up to 1024 tokens
their attention weights too, heads x length numbers a token and layer). A framework's own needs and fragmentation come
on top: leave a tenth free.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from align.model.config import HEAD_CHUNK, LONG, PIECE, Checkpointing, Dtype, LlamaConfig, LoraConfig

BYTES: dict[Dtype, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
# DeepSpeed's defaults at stage 3 and 2: weights held gathered at once, and gradients reduced at once
LIVE_PARAMETERS = 1_000_000_000
REDUCE_BUCKET = 500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes by part, of one process; ``host`` is what is offloaded to the host's memory."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0  # moments and, where the weights are not trained as they are, fp32 masters
    activations: int = 0
    logits: int = 0
    cache: int = 0
    host: int = 0

    @property
    def device(self) -> int:
        """Bytes on the device."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits, self.cache)
        return sum(parts)

    def __add__(self, other: Memory) -> Memory:
        return Memory(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def training(
    config: LlamaConfig,
    *,
    stage: int,
    dtype: Dtype,
    rows: int,
    length: int,
    processes: int = 1,
    head: bool = True,
    offload_optimizer: bool = False,
    offload_params: bool = False,
    lora: LoraConfig | None = None,
    checkpointing: Checkpointing = "none",
    whole_logits: bool = False,
) -> Memory:
    """One model in training under ZeRO.

    Args:
        config: sizes.
        stage: ZeRO's: 1 splits the optimizer over processes, 2 gradients too, 3 weights too.
        dtype: of weights and activations; AdamW runs in fp32.
        rows: of a micro-batch.
        length: tokens a row.
        processes: that the state is split over.
        head: a language model; False: a scorer, which has no logits to speak of.
        offload_optimizer: keeps optimizer state and masters on the host.
        offload_params: keeps weights on the host (stage 3).
        lora: only adapters train.
        checkpointing: what the backward computes again.
        whole_logits: the loss needs all logits at once, as PPO's does; otherwise the head runs in chunks.
    """
    size = BYTES[dtype]
    whole = config.parameters() if head else config.backbone_parameters() + config.dim
    adapters = lora_parameters(config, lora) if lora else 0
    total = whole + adapters
    trained = adapters + (0 if head else config.dim) if lora else total
    # in bf16 and fp16 DeepSpeed starts at stage 1
    stage = max(stage, 1) if size < 4 else stage

    resident = size * _share(total, processes if stage == 3 else 1)
    gathered = size * min(total, LIVE_PARAMETERS) if stage == 3 else 0
    masters = 4 * _share(trained, processes) if stage else 0
    moments = 8 * _share(trained, processes if stage else 1)
    passing = size * (trained if stage < 2 else min(trained, REDUCE_BUCKET))
    kept = 4 * _share(trained, processes if stage > 1 else 1) if stage and size < 4 else 0
    host = (masters + moments if offload_optimizer else 0) + (resident if offload_params else 0)
    return Memory(
        weights=gathered + (0 if offload_params else resident),
        gradients=passing + kept,
        optimizer=0 if offload_optimizer else masters + moments,
        activations=activations(config, dtype, rows, length, checkpointing=checkpointing),
        logits=(logits if whole_logits else chunked_logits)(config, dtype, rows * length) if head else 0,
        host=host,
    )


def sampling(config: LlamaConfig, *, dtype: Dtype, slots: int, length: int, cache: Dtype | None = None) -> Memory:
    """One policy that samples ``slots`` sequences of up to ``length`` tokens at once."""
    size, cell = BYTES[dtype], BYTES[cache or dtype]
    pairs = config.n_layers * slots * config.n_kv_heads * (length + 1) * config.head_dim
    return Memory(
        weights=size * config.parameters(),
        cache=2 * cell * pairs,
        logits=(4 + (size if size < 4 else 0)) * slots * config.vocab_size,
    )


def scoring(config: LlamaConfig, *, dtype: Dtype, head: bool) -> Memory:
    """One frozen model: a reward model (``head`` False) or a reference policy."""
    whole = config.parameters() if head else config.backbone_parameters() + config.dim
    return Memory(weights=BYTES[dtype] * whole)


def activations(
    config: LlamaConfig,
    dtype: Dtype,
    rows: int,
    length: int,
    packed: bool = True,
    checkpointing: Checkpointing = "none",
) -> int:
    """Bytes of the backbone's activations when the backward begins; ``packed`` rows keep their masks.

    Of a checkpointed layer a part is kept, and one layer at a time is whole again.
    """
    size, dim, kv = BYTES[dtype], config.dim, config.n_kv_heads * config.head_dim
    norm = 4 * dim + 4 + size * dim  # input and 1/rms in fp32, normalised
    attention = size * (3 * dim + 2 * kv) + 4 * config.n_heads  # input, q, mixed, k, v; log-sum-exp in fp32
    mlp = size * (dim + 4 * config.ffn_dim)  # input, gate, silu(gate), up, their product
    layer = 2 * norm + attention + mlp
    # the layer's input; and of selective q, k, v, mixed, o with the log-sum-exp, gate, up, down
    part = size * dim
    if checkpointing == "selective":
        part += size * (4 * dim + 2 * kv + 2 * config.ffn_dim) + 4 * config.n_heads
    token = norm + (config.n_layers * layer if checkpointing == "none" else config.n_layers * part + layer)
    mask = size * (length if length <= LONG else PIECE) if packed else 0
    return rows * length * (token + mask)


def logits(config: LlamaConfig, dtype: Dtype, tokens: int) -> int:
    """Bytes of the head's input and output on counted ``tokens`` and of what its loss keeps: three fp32 copies."""
    size = BYTES[dtype]
    return tokens * (config.dim * size + config.vocab_size * (12 + (size if size < 4 else 0)))


def chunked_logits(config: LlamaConfig, dtype: Dtype, tokens: int) -> int:
    """Bytes of the head's input on counted ``tokens``, of one chunk of logits, and of the softmax of another.

    Further chunks' gradient of the weight is summed in fp32.
    """
    size = BYTES[dtype]
    chunk = min(tokens * config.vocab_size, max(HEAD_CHUNK, config.vocab_size))
    summed = 4 * config.vocab_size * config.dim if chunk < tokens * config.vocab_size else 0
    return tokens * config.dim * size + chunk * (size + 8) + summed


def lora_parameters(config: LlamaConfig, lora: LoraConfig) -> int:
    """Number of weights of the adapters."""
    kv = config.n_kv_heads * config.head_dim
    outer = {
        "q_proj": config.dim + config.dim,
        "k_proj": config.dim + kv,
        "v_proj": config.dim + kv,
        "o_proj": config.dim + config.dim,
        "gate_proj": config.dim + config.ffn_dim,
        "up_proj": config.dim + config.ffn_dim,
        "down_proj": config.ffn_dim + config.dim,
    }
    return config.n_layers * lora.rank * sum(outer[target] for target in lora.targets)


def _share(count: int, processes: int) -> int:
    return -(-count // processes)
