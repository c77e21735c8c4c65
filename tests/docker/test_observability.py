"""Prometheus and Grafana: promtool accepts the files, alerts fire when they should, every metric named is somebody's."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from serving.metrics import Metrics as ServingMetrics
from stream.metrics import Metrics as WorkerMetrics
from stream.topics import TOPICS
from stream.watching import Progress
from tests.docker.reading import DOCKER, documents, program

RULES = [rule for group in documents("prometheus/alerts.yml")[0]["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana" / "dashboards" / "freshet.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]

PROMISED = {
    "freshet_trainer_trainings_total", "freshet_trainer_seconds_bucket", "freshet_refresh_delay_seconds_bucket",
    "freshet_refresh_items_total", "freshet_dirty_items",
}  # fmt: skip
"""Of the trainer's and the refresher's page."""
OF_OTHERS = {
    "up", "process_cpu_seconds_total", "process_resident_memory_bytes",
    "redis_up", "redis_memory_used_bytes", "redis_memory_max_bytes", "redis_commands_processed_total", "redis_aof_last_write_status",
    "kafka_brokers", "kafka_topic_partitions", "kafka_topic_partition_current_offset",
}  # fmt: skip
"""Of Prometheus itself, of Python's client, of redis_exporter and of kafka-exporter."""
LABELS_AFTER = re.compile(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)")
NO_METRIC = {"and", "or", "unless"}


def named(expression: str) -> set[str]:
    """The metrics a query names: words that are neither functions, labels, durations nor operators."""
    plain = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", LABELS_AFTER.sub(" ", expression))
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", plain)) - NO_METRIC


def known() -> set[str]:
    """Every sample and family that our processes give."""
    found = set(PROMISED)
    for metrics in (ServingMetrics(), WorkerMetrics(Progress(0), clock_ms=lambda: 0)):
        for family in metrics.registry.collect():
            found |= {family.name} | {family.name + ending for ending in ("_total", "_bucket", "_sum", "_count") if family.type != "gauge"}
    return found


