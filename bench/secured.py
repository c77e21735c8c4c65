"""The same services with an authority of their own, TLS, users and permissions: for tests of what an operator sets up.

Nothing is spoken in clear but between Kafka's broker and its own controller. Certificates are for the loopback address.

    authority = Authority(folder / "authority")
    with SecuredKafka(folder / "kafka", authority, users={"worker": secret}) as kafka: kafka.as_user("worker")
    with SecuredRedis(folder / "redis", authority, users={"freshet": (secret, "~freshet:* +@read")}) as redis: redis.url
"""

import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from bench.services import LOOPBACK, KafkaServer, RedisServer, ServiceUnavailable, free_port
from stream.kafka import Kafka

ADMIN: Final = "admin"
MECHANISM: Final = "SCRAM-SHA-512"
_OPENSSL: Final = f"""
[req]
distinguished_name = name
prompt = no
[name]
CN = freshet test authority
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[issued]
basicConstraints = CA:FALSE
subjectAltName = IP:{LOOPBACK},DNS:localhost
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    def both(self) -> Path:
        """Key and certificate in one file, as Kafka reads them."""
        path = self.key.with_suffix(".both.pem")
        path.write_text(self.key.read_text() + self.certificate.read_text())
        return path


class Authority:
    """Signs certificates for a month. `ca` is what clients trust. Raises `ServiceUnavailable` without the openssl command."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise ServiceUnavailable("openssl is not installed: apt-get install openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._settings = folder, folder / "openssl.cnf"
        self._settings.write_text(_OPENSSL)
        self.ca, self._key = folder / "ca.pem", folder / "ca.key"
        self._run("req", "-x509", *self._new(self._key), "-extensions", "authority", "-days", "30", "-out", str(self.ca))

    def issue(self, name: str) -> Identity:
        """A new identity, for either side of a connection; `name` is its common name."""
        made = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request = str(self._folder / f"{name}.csr")
        self._run("req", *self._new(made.key), "-subj", f"/CN={name}", "-out", request)
        signing = ("-CA", str(self.ca), "-CAkey", str(self._key), "-CAcreateserial")
        extensions = ("-extfile", str(self._settings), "-extensions", "issued")
        self._run("x509", "-req", "-in", request, *signing, *extensions, "-days", "30", "-out", str(made.certificate))
        return made

    def _new(self, key: Path) -> list[str]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        return ["-config", str(self._settings), *curve, "-keyout", str(key)]

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServiceUnavailable(f"openssl {arguments[0]} failed: {done.stderr[-1000:]}")


class SecuredKafka(KafkaServer):
    """One broker with two listeners: SASL_SSL (SCRAM-SHA-512), and SSL that asks for a certificate. Who has no ACL may do nothing."""

    def __init__(self, folder: Path, authority: Authority, *, users: Mapping[str, str]) -> None:
        self._authority, self._identity = authority, authority.issue("kafka")
        self._passwords = {ADMIN: secrets.token_hex(12), **users}
        self._mutual = free_port()
        super().__init__(folder)

    @property
    def mutual(self) -> str:
        """host:port of the listener that asks for a certificate."""
        return f"{LOOPBACK}:{self._mutual}"

    def as_user(self, name: str, *, prefix: str = "") -> Kafka:
        """How this user reaches it."""
        return Kafka(
            self.bootstrap, protocol="SASL_SSL", user=name, password=self._passwords[name], mechanism=MECHANISM, ca=self._authority.ca,
            prefix=prefix,
        )  # fmt: skip

    def client_options(self) -> dict[str, Any]:
        """As its own administrator."""
        return {name: value for name, value in self.as_user(ADMIN).options().items() if name != "bootstrap_timeout_ms"}

    def _security(self) -> dict[str, str]:
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        login = f'{module} required username="{ADMIN}" password="{self._passwords[ADMIN]}";'
        return {
            **self._listeners({"SASL_SSL": self.port, "SSL": self._mutual}),
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": MECHANISM,
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            f"listener.name.sasl_ssl.{MECHANISM.lower()}.sasl.jaas.config": login,
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._identity.both()),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._authority.ca),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:ANONYMOUS",  # the controller's listener knows no names
            "allow.everyone.if.no.acl.found": "false",
        }

    def _users(self) -> Sequence[str]:
        added: list[str] = []
        for name, password in self._passwords.items():
            added += ["--add-scram", f"{MECHANISM}=[name={name},password={password}]"]
        return added


class SecuredRedis(RedisServer):
    """Speaks TLS alone; the default user is off. `users` are name → (password, ACL rules); an administrator is added."""

    def __init__(self, folder: Path, authority: Authority, *, users: Mapping[str, tuple[str, str]], options: Sequence[str] = ()) -> None:
        super().__init__(folder, options=options)
        self._authority, self._identity = authority, authority.issue(f"redis-{self.port}")
        self._password = secrets.token_hex(12)
        lines = ["user default off", f"user {ADMIN} on >{self._password} ~* &* +@all"]
        lines += [f"user {name} on >{password} {rules}" for name, (password, rules) in users.items()]
        self._acl = folder / "users.acl"
        self._acl.write_text("".join(f"{line}\n" for line in lines))

    @property
    def url(self) -> str:
        """rediss://host:port."""
        return f"rediss://{LOOPBACK}:{self.port}"

    def client(self) -> "redis.Redis":
        """As its own administrator."""
        return redis.Redis.from_url(self.url, username=ADMIN, password=self._password, ssl_ca_certs=str(self._authority.ca))

    def _command(self) -> Sequence[str]:
        return [
            *super()._command(), "--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(self._identity.certificate),
            "--tls-key-file", str(self._identity.key), "--tls-ca-cert-file", str(self._authority.ca), "--tls-auth-clients", "no",
            "--tls-cluster", "yes", "--aclfile", str(self._acl),
        ]  # fmt: skip
