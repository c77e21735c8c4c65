"""The look-up: retrieve, exclude, blend, rank, explain. The function behind the HTTP route, and the one that is timed.

The catalogue is ranked whole as long as it has at most `candidates_max` items; beyond, the union of what each source
proposes. What the user has had and what is deleted is left out before anything is normalised.

    answer = Lookup(reader, live, progress).recommend("u1", k=10, now_ms=now_ms)
"""

import time
from collections.abc import Callable, Collection
from typing import Final

import numpy as np

from encoders.blend import Blend
from serving import sources
from serving.answers import Answer, Asked, NotFound, Ranked, Ranking, SimilarAnswer
from serving.features import lifts, log_shares, log_softmax
from serving.linear import NOTHING, LinearSource
from serving.live import LiveModel
from serving.neural import Aim, Space, aimed, neural
from serving.progress import Progress
from serving.sources import COUNTED, LINEAR, SOURCES, Context, Reader
from storage.arrays import Bools, F64s, I64s
from storage.ids import ITEM, hash_id

CANDIDATES_MAX: Final = 2000
NEW_ITEM_MS: Final = 86_400_000
COUNTING: Final = Blend(SOURCES, np.array([0.5, 0.5, 0.5, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0]))
"""Until a model with a fitted blend is live. The neural column is constant then, its weight is moot."""
UNFITTED: Final = Blend(SOURCES, np.array([0.5, 0.5, 0.5, 0.02, 0.02, 0.0, 0.4, 0.0, 0.0]))
"""Where the first fit begins. Beside EASE popularity need speak only where all others are silent. Linear, sessions and content weigh what
a training shows them to be worth. Chosen on the first fifth of MovieLens-100K, which is the prequential protocol's to choose by (ADR 0028).
"""
SIMILAR: Final = Blend(("neural", "neighbours"), np.array([1.0, 0.5]))
ANYTHING: Final = Asked()


