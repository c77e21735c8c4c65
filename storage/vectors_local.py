"""Vectors through `qdrant-client`: its local mode as a test double, or a Qdrant server, by the client that is passed.

Not fast in local mode, and meant for at most 10,000 points there.

    vectors = LocalVectors("items-g1", 64)
    vectors = VectorServer(QdrantClient(url, prefer_grpc=True)).open(generation=1, dim=64)
"""

from typing import Any, Final, cast

import grpc  # type: ignore[import-untyped]  # it has none
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from storage.arrays import Bools, F32s, U64s
from storage.vectors import (
    best,
    check_batch,
    check_ids,
    check_revision,
    check_search,
    collection_of,
    generation_of,
    last_of_each,
    padded,
    parts,
)

_QUERIES_MAX: Final = 64
_SCORED_MAX: Final = 4096
_INDEXES: Final = {"rev": models.PayloadSchemaType.INTEGER, "deleted": models.PayloadSchemaType.BOOL}


class LocalVectors:
    """`Vectors` in one collection of a client. Every write waits until it is applied; the filter `rev < R` makes newer win.

    The condition covers a whole request and inserts unknown ids regardless, which is what is wanted while tombstones stay.
    A server's search is approximate once it has built an index, and its ties at rank k are open.
    """

    def __init__(self, collection: str, dim: int, *, client: QdrantClient | None = None) -> None:
        self.dim = dim
        self.collection = collection
        self._owned = client is None
        self._client = client or QdrantClient(":memory:")
        self._closed = False
        if not self._client.collection_exists(collection):
            self._create()
        self._check_dim()
        self._index()

    def upsert(self, ids: U64s, vectors: F32s, *, revision: int) -> None:
        """See `Vectors.upsert`."""
        check_revision(revision)
        ids, vectors = check_batch(ids, vectors, self.dim)
        for part in parts(len(ids)):
            self._write(ids[part], vectors[part], revision, deleted=False)

    def delete(self, ids: U64s, *, revision: int) -> None:
        """See `Vectors.delete`."""
        check_revision(revision)
        check_ids(ids)
        ids = ids[last_of_each(ids)]
        for part in parts(len(ids)):
            self._write(ids[part], np.zeros((len(ids[part]), self.dim), np.float32), revision, deleted=True)

    def get(self, ids: U64s) -> tuple[F32s, Bools]:
        """See `Vectors.get`."""
        vectors, found = np.zeros((len(ids), self.dim), np.float32), np.zeros(len(ids), np.bool_)
        positions: dict[int, list[int]] = {}
        for position, node in enumerate(ids.tolist()):
            positions.setdefault(node, []).append(position)
        wanted = list(positions)
        for part in parts(len(wanted)):
            for record in self._client.retrieve(self.collection, wanted[part], with_payload=["deleted"], with_vectors=True):
                if not (record.payload or {}).get("deleted"):
                    at = positions[cast(int, record.id)]
                    vectors[at], found[at] = np.array(record.vector, dtype=np.float32), True
        return vectors, found

    def rows(self, ids: U64s) -> F32s:
        """Rows (B, D) alone, zeros where there is none."""
        return self.get(ids)[0]

    def search(self, queries: F32s, k: int, *, exclude: U64s | None = None) -> tuple[U64s, F32s]:
        """See `Vectors.search`."""
        queries = check_search(queries, k, self.dim)
        hidden: list[models.Condition] = [_deleted()]
        if exclude is not None and len(exclude):
            hidden.append(models.HasIdCondition(has_id=list(exclude.tolist())))
        found: list[tuple[U64s, F32s]] = []
        for part in parts(len(queries), _QUERIES_MAX):
            shown = models.Filter(must_not=hidden)
            requests = [models.QueryRequest(query=query, filter=shown, limit=k) for query in queries[part].tolist()]
            for answer in self._client.query_batch_points(self.collection, requests):
                ids = np.array([point.id for point in answer.points], dtype=np.uint64)
                found.append(best(np.array([point.score for point in answer.points], dtype=np.float32), ids, k))
        return padded(found, k)

    def scores(self, query: F32s, ids: U64s) -> F32s:
        """The inner product of one query (D,) with each of these items (N,), -inf where there is none; the server multiplies."""
        query = check_search(query[None, :], 1, self.dim)[0]
        found: dict[int, float] = {}
        wanted = np.unique(ids)
        for part in parts(len(wanted), _SCORED_MAX):
            among = models.Filter(must=[models.HasIdCondition(has_id=list(wanted[part].tolist()))], must_not=[_deleted()])
            answer = self._client.query_points(
                self.collection, query.tolist(), query_filter=among, limit=len(wanted[part]), with_payload=False,
                search_params=models.SearchParams(exact=True) if _is_server(self._client) else None,
            )  # fmt: skip
            found.update((cast(int, point.id), point.score) for point in answer.points)
        return np.array([found.get(node, -np.inf) for node in ids.tolist()], dtype=np.float32)

    def revision_max(self) -> int:
        """See `Vectors.revision_max`; one indexed read."""
        highest = models.OrderBy(key="rev", direction=models.Direction.DESC)
        records, _ = self._client.scroll(self.collection, limit=1, order_by=highest, with_payload=["rev"])
        return int((records[0].payload or {})["rev"]) if records else 0

    def __len__(self) -> int:
        return self._client.count(self.collection, count_filter=models.Filter(must_not=[_deleted()]), exact=True).count

    def flush(self) -> None:
        """Nothing to do: writes wait, and a server has them in its write-ahead log when it answers."""

    def close(self) -> None:
        """Close the client if it was made here."""
        if self._owned and not self._closed:
            self._client.close()
        self._closed = True

    def _create(self) -> None:
        """Of several processes that find none, one makes it."""
        params = models.VectorParams(size=self.dim, distance=models.Distance.DOT)
        try:
            self._client.create_collection(self.collection, vectors_config=params)
        except (UnexpectedResponse, grpc.RpcError):
            if not self._client.collection_exists(self.collection):
                raise

    def _index(self) -> None:
        """Each time it is opened: who made it may have died before. To ask for what is there changes nothing."""
        if _is_server(self._client):
            for field, schema in _INDEXES.items():
                self._client.create_payload_index(self.collection, field, field_schema=schema, wait=True)

    def _check_dim(self) -> None:
        stored: Any = self._client.get_collection(self.collection).config.params.vectors  # a union over all of Qdrant's vector kinds
        if stored.size != self.dim:
            raise ValueError(f"{self.collection} holds vectors of {stored.size}, asked for {self.dim}: another dim is another generation")

    def _write(self, ids: U64s, vectors: F32s, revision: int, *, deleted: bool) -> None:
        payload = {"rev": revision, "deleted": deleted}
        rows = zip(ids.tolist(), vectors.tolist(), strict=True)
        points = [models.PointStruct(id=node, vector=row, payload=payload) for node, row in rows]
        newer = models.Filter(must=[models.FieldCondition(key="rev", range=models.Range(lt=float(revision)))])
        self._client.upsert(self.collection, points, wait=True, update_filter=newer)


class VectorServer:
    """`Collections` of one client, a collection per generation. Closing it leaves the client, which the caller made, open."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client

    def open(self, generation: int, dim: int) -> LocalVectors:
        """The generation's collection, made if need be. ValueError if it holds another width."""
        return LocalVectors(collection_of(generation), dim, client=self._client)

    def generations(self) -> list[int]:
        """Generations that have a collection, ascending."""
        numbers = (generation_of(known.name) for known in self._client.get_collections().collections)
        return sorted(number for number in numbers if number is not None)

    def drop(self, generation: int) -> None:
        """Remove a collection for good; one that is not there is fine."""
        self._client.delete_collection(collection_of(generation))

    def close(self) -> None:
        """Nothing is held here."""


def _deleted() -> models.FieldCondition:
    return models.FieldCondition(key="deleted", match=models.MatchValue(value=True))


def _is_server(client: QdrantClient) -> bool:
    """Local mode warns about payload indexes and parameters of a search, which it ignores."""
    made_with = client.init_options
    return made_with.get("location") != ":memory:" and made_with.get("path") is None
