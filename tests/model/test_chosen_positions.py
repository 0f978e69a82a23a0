"""Only the positions that are asked for: their logits and gradients are those of the whole row."""

from __future__ import annotations

import pytest
import torch

from tests.model.peers import policies, tiny


def test_head_at_chosen_positions_only() -> None:
    ours, _ = policies(tiny())
    tokens = torch.randint(1, 97, (3, 11), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([0, 32, 12, 5])
    torch.testing.assert_close(ours(tokens, at=at), ours(tokens).flatten(0, 1)[at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("way", ["row", "packed", "trees"])
def test_positions_asked_for_alone_have_the_gradients_of_the_whole(
    kernels: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last layer computes them only, one asked for twice counts twice; of every weight, by either attention."""
    if not kernels:
        monkeypatch.setattr("align.model.fused.usable", lambda x: False)
    ours, _ = policies(tiny(2))
    tokens = torch.randint(1, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([3, 7, 7, 22])
    positions = segments = stems = None
    if way != "row":
        positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]] * 2)
        segments = torch.tensor([[1] * 5 + [2] * 7] * 2)
    if way == "trees":
        positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]] * 2)
        segments, stems = torch.tensor([[1] * 4 + [2] * 3 + [3] * 5] * 2), torch.tensor([[-1] * 4 + [1] * 8] * 2)
    weights = torch.randn(4, 97, generator=torch.Generator().manual_seed(1))
    found = []
    for logits in (
        ours(tokens, positions, segments, at=at, stems=stems),
        ours(tokens, positions, segments, stems=stems).flatten(0, 1)[at],
    ):
        ours.zero_grad()
        (logits * weights).sum().backward()
        found.append({name: parameter.grad.clone() for name, parameter in ours.named_parameters()})
    for name, grad in found[1].items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(found[0][name], grad, rtol=0, atol=1e-5 * float(grad.abs().max()))
