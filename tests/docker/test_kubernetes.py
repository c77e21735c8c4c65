"""The manifests against Kubernetes' published schemas, and what a schema does not know."""

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from freshet.settings import Settings
from stream.app import STOP_S
from tests.docker.reading import DOCKER, documents

KUBERNETES = "1.33"
FILES = sorted(path.name for path in (DOCKER / "kubernetes").iterdir())
MANIFESTS = [document for name in FILES for document in documents(f"kubernetes/{name}")]
CUSTOM = {"ScaledObject"}
"""KEDA's, of which Kubernetes knows nothing."""


def of(kind: str) -> dict[str, dict[str, Any]]:
    """The manifests of a kind by name."""
    return {document["metadata"]["name"]: document for document in MANIFESTS if document["kind"] == kind}


def pods() -> list[Any]:
    """Every pod's specification."""
    made = of("Deployment") | of("Job")
    return [pytest.param(made[name]["spec"]["template"]["spec"], id=name) for name in sorted(made)]


@pytest.mark.parametrize("document", MANIFESTS, ids=lambda document: f"{document['kind']}-{document['metadata']['name']}")
def test_a_manifest_is_what_kubernetes_asks_for(document: dict[str, Any]) -> None:
    if document["kind"] not in CUSTOM:
        assert kubernetes_validate.validate(document, KUBERNETES, strict=True) == KUBERNETES
    assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "freshet"


def test_everything_that_runs_is_there() -> None:
    assert set(of("Deployment")) == {"freshet-worker", "freshet-trainer", "freshet-refresher", "freshet-api"}
    assert set(of("PodDisruptionBudget")) == set(of("Deployment")) - {"freshet-trainer"}
    assert set(of("Job")) == {"freshet-topics"} and set(of("Service")) == {"freshet-api"}


@pytest.mark.parametrize("pod", pods())
def test_a_pod_may_do_little_and_is_not_given_names_that_are_no_settings(pod: dict[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} == set(container["resources"]["requests"]) and "memory" in container["resources"]["limits"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
    assert {"/tmp", "/var/cache/freshet"} <= set(mounted.values()), "what must be writable on a read-only root"


@pytest.mark.parametrize("name", sorted(of("Deployment")))
def test_a_process_is_probed_on_a_port_it_opens(name: str) -> None:
    made = of("Deployment")[name]["spec"]
    labels = made["template"]["metadata"]["labels"]
    assert made["selector"]["matchLabels"].items() <= labels.items() and labels["app.kubernetes.io/name"] == name
    (container,) = made["template"]["spec"]["containers"]
    (port,) = container["ports"]
    default = Settings()
    assert port["containerPort"] == (default.port if name == "freshet-api" else default.page_port)
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", None)):
        asked = container[probe]["httpGet"]
        assert asked["port"] == port["name"] and asked["path"] == (path or ("/readyz" if name == "freshet-api" else "/healthz"))
    assert made["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert container["args"] == [name.removeprefix("freshet-")]
    assert made["template"]["spec"]["terminationGracePeriodSeconds"] > STOP_S


def test_what_is_told_to_pods_are_settings_and_secrets_are_only_a_template() -> None:
    config, secret = of("ConfigMap")["freshet"]["data"], of("Secret")["freshet"]["stringData"]
    known = {f"FRESHET_{name.upper()}" for name in Settings.model_fields}
    assert set(config) | set(secret) <= known and not set(config) & set(secret)
    assert not any(secret.values()) and {"FRESHET_REDIS_PASSWORD", "FRESHET_KAFKA_PASSWORD", "FRESHET_QDRANT_KEY"} <= set(secret)
    assert not [
        document for name in FILES if name.endswith(".yaml") for document in documents(f"kubernetes/{name}") if document["kind"] == "Secret"
    ]


def test_the_worker_is_scaled_by_lag_and_never_beyond_its_partitions() -> None:
    ((_, scaled),) = of("ScaledObject").items()
    spec = scaled["spec"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1" and spec["scaleTargetRef"] == {"name": "freshet-worker"}
    assert "replicas" not in of("Deployment")["freshet-worker"]["spec"], "a count here would undo the scaler's at each apply"
    partitions = int(of("ConfigMap")["freshet"]["data"]["FRESHET_PARTITIONS"])
    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"] == partitions
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus" and "freshet_worker_lag_records" in trigger["metadata"]["query"]
    assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold", "ignoreNullValues"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA's metadata are strings"
    assert float(trigger["metadata"]["threshold"]) > 0


def test_the_api_is_scaled_by_cpu_alone() -> None:
    spec = of("HorizontalPodAutoscaler")["freshet-api"]["spec"]
    assert spec["scaleTargetRef"]["name"] == "freshet-api" and [metric["resource"]["name"] for metric in spec["metrics"]] == ["cpu"]
    assert "replicas" not in of("Deployment")["freshet-api"]["spec"]


def test_selectors_select() -> None:
    names = set(of("Deployment"))
    chosen = [made["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] for made in of("PodDisruptionBudget").values()]
    assert set(chosen) <= names and of("Service")["freshet-api"]["spec"]["selector"] == {"app.kubernetes.io/name": "freshet-api"}
