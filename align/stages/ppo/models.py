"""PPO's five models: policy and critic in training; reference, helpfulness and safety reward model frozen.

With adapters the policy's untouched base is the reference, and the critic's is the reward model it started from: the
frozen model then takes no memory of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from align.data.branches import Tokens
    from align.engine.precision import Trained
    from align.engine.zero import Engine
    from align.records import Batch
    from align.rollout.judge import Scores
    from align.stages.ppo.recipe import Recipe


class Models:
    """Held open for a run."""

    def __init__(self, recipe: Recipe) -> None:
        from align.data.pack import NARROW
        from align.engine import dist
        from align.engine.zero import wrap
        from align.model.config import read_config
        from align.model.heads import scorer_from_policy
        from align.model.lora import CriticOnReward, add_lora
        from align.model.weights import load_policy, load_scorer
        from align.rollout.judge import RewardModels

        dist.setup()
        self.recipe, ppo, zero = recipe, recipe.ppo, recipe.zero
        start = Path(recipe.policy)
        self.config = read_config(start)
        judges = {"helpful": Path(recipe.helpful), "safety": Path(recipe.safety)}

        policy = load_policy(start)
        if recipe.lora:
            add_lora(policy, recipe.lora, recipe.seed)
        steps = (ppo.iterations - ppo.critic_warmup) * ppo.updates
        self.policy = wrap(policy, recipe.optim, zero, steps)

        critic: Any
        if recipe.critic == "policy":
            critic = scorer_from_policy(load_policy(start), recipe.seed)
        else:
            critic = load_scorer(judges[recipe.critic])
        self.widest = min(NARROW, self.config.max_seq_len, critic.config.max_seq_len)  # tokens of a packed row
        head = critic.score.weight.detach().clone()
        critic.score.weight.data.zero_()
        self._shared = None
        if recipe.critic_lora:
            add_lora(critic, recipe.critic_lora, recipe.seed)
            if recipe.critic != "policy":
                critic, self._shared = CriticOnReward(critic, head), recipe.critic
        self.critic = wrap(critic, recipe.critic_optim, zero, ppo.iterations * ppo.updates)

        self.device = self.policy.device
        self._reference = None
        if not recipe.lora:
            frozen = load_policy(start, self.dtype, str(self.device))
            self._reference = frozen.eval().requires_grad_(False)
        scorers: dict[str, Any] = {}
        for name, folder in judges.items():
            same = next((scorers[other] for other in scorers if judges[other].resolve() == folder.resolve()), None)
            shared = _Base(self.critic) if name == self._shared else None
            scorers[name] = same or shared or load_scorer(folder, self.dtype, str(self.device))
        self.reward = RewardModels(scorers["helpful"], scorers["safety"], recipe.threshold)

    @property
    def dtype(self) -> Trained:
        """What all of them run in."""
        return self.policy.dtype

    @property
    def engines(self) -> dict[str, Engine]:
        """What is trained, by name."""
        return {"policy": self.policy, "critic": self.critic}

    def reference(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits of the policy that training started from; see :meth:`align.model.llama.Llama.forward`."""
        from align.model.lora import without_adapters

        logits: Tensor
        if self._reference is not None:
            logits = self._reference(*args, **kwargs)
        else:
            with without_adapters(self.policy.module):
                logits = self.policy(*args, **kwargs)
        return logits

    def score(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], is_safety: Sequence[bool]
    ) -> Scores:
        """Both reward models' logits of R answers, and the one that counts; each rank reads its share of them."""
        from align.engine import dist
        from align.rollout.judge import join

        if dist.world_size() == 1 or self._shared:  # a critic's body may be split over ranks: then all read all
            return self.reward.score(prompts, answers, is_safety)
        mine = dist.block(len(answers))  # neighbours, so that answers to one prompt meet
        scores = self.reward.score(prompts[mine], answers[mine], is_safety[mine])
        told = dist.all_gather_json([scores.helpful.tolist(), scores.safety.tolist()])
        helpful, safety = ([score for part in told for score in part[which]] for which in (0, 1))
        return join(helpful, safety, is_safety, self.recipe.threshold)

    def read(self, reader: Callable[[Batch], Tensor], prompts: Tokens, answers: Tokens) -> Tensor:
        """A reading of every answer token, [R, A] on the CPU; each rank reads its share of the answers.

        Args:
            reader: of the reference or the critic; see :func:`align.rollout.experience.over_answers`.
            prompts: R prompts.
            answers: R answers.
        """
        import torch

        from align.engine import dist
        from align.rollout.experience import over_answers, table

        size = self.recipe.micro_tokens
        if dist.world_size() == 1:
            return over_answers(reader, prompts, answers, size, self.device, self.widest)
        batches: list[Batch] = []

        def counted(batch: Batch) -> Tensor:
            batches.append(batch)
            return reader(batch)

        mine = dist.block(len(answers))
        found = over_answers(counted, prompts[mine], answers[mine], size, self.device, self.widest)
        with torch.no_grad():
            for _ in range(int(dist.max_number(len(batches))) - len(batches)):
                reader(batches[-1])  # with split weights a forward is a collective, and the others wait for it
        told = dist.all_gather_json(
            [row[: len(answer)].tolist() for row, answer in zip(found, answers[mine], strict=True)]
        )
        return table([row for part in told for row in part])

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's weights as a plain model bears them: whole, fp32, adapters merged. All ranks must iterate."""
        from align.engine.zero_state import gathered
        from align.model.lora import merged

        return merged(gathered(self.policy), self.recipe.lora) if self.recipe.lora else gathered(self.policy)

    def save_policy(self, folder: Path) -> None:
        """The policy as a folder, whole or not at all. Gathering is a collective: every rank takes part."""
        from align.engine import dist
        from align.model.weights import save_policy

        weights = self.weights()
        if not dist.is_main():
            for _ in weights:
                pass
        else:
            partial = folder.with_name(f"{folder.name}.partial")
            for place in (partial, folder):
                if place.exists():
                    shutil.rmtree(place)
            save_policy(weights, self.config, partial)
            shutil.copyfile(Path(self.recipe.policy) / "tokenizer.model", partial / "tokenizer.model")
            partial.rename(folder)
        dist.barrier()


class _Base:
    """The reward model under a critic's adapters, as a scorer."""

    def __init__(self, critic: Engine) -> None:
        self.critic = critic

    def parameters(self) -> Iterator[Tensor]:
        """For its device."""
        return iter(self.critic.module.parameters())

    def __call__(
        self, tokens: Tensor, positions: Tensor, segments: Tensor | None, at: Tensor, stems: Tensor | None
    ) -> Tensor:
        """Scores [N] at flat indices."""
        import torch

        # gathered by ZeRO-3 in inference mode, the weights could not be trained after
        with torch.inference_mode(False), torch.no_grad():
            given = [None if part is None else part.clone() for part in (tokens, positions, segments)]
            apart = None if stems is None else stems.clone()
            scores: Tensor = self.critic(*given, at=at.clone(), stems=apart, reward=True)
        return scores
