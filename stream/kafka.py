"""How Kafka is reached: addresses, security, the options every client of ours shares, and what is wrong when it is not reached.

kafka = Kafka("broker1:9092,broker2:9092", user="freshet", password="...", protocol="SASL_SSL")
KafkaConsumer(**kafka.consumer_options())
"""

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError, SaslAuthenticationFailedError

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
SESSION_MS: Final = 10_000
FETCH_BYTES_MAX: Final = 16 << 20
PARTITION_FETCH_BYTES_MAX: Final = 4 << 20
REQUEST_MS: Final = 15_000
DELIVERY_MS: Final = 20_000
"""A send that is not acknowledged by then has failed; the process that needed it ends."""
LOOK_S: Final = 2.0
"""How long one address is looked at to say why it does not answer."""

_WHO: Final = "are FRESHET_KAFKA_USER, FRESHET_KAFKA_PASSWORD and FRESHET_KAFKA_MECHANISM right?"


class KafkaUnreachable(RuntimeError):
    """No broker answers, or it refuses us; the message names the addresses and what to check."""


class _Hidden(str):
    """A password that clients can use and whose repr is none: kafka-python logs all its options at debug level."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


@dataclass(frozen=True)
class Kafka:
    """Where the brokers are and how we prove who we are. The password is in no repr."""

    bootstrap: str
    protocol: str = "PLAINTEXT"
    user: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = MECHANISMS[0]
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    prefix: str = ""
    """Before every topic's name, so that several installations share a cluster."""
    bootstrap_ms: int = 15_000
    """How long the first answer of a broker may take."""

    def __post_init__(self) -> None:
        for name, allowed in (("protocol", PROTOCOLS), ("mechanism", MECHANISMS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Kafka's {name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.protocol.startswith("SASL") and not (self.user and self.password):
            raise ValueError(f"{self.protocol} needs a user and a password (FRESHET_KAFKA_USER, FRESHET_KAFKA_PASSWORD)")
        if self.certificate is not None and self.key is None:
            raise ValueError("a certificate needs its key (FRESHET_KAFKA_KEY)")
        for name, path in (("ca", self.ca), ("certificate", self.certificate), ("key", self.key)):
            if path is not None and not path.is_file():
                raise ValueError(f"{path} is no file: set FRESHET_KAFKA_{name.upper()} to one")

    def options(self) -> dict[str, Any]:
        """What every client takes."""
        given: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "security_protocol": self.protocol,
            "request_timeout_ms": REQUEST_MS,
            "bootstrap_timeout_ms": self.bootstrap_ms,
            "reconnect_backoff_max_ms": 1000,
        }
        if self.protocol.startswith("SASL"):
            given |= {"sasl_mechanism": self.mechanism, "sasl_plain_username": self.user, "sasl_plain_password": _Hidden(self.password)}
        if self.protocol.endswith("SSL"):
            given |= {"ssl_cafile": _text(self.ca), "ssl_certfile": _text(self.certificate), "ssl_keyfile": _text(self.key)}
        return given

    def consumer_options(self, *, group: str | None = None) -> dict[str, Any]:
        """For a reader: never past an open transaction, never from anywhere but where it is told."""
        return self.options() | {
            "group_id": group,
            "metrics_enabled": False,
            "isolation_level": "read_committed",
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "allow_auto_create_topics": False,
            "fetch_max_bytes": FETCH_BYTES_MAX,
            "max_partition_fetch_bytes": PARTITION_FETCH_BYTES_MAX,
            "fetch_max_wait_ms": 50,
        }

    def producer_options(self) -> dict[str, Any]:
        """For a writer: acknowledged by all in-sync replicas, in order, retried without doubling while its session lives."""
        return self.options() | {
            "acks": "all",
            "metrics_enabled": False,
            "enable_idempotence": True,
            "max_in_flight_requests_per_connection": 5,
            "delivery_timeout_ms": DELIVERY_MS,
            "max_block_ms": DELIVERY_MS,  # for a topic's metadata, asked for with the first record
            "max_request_size": 2 << 20,
            "allow_auto_create_topics": False,
        }

    def ssl_context(self) -> ssl.SSLContext:
        """The same trust and identity for clients that take a context."""
        context = ssl.create_default_context(cafile=_text(self.ca))
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def topic(self, name: str) -> str:
        """The topic's name on the cluster."""
        return self.prefix + name


def unreachable(kafka: Kafka, error: KafkaError) -> KafkaUnreachable:
    """Kafka's error as ours: where, what, and what to do; never the password.

    kafka-python tells a refused password, an unknown authority and a broker that is away alike, as a time-out, so the addresses
    are looked at once more: at most LOOK_S each, without a word of ours but a TLS greeting.
    """
    where = f"Kafka at {kafka.bootstrap} ({kafka.protocol})"
    if isinstance(error, SaslAuthenticationFailedError):
        return KafkaUnreachable(f"{where} refuses user {kafka.user!r}: {_WHO}")
    if isinstance(error, AuthorizationError):
        return KafkaUnreachable(f"{where} denies user {kafka.user!r} what it asked for ({error}): give it the permissions it needs")
    if isinstance(error, KafkaTimeoutError):
        return KafkaUnreachable(f"{where} did not answer in time ({error}): {what_is_wrong(kafka)}")
    return KafkaUnreachable(f"{where}: {type(error).__name__} {error}")


def what_is_wrong(kafka: Kafka) -> str:
    """Why the first address that listens does not let us in, as far as it can be seen from outside, and what to do."""
    for address in kafka.bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_S) as opened:
                return _seen(kafka, host, opened)
        except (OSError, ValueError):
            continue
    return "is it up, is the address right (FRESHET_KAFKA)?"


def _seen(kafka: Kafka, host: str, opened: socket.socket) -> str:
    """What a connection that was opened shows."""
    if not kafka.protocol.endswith("SSL"):
        if _speaks_tls(opened):
            return "it speaks TLS: set FRESHET_KAFKA_PROTOCOL to SASL_SSL, or SSL, and FRESHET_KAFKA_CA"
        return f"it listens, but lets nobody in so: {_WHO if kafka.user else 'is FRESHET_KAFKA_PROTOCOL right?'}"
    try:
        with kafka.ssl_context().wrap_socket(opened, server_hostname=host) as secured:
            if not kafka.protocol.startswith("SASL"):
                return _seen_after_greeting(secured)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted ({error.verify_message}): is FRESHET_KAFKA_CA the authority that signed it?"
    except OSError:
        return "it does not speak TLS, or not with us: is FRESHET_KAFKA_PROTOCOL right?"
    return f"its certificate is trusted, but it lets nobody in so: {_WHO}"


def _seen_after_greeting(secured: ssl.SSLSocket) -> str:
    """With TLS 1.3 a broker that wants a certificate of ours says so after its own greeting."""
    asks = "does it ask for a user (FRESHET_KAFKA_PROTOCOL=SASL_SSL)?"
    secured.settimeout(LOOK_S / 4)
    try:
        secured.recv(1)
    except ssl.SSLError as error:
        return f"it refuses our certificate ({error.reason}): are FRESHET_KAFKA_CERTIFICATE and FRESHET_KAFKA_KEY right?"
    except OSError:
        pass
    return asks


def _speaks_tls(opened: socket.socket) -> bool:
    """Whether it answers a TLS greeting. Nothing is trusted, and nothing is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(opened):
            return True
    except OSError:
        return False


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
