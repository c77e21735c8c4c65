"""Objectives: plain functions of scores, and the one way to run them that keeps memory small.

loss = sampled_softmax(positive, negative, log_q=pool.log_q, hits=hits)
value, parts = chunked_gradients(contrast, chunk=512); carry_on(parts)      # same gradients, a chunk of logits alive at a time
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

HIDDEN = -1e9  # finite, so that a row without any negative has loss 0 and gradient 0, not NaN


def sampled_softmax(
    positive: Float[Tensor, " B"],
    negative: Float[Tensor, "B K"],
    *,
    log_q: Tensor,
    positive_log_q: Tensor | None = None,
    hits: Bool[Tensor, "B K"] | None = None,
) -> Float[Tensor, " B"]:
    """Cross-entropy of each item taken against K others, corrected for how those were drawn. One value a row; callers take the mean.

    loss_b = log( e^{s+} + Σ_k e^{s_k} ) - s+,  s+ = positive - positive_log_q,  s_k = negative - log_q, without the k in `hits`

    Scores are raw logits; log_q, (K,) or (B, K), is the log of each negative's expected number of draws; `hits` marks accidental ones (the
    item taken itself) and whatever else is no candidate. The correction of the positive is the caller's switch: its own log_q (`same_q`),
    log C(p, q) / C(q) (`conditional`), or none at all (`none`).
    Source: OmniSage, papers 1.3; the switch: papers 2.3.
    """
    taken = positive if positive_log_q is None else positive - positive_log_q
    others = negative - log_q
    if hits is not None:
        others = others.masked_fill(hits, HIDDEN)
    return functional.softplus(others.logsumexp(dim=1) - taken)


@dataclass(frozen=True)
class Contrast:
    """R questions against a shared pool: queries (R, D), positives (R, D), pool (K, D), all unit rows; temperature ().

    log_q (K,), positive_log_q (R,) or None: see `sampled_softmax`. hidden (R, K) bool marks what is no candidate: a byte a cell, where
    logits and their gradients take a dozen.
    """

    queries: Tensor
    positives: Tensor
    pool: Tensor
    temperature: Tensor
    log_q: Tensor
    hidden: Tensor
    positive_log_q: Tensor | None = None

    def rows(self, start: int, stop: int) -> Float[Tensor, " R"]:
        """Losses of these rows."""
        queries = self.queries[start:stop]
        corrected = None if self.positive_log_q is None else self.positive_log_q[start:stop]
        return sampled_softmax(
            self.temperature * (queries * self.positives[start:stop]).sum(dim=1),
            self.temperature * (queries @ self.pool.T),
            log_q=self.log_q,
            positive_log_q=corrected,
            hits=self.hidden[start:stop],
        )

    def mean(self) -> Float[Tensor, ""]:
        """The mean over all rows at once: all R x K logits stay alive until backward."""
        return self.rows(0, len(self.queries)).mean()


def nested(contrast: Contrast, weight: float, widths: Sequence[int], width_weight: float) -> list[tuple[float, Contrast]]:
    """The contrast by its weight, and the same asked of each prefix, renormalised, at `width_weight` of it.

    So that a prefix ranks by itself (Matryoshka). Source: OmniSearchSage, papers 2.2; wider ones than the vector are the caller's mistake.
    """
    found = [(weight, contrast)]
    for width in widths:
        queries, positives, pool = (
            functional.normalize(part[:, :width], dim=-1) for part in (contrast.queries, contrast.positives, contrast.pool)
        )
        found.append((width_weight * weight, replace(contrast, queries=queries, positives=positives, pool=pool)))
    return found


def chunked_gradients(contrast: Contrast, *, chunk: int, weight: float = 1.0) -> tuple[float, list[tuple[Tensor, Tensor]]]:
    """The loss `weight * contrast.mean()`, and (tensor, its gradient) for each of the four tensors that needs one.

    With the logits of `chunk` rows alive at a time and no graph over them: 1 each chunk's softmax is its own gradient but for what was
    taken, so logits are exponentiated once and in place; 2 `carry_on` takes the gradients of queries, positives, pool and temperature on
    into whatever made them, for all losses of a step at once. Source: papers 1.4, CHUNKED SOFTMAX; the gradient is that of `mean` (tested).
    """
    rows, total = len(contrast.queries), 0.0
    of_queries, of_positives, of_pool = (torch.zeros_like(part) for part in (contrast.queries, contrast.positives, contrast.pool))
    of_temperature = torch.zeros_like(contrast.temperature)
    with torch.no_grad():
        for start in range(0, rows, chunk):
            part = slice(start, min(start + chunk, rows))
            queries, positives = contrast.temperature * contrast.queries[part], contrast.positives[part]
            taken = (queries * positives).sum(dim=1)
            if contrast.positive_log_q is not None:
                taken = taken - contrast.positive_log_q[part]
            shares = torch.addmm(-contrast.log_q, queries, contrast.pool.T).masked_fill_(contrast.hidden[part], HIDDEN)
            top = torch.maximum(shares.amax(dim=1), taken) if shares.shape[1] else taken
            shares.sub_(top[:, None]).exp_()
            whole = shares.sum(dim=1) + (taken - top).exp()
            total += float((whole.log() + top - taken).sum())
            shares.mul_((weight / rows / whole)[:, None])
            missing = ((taken - top).exp() / whole - 1.0)[:, None] * (weight / rows)  # what the positive's share lacks of 1
            moved = shares @ contrast.pool + missing * positives
            of_queries[part] = contrast.temperature * moved
            of_positives[part] = missing * queries
            of_pool.addmm_(shares.T, queries)
            of_temperature += (moved * contrast.queries[part]).sum()
    whole_parts = (contrast.queries, of_queries), (contrast.positives, of_positives), (contrast.pool, of_pool)
    made = (*whole_parts, (contrast.temperature, of_temperature))
    return total * weight / rows, [(tensor, gradient) for tensor, gradient in made if tensor.requires_grad]


def carry_on(parts: list[tuple[Tensor, Tensor]]) -> None:
    """Step 3, for one or several losses: one backward pass through the shared encoders."""
    torch.autograd.backward([made for made, _ in parts], [gradient for _, gradient in parts])
