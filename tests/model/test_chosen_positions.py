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


@pytest.mark.parametrize("chosen", [False, True])
def test_padding_reaches_no_layer(chosen: bool) -> None:
    """On a CPU the layers see the documents' tokens in one row; what comes out lies where it did, to rounding."""
    ours, _ = policies(tiny(2))
    tokens = torch.randint(1, 97, (2, 9), generator=torch.Generator().manual_seed(2))
    segments = torch.tensor([[1, 1, 1, 0, 0, 2, 2, 0, 0], [0, 3, 3, 3, 3, 3, 0, 0, 0]])
    positions = torch.tensor([[0, 1, 2, 0, 0, 0, 1, 0, 0], [0, 0, 1, 2, 3, 4, 0, 0, 0]])
    at = torch.tensor([2, 14, 6]) if chosen else None
    seen: list[torch.Size] = []
    for layer in ours.model.layers:
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape))
    out = ours(tokens, positions, segments, at=at)
    assert seen == [(1, 10, ours.config.dim)] * 2
    whole = ours(tokens, positions, segments)
    assert (whole[segments == 0] == 0).all()
    for row, number, start in ((0, 1, 0), (0, 2, 5), (1, 3, 1)):
        inside = segments[row] == number
        alone = ours(tokens[row : row + 1, inside])[0]
        torch.testing.assert_close(whole[row, inside], alone, rtol=1e-5, atol=1e-5)
        for place, of_row in enumerate([] if at is None else at.tolist()):
            if of_row // 9 == row and inside[of_row % 9]:
                torch.testing.assert_close(out[place], alone[of_row % 9 - start], rtol=1e-5, atol=1e-5)
