"""The sampled softmax at its limits, and chunked gradients against whole ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainers.losses import Contrast, carry_on, chunked_gradients, nested, sampled_softmax


def scores(rows: int, others: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, generator=random).double(), torch.randn(rows, others, generator=random).double()


def zeros(count: int) -> Tensor:
    return torch.zeros(count).double()


def test_limit_a_all_other_items_once_is_the_full_softmax() -> None:
    logits = scores(5, 7)[1]
    targets = torch.tensor([0, 3, 6, 6, 1])
    positive = logits.gather(1, targets[:, None])[:, 0]
    hits = torch.arange(7)[None, :] == targets[:, None]
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    assert (sampled_softmax(positive, logits, log_q=zeros(7), hits=hits) - expected).abs().max() < 1e-12


@given(st.integers(1, 50), st.floats(-20, 20))
def test_limit_b_equal_scores_give_log_of_one_plus_k(others: int, level: float) -> None:
    loss = sampled_softmax(torch.full((3,), level).double(), torch.full((3, others), level).double(), log_q=zeros(others))
    assert loss.tolist() == pytest.approx([math.log(1 + others)] * 3)


@given(st.integers(1, 50))
def test_limit_c_log_q_of_log_k_gives_log_two(others: int) -> None:
    log_q = torch.full((others,), math.log(others)).double()
    assert sampled_softmax(zeros(2), torch.zeros(2, others).double(), log_q=log_q).tolist() == pytest.approx([math.log(2)] * 2)


@given(st.floats(-5, 5))
def test_limit_d_with_the_positive_corrected_alike_a_constant_changes_nothing(constant: float) -> None:
    positive, negative = scores(4, 6)
    log_q, own = torch.linspace(-2, 1, 6).double(), torch.linspace(-1, 0, 4).double()
    base = sampled_softmax(positive, negative, log_q=log_q, positive_log_q=own)
    moved = sampled_softmax(positive, negative, log_q=log_q + constant, positive_log_q=own + constant)
    assert (base - moved).abs().max() < 1e-12


@given(st.integers(0, 99))
def test_limit_e_scores_that_follow_the_draws_forget_them(seed: int) -> None:
    positive, _ = scores(3, 1, seed)
    log_q = -torch.rand(8, generator=torch.Generator().manual_seed(seed)).double() * 5
    level = 0.7
    q = log_q.exp() / log_q.exp().sum()
    loss = sampled_softmax(positive, (level + q.log()).expand(3, 8), log_q=q.log() + math.log(8))
    assert (loss - torch.log1p((level - positive).exp())).abs().max() < 1e-12


def test_a_positive_alone_has_neither_loss_nor_gradient() -> None:
    positive, negative = (part.requires_grad_() for part in scores(1, 3))
    loss = sampled_softmax(positive, negative, log_q=zeros(3), hits=torch.ones(1, 3, dtype=torch.bool)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0 and positive.grad is not None and negative.grad is not None
    assert float(positive.grad.abs().sum()) == 0 and float(negative.grad.abs().sum()) == 0


def test_the_gradient_is_right() -> None:
    positive, negative = (part.requires_grad_() for part in scores(3, 4))
    hits = torch.zeros(3, 4, dtype=torch.bool)
    hits[1, 2] = True
    log_q = torch.linspace(-1, 1, 4).double()
    assert torch.autograd.gradcheck(
        lambda p, n: sampled_softmax(p, n, log_q=log_q, positive_log_q=p.detach() * 0 + 0.3, hits=hits), (positive, negative)
    )


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_chunked_gradients_equal_the_whole_ones(chunk: int) -> None:
    """Two losses through one shared encoder, the temperature too, in float64: papers, 1.7."""
    random = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=random).double().requires_grad_() for shape in ((16, 5), (16, 5), (9, 5), ())]
    encode = torch.randn(5, 4, generator=random).double().requires_grad_()
    log_q = torch.randn(9, generator=random).double()
    hidden = torch.rand(16, 9, generator=random) < 0.2

    def contrasts() -> list[Contrast]:
        q, p, v = (torch.nn.functional.normalize(leaf @ encode, dim=1) for leaf in leaves[:3])
        temperature = leaves[3].exp()
        return [
            Contrast(q, p, v, temperature, log_q=log_q, hidden=hidden, positive_log_q=log_q[torch.arange(16) % 9]),
            Contrast(p, q, v, temperature, log_q=log_q, hidden=~hidden),
        ]

    first, second = contrasts()
    whole = first.mean() + 0.3 * second.mean()
    expected = torch.autograd.grad(whole, [*leaves, encode])
    carried = [chunked_gradients(contrast, chunk=chunk, weight=weight) for contrast, weight in zip(contrasts(), (1.0, 0.3), strict=True)]
    carry_on([part for _, parts in carried for part in parts])
    assert sum(value for value, _ in carried) == pytest.approx(float(whole.detach()), abs=1e-12)
    for leaf, gradient in zip([*leaves, encode], expected, strict=True):
        assert leaf.grad is not None and (leaf.grad - gradient).abs().max() < 1e-12


def test_nested_prefixes_are_asked_by_themselves_and_renormalised() -> None:
    unit = [torch.nn.functional.normalize(scores(rows, 4, rows)[1], dim=1) for rows in (5, 6, 7)]
    queries, positives, pool = unit[0], unit[1][:5], unit[2]
    contrast = Contrast(queries, positives, pool, torch.tensor(3.0), log_q=zeros(7), hidden=torch.zeros(5, 7, dtype=torch.bool))
    whole, *parts = nested(contrast, 0.5, (2, 3), 0.1)
    assert whole == (0.5, contrast) and [weight for weight, _ in parts] == [0.05, 0.05]
    for (_, part), width in zip(parts, (2, 3), strict=True):
        for name in ("queries", "positives", "pool"):
            cut = getattr(contrast, name)[:, :width]
            assert torch.allclose(getattr(part, name), cut / cut.norm(dim=1, keepdim=True))
        assert part.log_q is contrast.log_q and part.hidden is contrast.hidden and part.temperature is contrast.temperature
    assert nested(contrast, 0.5, (), 0.1) == [(0.5, contrast)]
