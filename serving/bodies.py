"""Bodies to messages: what a producer posts, cut into the records that go to the log, unread beyond what cutting needs.

A message that is no event is passed on as it came: ingest makes it a dead letter, with its reason and bytes. Only a body
in which nothing can be told apart is refused here.

    body = cut(raw, content_type, what=Event); append_events(body.messages, body.form)
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from serving.problems import Problem
from storage.log import JSON, PACK, VALUE_BYTES_MAX

BODY_BYTES_MAX: Final = 8 << 20
MESSAGES_MAX: Final = 10_000
ARROW: Final = "application/vnd.apache.arrow.stream"
RAW: Final = "application/octet-stream"
"""One message as it is, whatever it is: how a file's bad line travels."""
LINES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_CONTINUATION: Final = b"\xff\xff\xff\xff"
_FORMS: Final = f"a JSON object, a JSON array, newline-delimited JSON ({min(LINES)}) or an Arrow pack ({ARROW})"
_elements: Final = msgspec.json.Decoder(list[msgspec.Raw])
_any: Final = msgspec.json.Decoder(msgspec.Raw)


@dataclass(frozen=True)
class Body:
    """Messages in order, their form in the log, and how many of them will be dead letters as far as can be told here."""

    messages: list[bytes]
    form: int
    malformed: int


def cut(raw: bytes, content_type: str, *, what: type[msgspec.Struct]) -> Body:
    """The messages of a body. `content_type` as the header has it; JSON of any layout is told by its look.

    Raises `Problem`: 400 nothing can be read, 413 too large, too many messages, or one above the log's bound.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == ARROW:
        return _pack(raw)
    if kind == RAW and raw:
        check_sizes([raw])
        return Body([raw], JSON, int(not _fits(raw, msgspec.json.Decoder(what))))
    text = raw.strip(b" \t\r\n")
    if not text:
        raise Problem(400, "the body is empty", value="", allowed=_FORMS, do="send at least one")
    messages = _lines(text) if kind in LINES else _json(text)
    if not messages:
        raise Problem(400, "the body holds nothing", value=_shown(text), allowed=_FORMS, do="send at least one")
    if len(messages) > MESSAGES_MAX:
        raise Problem(
            413, "too many in one body", value=len(messages), allowed=f"at most {MESSAGES_MAX}", do="send them in several requests"
        )
    check_sizes(messages)
    decoder = msgspec.json.Decoder(what)
    return Body(messages, JSON, sum(not _fits(message, decoder) for message in messages))


def check_sizes(messages: list[bytes]) -> None:
    """Raises `Problem` 413 naming the first message above the log's bound; nothing of the body is appended then."""
    for index, message in enumerate(messages):
        if len(message) > VALUE_BYTES_MAX:
            raise Problem(
                413, f"number {index} is too large, nothing was appended", value=len(message),
                allowed=f"at most {VALUE_BYTES_MAX} bytes each", do="shorten it, or split a pack",
            )  # fmt: skip


def _pack(raw: bytes) -> Body:
    if not raw.startswith(_CONTINUATION):
        raise Problem(
            400, "the body is not an Arrow IPC stream", value=_shown(raw), allowed="one record batch in the event schema",
            do="write it with pyarrow.ipc.new_stream, or send JSON as application/json",
        )  # fmt: skip
    check_sizes([raw])
    return Body([raw], PACK, 0)


def _json(text: bytes) -> list[bytes]:
    """One object, the elements of one array, or lines when there is more than one value."""
    try:
        if text[:1] == b"[":
            return [bytes(element) for element in _elements.decode(text)]
        if text[:1] == b"{":
            _any.decode(text)
            return [text]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if text[:1] == b"[" or b"\n" not in text:
            raise _unreadable(text, error) from error
    return _lines(text)


def _lines(text: bytes) -> list[bytes]:
    """Non-empty lines, as long as one of them at least is a JSON object."""
    messages = [line for line in (line.strip() for line in text.split(b"\n")) if line]
    if not any(line[:1] == b"{" and _reads(line) for line in messages):
        raise _unreadable(text, None)
    return messages


def _reads(line: bytes) -> bool:
    try:
        _any.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _fits(message: bytes, decoder: msgspec.json.Decoder[msgspec.Struct]) -> bool:
    try:
        decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _unreadable(text: bytes, error: Exception | None) -> Problem:
    why = f": {error}" if error else ", neither an object nor an array nor lines of objects"
    do = "nothing was appended; repair it and send it again"
    return Problem(400, f"the body is no JSON that could be read{why}", value=_shown(text), allowed=_FORMS, do=do)


def _shown(raw: bytes) -> str:
    return raw[:80].decode("utf-8", "replace")
