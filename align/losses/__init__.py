"""The losses and rewards of the recipe: pure functions of tensors, for any training loop.

No state, no config, no averaging: a result has one value a token or a pair, and the caller takes the mean
that is right for a whole step (sum over the counted tokens of all ranks / their number). Shapes that would
broadcast are refused with :class:`align.errors.ShapeError`; a mask that is not bool with ``TypeError``; a
number out of range with ``ValueError``. Half precision is computed in fp32; fp64 stays fp64.

Dims: B rows, T tokens, V vocabulary, K ranked answers. Masks are bool, True = counts. Log-probs are in nats,
scores are logits. ``logits[:, t]`` predicts ``tokens[:, t]``: a causal model's logits are shifted before.

>>> import torch
>>> from align.losses import masked_mean, sft_loss
>>> logits = torch.zeros(1, 3, 4)  # a model that knows nothing, of 4 tokens
>>> tokens = torch.tensor([[1, 3, 2]])
>>> mask = torch.tensor([[False, True, True]])  # the first is the prompt's
>>> loss = sft_loss(logits, tokens, mask)
>>> [round(x, 3) for x in loss[0].tolist()]  # log 4, and nothing for the prompt
[0.0, 1.386, 1.386]
>>> round(masked_mean(loss, mask).item(), 3)
1.386

A reward model is to put a "significantly better" answer three points ahead:

>>> from align.losses import ranking_loss
>>> chosen, rejected = torch.tensor([2.0, 5.0]), torch.tensor([1.0, 0.0])
>>> [round(x, 3) for x in ranking_loss(chosen, rejected, torch.tensor([3.0, 3.0])).tolist()]
[2.127, 0.127]

PPO, from scores to the loss of each token:

>>> from align.losses import gae, kl_k1, ppo_policy_loss, token_rewards
>>> old = torch.tensor([[-1.0, -2.0, 0.0]])  # the last column is a pad
>>> answer = torch.tensor([[True, True, False]])
>>> kl = kl_k1(old, torch.tensor([[-1.0, -3.0, 0.0]]))
>>> rewards = token_rewards(torch.tensor([1.0]), kl, answer, beta=0.1)
>>> [round(x, 3) for x in rewards[0].tolist()]
[0.0, 0.9, 0.0]
>>> advantages, returns = gae(rewards, torch.zeros(1, 3), answer, gamma=1.0, lam=1.0)
>>> [round(x, 3) for x in advantages[0].tolist()]
[0.9, 0.9, 0.0]
>>> loss = ppo_policy_loss(old + 0.5, old, advantages, clip=0.2)
>>> [round(x, 3) for x in loss[answer].tolist()]
[-1.08, -1.08]
"""

from align.losses.advantages import gae
from align.losses.kl import kl_k1, kl_k3
from align.losses.linear import linear_logprobs
from align.losses.logprobs import entropy, token_logprobs
from align.losses.masked import masked_mean, masked_sum
from align.losses.ppo import ppo_policy_loss, ppo_value_loss
from align.losses.ranking import kwise_ranking_loss, ranking_loss, safety_loss
from align.losses.rewards import combine_rewards, moments, token_rewards, unit_variance, whiten
from align.losses.sft import sft_loss

__all__ = [
    "combine_rewards",
    "entropy",
    "gae",
    "kl_k1",
    "kl_k3",
    "kwise_ranking_loss",
    "linear_logprobs",
    "masked_mean",
    "masked_sum",
    "moments",
    "ppo_policy_loss",
    "ppo_value_loss",
    "ranking_loss",
    "safety_loss",
    "sft_loss",
    "token_logprobs",
    "token_rewards",
    "unit_variance",
    "whiten",
]
