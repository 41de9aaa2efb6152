"""Dropout by bytes: the right share, the right scale, reproducible, and nothing in evaluation."""

import torch

from unichoir.network.dropout import Dropout


def test_share_scale_and_seed() -> None:
    layer, x = Dropout(0.1), torch.ones(257, 1001)
    torch.manual_seed(5)
    y = layer(x)
    share = float((y == 0).float().mean())
    assert abs(share - 26 / 256) < 0.002
    assert torch.unique(y).tolist() == [0.0, float(torch.tensor(256 / 230))]
    assert abs(float(y.mean()) - 1) < 0.003
    torch.manual_seed(5)
    assert torch.equal(layer(x), y)
    # Neighbours that share one drawn word are independent of each other.
    kept = (y.flatten() > 0).float()
    assert abs(float((kept[1:] * kept[:-1]).mean()) - (230 / 256) ** 2) < 0.003


def test_gradients_pass_where_values_passed() -> None:
    x = torch.randn(100, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)


def test_nothing_is_dropped_in_evaluation_or_at_zero() -> None:
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
