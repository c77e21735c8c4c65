"""Where things are and how large they may grow: every setting, from the environment (FRESHET_...) or the command line.

What the model is lives beside the model; what shapes the state lives in `stream/shape.py`.
"""

import os
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "FRESHET_"
TESTS_OWN: Final = "FRESHET_TEST_"
"""Names real services to test with; no setting."""


class Settings(BaseSettings):
    """One instance per process, made by the command line and handed down."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid")

    data: Path = Field(Path("data"), description="folder that holds log, state, archive, vectors and models")
    host: str = Field("127.0.0.1", description="address the server listens on; loopback unless told otherwise")
    port: int = Field(8080, ge=1, le=65535, description="port the server listens on")
    partitions: int = Field(1, ge=1, le=4096, description="partitions of the embedded log; fixed once data is there")
    log_bytes_max: int = Field(8 << 30, ge=1 << 20, description="bound of the embedded log; at it appends are refused (HTTP 507)")
    state_bytes_max: int = Field(64 << 30, ge=1 << 20, description="bound of the embedded state's map")
    batch_records_max: int = Field(1024, ge=1, le=65536, description="records applied in one commit at most")
    refresh_items_max: int = Field(32, ge=1, le=4096, description="items looked at in one refresh step")
    train_events_min: int = Field(2000, ge=100, description="new events before the trainer wakes")
    train_interval_s: float = Field(30.0, ge=0, description="seconds between two trainings at least")
    trunk_every: int = Field(4, ge=1, description="every so many-th training retrains the trunk: a new generation")
    train_seconds_max: float = Field(120.0, ge=1, description="time one training may take, gate not counted")
    train_events_max: int = Field(
        2_000_000, ge=10_000, description="events a training looks at; of more, the older ones are those of a sample of users"
    )
    train_threads: int = Field(1, ge=1, le=256, description="threads of a training: more where nobody is served on the same cores")
    train_device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="what trains: cpu, cuda, or auto, which takes CUDA where it is")
    train_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of a trunk's matrix products while it learns: float32, or bfloat16, which is for CUDA"
    )
    online_per_s: float = Field(
        5.0, ge=0, le=1000, description="events ranked just before they are applied: to measure, to weigh sources, to see drift"
    )
    shadow_share: float = Field(0.05, ge=0, le=1, description="share of look-ups that a candidate ranks too before it goes live")
    kafka: str = Field("", description="brokers of the cluster form, host:port,host:port; empty: the embedded form")
    kafka_prefix: str = Field("", max_length=100, pattern=r"^[A-Za-z0-9._-]*$", description="before every topic's name")
    kafka_group: str = Field("freshet", min_length=1, description="consumer group of the workers")
    kafka_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="how brokers are spoken to")
    kafka_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        "SCRAM-SHA-512", description="how a SASL user proves itself"
    )
    kafka_user: str = Field("", description="SASL user")
    kafka_password: SecretStr = Field(SecretStr(""), description="SASL password")
    kafka_ca: Path | None = Field(None, description="certificate authority the brokers' certificates are checked with")
    kafka_certificate: Path | None = Field(None, description="our certificate, where brokers ask for one")
    kafka_key: Path | None = Field(None, description="the key of our certificate")
    redis: str = Field("redis://127.0.0.1:6379", description="the cluster form's state: redis:// or rediss:// (TLS), without a password")
    redis_cluster: bool = Field(False, description="whether that is a node of a Redis Cluster")
    redis_prefix: str = Field("freshet", min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$", description="before every key")
    redis_user: str = Field("", description="ACL user")
    redis_password: SecretStr = Field(SecretStr(""), description="its password")
    redis_ca: Path | None = Field(None, description="certificate authority the server's certificate is checked with")
    qdrant: str = Field("", description="Qdrant server, http(s)://host:port; empty: the api process keeps its vectors in its data folder")
    qdrant_key: SecretStr = Field(SecretStr(""), description="Qdrant's API key")
    store: str = Field("", description="where the cluster's archive and weights lie: a shared folder, s3://, gs://; empty: `data`")
    archive_s: float = Field(
        60.0, ge=1, description="seconds after which what a worker has applied is written to the archive at the latest"
    )
    page_port: int = Field(6066, ge=1, le=65535, description="port of the page of a worker, trainer or refresher: /healthz, /metrics")
    versions_max: int = Field(5, ge=1, description="model versions kept beside the live one and its predecessor")

    @model_validator(mode="after")
    def _every_name_in_the_environment_is_known(self) -> Self:
        """A misspelt variable would be passed over in silence otherwise."""
        ours = [name for name in os.environ if name.upper().startswith(PREFIX) and not name.upper().startswith(TESTS_OWN)]
        unknown = sorted(name for name in ours if name.upper().removeprefix(PREFIX).lower() not in type(self).model_fields)
        if unknown:
            known = ", ".join(PREFIX + name.upper() for name in type(self).model_fields)
            raise ValueError(f"no such setting: {', '.join(unknown)} (there are {known})")
        return self
