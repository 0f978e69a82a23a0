"""Run by test_fused.py: a tiny model's loss and the norm of every gradient, as numbers."""

import torch

import align  # noqa: F401
from align.model.config import LlamaConfig
from align.model.llama import Llama, init_weights

config = LlamaConfig(vocab_size=64, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=48, max_seq_len=64)
model = Llama(config)
init_weights(model, seed=0, std=0.1)
tokens = torch.randint(64, (2, 40), generator=torch.Generator().manual_seed(1))
segments = torch.tensor([[1] * 11 + [2] * 20 + [0] * 9, [1] * 40])
positions = torch.tensor([[*range(11), *range(20), *[0] * 9], [*range(40)]])
logits = model(tokens, positions, segments)
real = segments[:, 1:] > 0  # what padding computes is nobody's affair
loss = torch.nn.functional.cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])
loss.backward()
print(float(loss))
for parameter in model.parameters():
    assert parameter.grad is not None
    print(float(parameter.grad.norm()), float(parameter.grad.sum()))
