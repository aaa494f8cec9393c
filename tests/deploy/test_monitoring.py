"""What deploy/ tells Prometheus and Grafana, with a real Prometheus where there is one: apt-get install prometheus."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from serving import Server, encoded, free_port, picture
from streams import ONE, ask, eventually, open_stream

from app.errors import PoseError

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/pose.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
ALERTS = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
PART = re.compile("_(bucket|sum|count)$")


def metrics_of(query: str) -> set[str]:
    """The service's metrics that a query names, without the parts of a histogram."""
    return {PART.sub("", name) for name in re.findall(r"\bpose_\w+", query)}


def every(kind: type[PoseError]) -> Iterator[type[PoseError]]:
    """`kind` and all that derive from it."""
    yield kind
    for derived in kind.__subclasses__():
        yield from every(derived)


def tool(name: str) -> str:
    """The path of a program of Prometheus's; skips where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here: apt-get install prometheus")
    return path


@contextmanager
def prometheus(server: Server, folder: Path) -> Iterator[httpx.Client]:
    """Prometheus with deploy/'s configuration, asking `server` every half second; a client of its API."""
    program, config = tool("prometheus"), yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [server.url.removeprefix("http://")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
    with subprocess.Popen([program, *options], cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(
                base_url=f"http://{address}/api/v1", transport=httpx.HTTPTransport(retries=12), timeout=60
            ) as client:
                assert eventually(lambda: client.get(f"http://{address}/-/ready").status_code == 200)
                yield client
        finally:
            process.terminate()


def result(client: httpx.Client, query: str) -> list[Any]:
    """What Prometheus answers to a panel's query, Grafana's variables filled in."""
    filled = query.replace("$instance", ".*").replace("$__rate_interval", "1m")
    content = client.get("/query", params={"query": filled}).json()
    assert content["status"] == "success", f"{filled}: {content.get('error')}"
    found: list[Any] = content["data"]["result"]
    return found


def test_dashboard_and_alerts_name_only_metrics_that_the_service_has(server: Server) -> None:
    lines = server.client.get("/metrics").text.splitlines()
    there = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    gpu = {"pose_gpu_utilization_ratio", "pose_gpu_memory_used_bytes", "pose_gpu_memory_bytes"}
    named = {name for _, query in QUERIES for name in metrics_of(query)}
    assert named == {name for name in there if name.startswith("pose_") and not name.endswith("_created")} | gpu
    assert {name for alert in ALERTS for name in metrics_of(alert["expr"])} <= there


def test_queries_ask_for_labels_that_the_service_gives(server: Server) -> None:
    """A name that is no longer given would leave a panel empty, and an alert silent, for ever."""
    given = {
        "reason": {error.reason for error in every(PoseError)} | {"sessions", "client_sessions"},
        "code": {"200", *(str(error.status) for error in every(PoseError))},
        "endpoint": set(server.app.openapi()["paths"]),
        "model": {*server.app.state.pipeline.networks, "place"},
    }
    asked = [query for _, query in QUERIES] + [alert["expr"] for alert in ALERTS]
    found = [match for query in asked for match in re.findall(r'(\w+)=~?"([^"$]+)"', query) if match[0] != "job"]
    assert len(found) > 5
    assert [(label, value) for label, values in found for value in values.split("|") if value not in given[label]] == []


def test_every_panel_shows_what_happened(server: Server, tmp_path: Path) -> None:
    with prometheus(server, tmp_path) as client:
        assert eventually(lambda: bool(result(client, "pose_build_info")))
        image = encoded(picture(boxes=((20, 20, 44, 70),)))

        def empty() -> list[str]:
            """Panels with nothing to show, once more has happened."""
            assert server.client.post("/pose", content=image).status_code == 200
            assert server.client.post("/pose", content=b"no picture").status_code == 415
            with open_stream(server) as stream:
                assert ask(stream, ONE)["people"]
            return [title for title, query in QUERIES if "gpu" not in query and not result(client, query)]

        assert eventually(lambda: not empty()), f"nothing to see in {empty()}"
        assert float(result(client, dict(QUERIES)["Requests by status"])[0]["value"][1]) > 0
        rules = client.get("/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["name"]: rule["health"] for rule in rules} == {alert["alert"]: "ok" for alert in ALERTS}


def test_alerts_ring_when_they_should() -> None:
    run = subprocess.run(
        [tool("promtool"), "test", "rules", "alerts_test.yml"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    cases = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())["tests"][0]["alert_rule_test"]
    assert {case["alertname"] for case in cases} == {alert["alert"] for alert in ALERTS}


def test_panels_do_not_lie_over_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert x < 24 and taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_what_compose_mounts_is_there_and_where_grafana_looks() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    volumes = [volume for service in services.values() for volume in service.get("volumes", [])]
    mounts = dict(volume.split(":")[:2] for volume in volumes if volume.startswith("./"))
    assert all((ROOT / host).exists() for host in mounts)
    shown = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/pose.yml").read_text())["providers"][0]
    assert Path(shown).parent == Path(provider["options"]["path"]) == Path(mounts["./deploy/grafana/dashboards"])
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])} == {
        source["uid"]
    }
    asked = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    assert asked == ["pose:8000"] and services["pose"]["ports"] == ["8000:8000"]
