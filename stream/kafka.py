"""How Kafka is reached: addresses, security, and the options every client of ours shares.

kafka = Kafka("broker1:9092,broker2:9092", user="freshet", password=SecretStr("..."), protocol="SASL_SSL")
KafkaConsumer(**kafka.consumer_options())
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
SESSION_MS: Final = 10_000
FETCH_BYTES_MAX: Final = 16 << 20
PARTITION_FETCH_BYTES_MAX: Final = 4 << 20
REQUEST_MS: Final = 15_000
DELIVERY_MS: Final = 20_000
"""A send that is not acknowledged by then has failed; the process that needed it ends."""


class KafkaUnreachable(RuntimeError):
    """No broker answers, or it refuses us; the message names the addresses and what to check."""


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
            raise ValueError(f"{self.protocol} needs a user and a password")

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
            given |= {"sasl_mechanism": self.mechanism, "sasl_plain_username": self.user, "sasl_plain_password": self.password}
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


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
