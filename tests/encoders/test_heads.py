"""The residual head: the identity at first, unit rows always, a capped temperature."""

import torch

from encoders.heads import ResidualHead


def unit_rows(rows: int = 32, dim: int = 16) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(0)), dim=1)


def test_a_fresh_head_is_the_identity_to_the_bit() -> None:
    users = unit_rows()
    assert (ResidualHead(16, 8, temperature=10.0)(users) == users).all()


def test_a_fresh_head_has_gradients_all_the_same() -> None:
    head = ResidualHead(16, 8, temperature=10.0)
    (head.temperature() * head(unit_rows()) * unit_rows(dim=16).roll(1, 0)).sum().backward()
    moved = {name for name, parameter in head.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0}
    assert moved == {"residual.outer.weight", "residual.outer.bias", "log_temperature"}


def test_rows_stay_unit_and_gradients_reach_everything_once_it_moved() -> None:
    head = ResidualHead(16, 8, temperature=10.0)
    with torch.no_grad():
        head.residual.outer.weight += 0.3
    out = head(unit_rows())
    assert (out.norm(dim=1) - 1).abs().max() < 1e-6
    (head.temperature() * out * unit_rows().roll(1, 0)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_the_temperature_is_capped() -> None:
    head = ResidualHead(4, 2, temperature=10.0)
    assert abs(float(head.temperature().detach()) - 10) < 1e-5
    with torch.no_grad():
        head.log_temperature.add_(10)
    assert abs(float(head.temperature().detach()) - 100) < 1e-3