def test_a_query_is_taken_apart() -> None:
    query = 'max by (topic) (changes(freshet_a[5m])) == 0 and sum(rate(b_total{reason="c"}[$__rate_interval])) / scalar(d) > 0.01'
    assert named(query) == {"freshet_a", "b_total", "d"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    metrics = named(rule["expr"])
    assert metrics and metrics <= known() | OF_OTHERS, f"nobody gives {metrics - known() - OF_OTHERS}"
    assert rule["labels"]["severity"] in ("page", "ticket") and rule["alert"].startswith("Freshet")
    assert len(rule["annotations"]["summary"]) > 10 and len(rule["annotations"]["do"]) > 10


def test_panels_name_metrics_that_exist() -> None:
    assert len(TARGETS) > 25
    unknown = {target["expr"]: named(target["expr"]) - known() - OF_OTHERS for target in TARGETS}
    assert not {query: metrics for query, metrics in unknown.items() if metrics}


def test_every_metric_of_the_worker_is_shown_or_watched() -> None:
    used = {metric for query in [rule["expr"] for rule in RULES] + [target["expr"] for target in TARGETS] for metric in named(query)}
    stems = {re.sub(r"_(total|bucket|sum|count)$", "", metric) for metric in used}
    families = {family.name for family in WorkerMetrics(Progress(0), clock_ms=lambda: 0).registry.collect()}
    assert {name for name in families if name.startswith("freshet_")} <= stems


def test_promtool_accepts_rules_and_configuration() -> None:
    promtool = program("promtool", "prometheus")
    for what, name in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        checked = subprocess.run([promtool, "check", what, name], cwd=DOCKER / "prometheus", capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


STANDS, HELD, DUE = 'freshet_worker_lag_records{topic="events",partition="3"}', "freshet_worker_partitions", "kafka_topic_partitions"


@pytest.mark.parametrize(
    ("alert", "series", "minutes", "fires"),
    [
        ("FreshetNoWorker", {}, 5, True),
        ("FreshetNoWorker", {f'{HELD}{{topic="events"}}': "6x40"}, 5, False),
        ("FreshetPartitionsUnclaimed", {f'{HELD}{{topic="events"}}': "11x40", f'{DUE}{{topic="events"}}': "12x40"}, 8, True),
        ("FreshetPartitionsUnclaimed", {f'{HELD}{{topic="events"}}': "12x40", f'{DUE}{{topic="events"}}': "12x40"}, 8, False),
        ("FreshetWatermarkStandsStill", {STANDS: "7x40", STANDS.replace("lag_records", "watermark_offset"): "50x40"}, 9, True),
        ("FreshetWatermarkStandsStill", {STANDS: "7x40", STANDS.replace("lag_records", "watermark_offset"): "50+9x40"}, 9, False),
        ("FreshetWatermarkStandsStill", {STANDS: "0x40", STANDS.replace("lag_records", "watermark_offset"): "50x40"}, 9, False),
        ("FreshetWorkerStuck", {"freshet_worker_stuck_seconds": "90x40"}, 2, True),
        ("FreshetServiceAway", {'freshet_worker_service_away{service="kafka"}': "1x40"}, 3, True),
        ("FreshetLagGrows", {STANDS: "20000+500x60"}, 30, True),
        ("FreshetLagGrows", {STANDS: "90000-500x60"}, 30, False),
        ("FreshetRetentionHalfUsed", {'freshet_worker_behind_seconds{topic="events",partition="3"}': "302401x40"}, 2, True),
        (
            "FreshetDeadLetters",
            {"freshet_worker_events_total": "0+900x60", 'freshet_worker_dead_letters_total{reason="x"}': "0+20x60"},
            25,
            True,
        ),
        (
            "FreshetDeadLetters",
            {"freshet_worker_events_total": "0+900x60", 'freshet_worker_dead_letters_total{reason="x"}': "0+1x60"},
            25,
            False,
        ),
        ("FreshetMisrouted", {'freshet_worker_dead_letters_total{reason="misrouted"}': "0+1x60"}, 25, True),
        ("FreshetNoLiveModel", {}, 65, True),
        ("FreshetNoLiveModel", {'freshet_model_info{version="g1-1"}': "1x90"}, 65, False),
        ("FreshetTrainingsFail", {'freshet_trainer_trainings_total{outcome="failed"}': "0+1x60"}, 30, True),
        ("FreshetRedisMemory", {"redis_memory_used_bytes": "85x40", "redis_memory_max_bytes": "100x40"}, 8, True),
        ("FreshetRedisMemory", {"redis_memory_used_bytes": "85x40", "redis_memory_max_bytes": "0x40"}, 8, False),
        ("FreshetTargetDown", {'up{job="api"}': "0x40"}, 4, True),
    ],
)
def test_an_alert_fires_when_it_should(alert: str, series: dict[str, str], minutes: int, fires: bool, tmp_path: Path) -> None:
    """By promtool, a sample a minute. It compares labels and texts too, so the answer is asked for by what it prints."""
    promtool = program("promtool", "prometheus")
    fired = {"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": []}
    inputs = [
        {"series": name, "values": values if "+" in values or "-" in values else values.replace("x", "+0x")}
        for name, values in series.items()
    ]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": [fired]}
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(DOCKER / "prometheus" / "alerts.yml")], "tests": [test]}))
    tested = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    said = tested.stdout + tested.stderr
    assert (tested.returncode != 0) is fires, said
    assert not fires or f'alertname="{alert}"' in said.split("got:")[-1], said


def test_half_of_the_retention_is_half_of_what_topics_are_made_with() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "FreshetRetentionHalfUsed"]
    kept = {topic.retention_ms for topic in TOPICS if topic.name in ("events", "edges")}
    assert kept == {2 * 1000 * int(rule["expr"].rsplit(">", 1)[1])}


def test_scraped_names_and_mounted_folders_are_those_of_the_compose_file() -> None:
    services = documents("compose.yaml")[0]["services"]
    jobs = documents("prometheus/prometheus.yml")[0]["scrape_configs"]
    for job in jobs:
        for found in job.get("dns_sd_configs", []):
            assert set(found["names"]) <= set(services)
        for static in job.get("static_configs", []):
            assert {target.split(":")[0] for target in static["targets"]} <= set(services)
    provider = documents("grafana/provisioning/dashboards/freshet.yaml")[0]["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{provider}:ro" in services["grafana"]["volumes"]


def test_the_dashboard_asks_the_data_source_that_is_provisioned_and_panels_do_not_overlap() -> None:
    (source,) = documents("grafana/provisioning/datasources/prometheus.yaml")[0]["datasources"]
    assert {target["datasource"]["uid"] for target in TARGETS} == {source["uid"]}
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