class Lookup:
    """Answers on many threads at once. `live` is asked once per request; None means no model yet: counting answers alone."""

    def __init__(
        self, reader: Reader, live: Callable[[], LiveModel | None], progress: Progress, *, candidates_max: int = CANDIDATES_MAX,
    ) -> None:  # fmt: skip
        assert candidates_max >= len(SOURCES), "every source proposes at least one"
        self._reader, self.live, self._candidates_max = reader, live, candidates_max
        self.progress = progress

    def recommend(self, user_id: str, *, k: int = 10, now_ms: int, exclude_seen: bool = True, asked: Asked = ANYTHING) -> Answer:
        """The best k items for a user, now. Never one that is deleted, nor, with `exclude_seen`, one the user has had.

        In order: 1. wait for the asked append, bounded, 2. note as_of, 3. read the live model and the state, 4. rank.
        """
        begin = time.perf_counter_ns()
        if asked.min_number is not None:
            self.progress.wait(asked.min_number, timeout_s=asked.wait_ms / 1000)
        fresh = asked.min_number is None or self.progress.reached(asked.min_number)
        as_of, live = self.progress.as_of, self.live()
        context = self._reader.context(user_id, now_ms=now_ms)
        ranking = self.rank(context, live, k=k, exclude_seen=exclude_seen)
        return Answer(
            user_id=user_id,
            items=self._explained(ranking, live.blend if live else COUNTING, k),
            as_of=as_of,
            model=live.version if live else None,
            generation=live.generation if live else None,
            index=live.index_version if live else None,
            fresh=fresh,
            took_ms=(time.perf_counter_ns() - begin) / 1e6,
        )

    def context(self, user_id: str, *, now_ms: int) -> Context:
        """What is known of the user now; several rankings can be made of it."""
        return self._reader.context(user_id, now_ms=now_ms)

    def rank(self, context: Context, live: LiveModel | None, *, k: int | None = None, exclude_seen: bool = True) -> Ranking:
        """Candidates, features and blended scores, the best k first and the others behind in no order (all sorted: k=None).

        A source that the blend gives no weight is not asked for scores, whatever they cost: its column is then the same throughout.
        Ties by catalogue row. A `live` given here may be any version whose vectors are at hand: the gate compares two.
        """
        aim = aimed(context.history, live, now_ms=context.now_ms)
        linear, blend = (live.linear, live.blend) if live else (NOTHING, COUNTING)
        rows = self.candidates(context, aim, linear=linear, exclude_seen=exclude_seen)
        features = self.features(context, aim, rows, linear=linear, asked=blend.weighed)
        scores = blended(blend, features)
        order = _best_first(scores, rows, k)
        return Ranking(rows[order], features[order], scores[order])

    def candidates(self, context: Context, aim: Aim | None, *, linear: LinearSource = NOTHING, exclude_seen: bool = True) -> I64s:
        """Ascending catalogue rows that can be answered: all of a small catalogue, else what the sources propose."""
        allowed = context.live.copy()
        if exclude_seen:
            allowed[context.seen] = False
        if self.all_are_candidates(context):
            return np.flatnonzero(allowed)
        brought = LINEAR.stop - LINEAR.start
        share = self._candidates_max // (len(SOURCES) - (aim is None) - brought * (not linear))
        liked, hot = (rows[rows < len(allowed)] for rows in self._reader.popularity.top(share + len(context.seen)))
        proposed = [_best(context.heat.positives, liked, allowed, share), _best(context.heat.heat, hot, allowed, share)]
        masses = (
            sources.neighbours(context), sources.similar(context), sources.sessions(context), sources.content(context),
            sources.linear(context, linear), sources.ease(context, linear),
        )  # fmt: skip
        proposed.extend(_best(mass, np.flatnonzero(mass > 0), allowed, share) for mass in masses)
        if aim is not None:
            seen = self._reader.catalogue.ids[context.seen] if exclude_seen else None
            nearest = self._space(aim.live).nearest(aim.query, share, exclude=seen)
            nearest = nearest[nearest < len(allowed)]
            proposed.append(nearest[allowed[nearest]])
        return np.unique(np.concatenate(proposed))

    def all_are_candidates(self, context: Context) -> bool:
        """Whether the catalogue is so small that nothing needs to be retrieved: `candidates` then asks no model."""
        return len(context.live) <= self._candidates_max

    def features(
        self, context: Context, aim: Aim | None, rows: I64s, *, linear: LinearSource = NOTHING, asked: Collection[str] = SOURCES
    ) -> F64s:
        """(C, S) log-scores of candidate rows by `SOURCES`; aim and weights are of one version."""
        features = np.empty((len(SOURCES), len(rows)))
        features[0] = self.neural(aim, rows)
        features[1:] = self.counting(context, rows, neural=aim is not None, linear=linear, asked=asked)
        return features.T

    def neural(self, aim: Aim | None, rows: I64s) -> F64s:
        """The neural column alone (C,)."""
        return neural(aim, self._reader.catalogue, self._reader.index, rows)

    def linear(self, context: Context, rows: I64s, *, neural: bool, linear: LinearSource) -> F64s:
        """The columns that a version's linear weights make, `LINEAR` of `SOURCES`: (2, C)."""
        masses = np.stack([sources.linear(context, linear)[rows], sources.ease(context, linear)[rows]])
        self._average_newborn(context, rows, masses, neural=neural)
        return log_shares(masses)

    def counting(
        self, context: Context, rows: I64s, *, neural: bool, linear: LinearSource = NOTHING, asked: Collection[str] = SOURCES
    ) -> F64s:
        """The other columns (S - 1, C): from live counts, lists, sessions and contents, and a version's linear weights.

        Beside a neural column an item born within a day and not yet counted has the candidates' mean mass: counts have
        nothing to say of it, and it is for its content to be near the user or not.
        """
        masses = sources.counting(context, linear, rows, asked)
        self._average_newborn(context, rows, masses[: COUNTED.stop - COUNTED.start], neural=neural)
        return log_shares(masses)

    def _average_newborn(self, context: Context, rows: I64s, masses: F64s, *, neural: bool) -> None:
        """Write the mean of each row of masses (S, C) to the items that counts have nothing to say of, if something else has."""
        if not neural:
            return
        uncounted = np.flatnonzero(context.heat.events[rows] == 0)
        age_ms = context.now_ms - self._reader.catalogue.born_ms[rows[uncounted]]
        new = uncounted[(age_ms >= 0) & (age_ms < NEW_ITEM_MS)]
        if len(new):
            masses[:, new] = masses.mean(axis=1, keepdims=True)

    def similar(self, item_id: str, *, k: int = 10, now_ms: int) -> SimilarAnswer:
        """Items like this one, by vector and by neighbour list; a new item is there as soon as it has a vector. Raises `NotFound`."""
        begin = time.perf_counter_ns()
        as_of, live = self.progress.as_of, self.live()
        row = self._reader.catalogue.row(hash_id(item_id, ITEM))
        if row < 0 or self._reader.catalogue.deleted[row]:
            raise NotFound(f"item {item_id!r} is {'not known' if row < 0 else 'deleted'}")
        return SimilarAnswer(
            item_id=item_id,
            items=self._like(row, live, k=k, now_ms=now_ms),
            as_of=as_of,
            model=live.version if live else None,
            generation=live.generation if live else None,
            index=live.index_version if live else None,
            took_ms=(time.perf_counter_ns() - begin) / 1e6,
        )

    def _like(self, row: int, live: LiveModel | None, *, k: int, now_ms: int) -> list[Ranked]:
        allowed = self._reader.live()
        allowed[row] = False
        node = self._reader.catalogue.ids[row : row + 1]
        links = self._reader.links(node, now_ms=now_ms)
        heat = self._reader.popularity.snapshot(len(allowed))
        mass = np.bincount(links.rows, links.weights, minlength=len(allowed))[: len(allowed)] / np.sqrt(heat.events + sources.SMOOTHING)
        named = np.flatnonzero((mass > 0) & allowed)
        candidates, logits = named, np.zeros(len(named))
        vector, found = live.vectors.get(node) if live else (np.zeros((1, 1), np.float32), np.zeros(1, np.bool_))
        if live is not None and found[0]:
            nearest = self._space(live).nearest(vector[0], self._candidates_max // 2, exclude=node)
            nearest = nearest[nearest < len(allowed)]
            candidates = np.union1d(named, nearest[allowed[nearest]])
            logits = self._space(live).logits(vector[0], candidates)
        features = np.stack([log_softmax(logits), log_shares(mass[candidates])], axis=1)
        scores = SIMILAR.score(features)
        order = _best_first(scores, candidates, k)
        return self._explained(Ranking(candidates[order], features[order], scores[order]), SIMILAR, k)

    def _space(self, live: LiveModel) -> Space:
        return Space(live, self._reader.catalogue, self._reader.index)

    def _explained(self, ranking: Ranking, blend: Blend, k: int) -> list[Ranked]:
        columns = ranking.features if blend is SIMILAR else _named(blend, ranking.features)
        shares = lifts(columns, blend.weights, columns[:k]).tolist()
        top = ranking.rows[:k].tolist()
        name, titles = self._reader.catalogue.name, self._reader.catalogue.titles(top)
        return [
            Ranked(name(row), title, score, dict(zip(blend.sources, share, strict=True)))
            for row, title, score, share in zip(top, titles, ranking.scores[:k].tolist(), shares, strict=True)
        ]


def blended(blend: Blend, features: F64s) -> F64s:
    """The blend's scores (C,) of features in the order of `SOURCES`; sources a blend does not name do not count."""
    return blend.score(_named(blend, features))


def _named(blend: Blend, features: F64s) -> F64s:
    """The columns a blend weighs, in its order."""
    return features if blend.sources == SOURCES else features[:, [SOURCES.index(source) for source in blend.sources]]


def _best_first(scores: F64s, rows: I64s, k: int | None) -> I64s:
    """Positions by falling score, ties by row; beyond the first k in no order."""
    if k is None or k >= len(scores):
        return np.lexsort((rows, -scores))
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = scores >= threshold
    top = np.flatnonzero(above)
    return np.concatenate([top[np.lexsort((rows[top], -scores[top]))], np.flatnonzero(~above)])


def _best(values: F64s, rows: I64s, allowed: Bools, count: int) -> I64s:
    """The `count` allowed rows of the largest values, largest first."""
    rows = rows[allowed[rows]]
    return rows[np.argsort(-values[rows], kind="stable")][:count]
