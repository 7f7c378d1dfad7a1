"""The Helm chart, rendered by Helm's own library and checked against Kubernetes' schemas; no cluster is needed."""

import json
import re
import tomllib

import pytest
import yaml
from dagster import DagsterRun
from dagster._config import process_config
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job
from kubernetes.client import ApiClient

from cache_pipeline.cli.main import cli
from cache_pipeline.settings import Settings
from cache_pipeline_tests.deploy.rules import REPOSITORY

helm = pytest.importorskip("helm_python", reason="no wheel of helm-python-sdk for this platform")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

CHART = REPOSITORY / "deploy/helm"
VERSIONS = ("1.29", "1.33")
EVERYTHING = {
    "image": {"repository": "registry.example.com/cache-pipeline", "tag": "1", "pullSecrets": ["registry"]},
    "existingSecret": "accounts",
    "settings": {"CACHE_PIPELINE_TENANT": "north", "CACHE_PIPELINE_API__MAX_ROWS": 1000},
    "reports": {"queue_day.yaml": "name: queue_day\ndescription: 'quoted: {{ yes }}'\n"},
    "dataClaim": "shared",
    "worker": {"autoscaling": {"enabled": True}},
    "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"zone": "inside"}}}]},
}


def rendered(values, name="demo"):
    """Return the manifests of a release as `{(kind, name): manifest}`."""
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name=name, namespace="figures")
    manifests = [each for path, text in files.items() if path.endswith(".yaml") for each in yaml.safe_load_all(text)]
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests if each}


def pods(manifests):
    return {name: each["spec"]["template"]["spec"] for (kind, name), each in manifests.items() if kind == "Deployment"}


def run_job(instance, folder):
    """Return the Kubernetes job that Dagster's launcher makes of a run, with the chart's settings."""
    evaluated = process_config(K8sRunLauncher.config_type(), instance["run_launcher"]["config"])
    assert evaluated.success, evaluated.errors
    # The launcher connects only when it launches.
    cluster = {"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}
    context = {"name": "none", "context": {"cluster": "none", "user": "none"}}
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "clusters": [cluster],
                "contexts": [context],
                "users": [{"name": "none", "user": {}}],
                "current-context": "none",
            }
        )
    )
    here = {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
    launcher = K8sRunLauncher(**{**evaluated.value, **here})
    container = K8sContainerContext.create_for_run(DagsterRun("queue_day"), launcher, include_run_tags=False)
    job = construct_dagster_k8s_job(
        container.get_k8s_job_config(job_image=None, run_launcher=launcher),
        ["dagster", "api", "execute_run"],
        "dagster-run-1",
        user_defined_k8s_config=container.run_k8s_config,
    )
    return ApiClient().sanitize_for_serialization(job)


def test_chart_passes_lint():
    outcome = helm.lint(str(CHART))
    assert [each for each in outcome["messages"] if each["severity"] > 1] == []
    assert outcome["errors"] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_manifests_match_kubernetes_schemas(values, version):
    manifests = rendered(values)
    kinds = {kind for kind, _ in manifests}
    assert kinds >= {
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
    }
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_long_release_names_stay_valid():
    for _, name in rendered({}, name="a" * 53):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= 63


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_pods_are_confined(values):
    for pod in pods(rendered(values)).values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert {"startupProbe", "livenessProbe"} <= container.keys()
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_only_dagster_may_create_jobs():
    tokens = {name: pod["automountServiceAccountToken"] for name, pod in pods(rendered({})).items()}
    assert tokens == {
        "demo-api": False,
        "demo-worker": False,
        "demo-dagster-daemon": True,
        "demo-dagster-webserver": True,
    }


def test_commands_routes_and_settings_exist():
    manifests = rendered(EVERYTHING)
    containers = {name: pod["containers"][0] for name, pod in pods(manifests).items()}
    ours = {each["args"][1] for each in containers.values() if each["args"][0] == "cache-pipeline"}
    assert ours == {"api", "worker"} <= set(cli.short_helps())
    assert containers["demo-api"]["readinessProbe"]["httpGet"]["path"] == "/readyz"
    named = manifests["ConfigMap", "demo-settings"]["data"]
    known = {f"CACHE_PIPELINE_{name.upper()}" for name in Settings.model_fields}
    assert {name.partition("__")[0] for name in named if name.startswith("CACHE_PIPELINE_")} <= known
    probe = containers["demo-worker"]["livenessProbe"]["exec"]["command"][-1]
    assert named["CACHE_PIPELINE_JOBS__ALIVE_FILE"] in probe


def test_secrets_are_named_not_rendered():
    for pod in pods(rendered(EVERYTHING)).values():
        assert {"secretRef": {"name": "accounts"}} in pod["containers"][0]["envFrom"]
    assert not [kind for kind, _ in rendered(EVERYTHING) if kind == "Secret"]


def test_reports_arrive_as_written():
    manifests = rendered(EVERYTHING)
    assert manifests["ConfigMap", "demo-reports"]["data"] == EVERYTHING["reports"]
    mounts = pods(manifests)["demo-worker"]["containers"][0]["volumeMounts"]
    assert {"name": "reports", "mountPath": "/srv/cache_pipeline/reports"} in mounts


def test_changed_settings_restart_the_pods():
    def checksum(values):
        deployment = rendered(values)["Deployment", "demo-api"]
        return deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum({}) != checksum({"settings": {"CACHE_PIPELINE_TENANT": "north"}})


def test_workers_scale_on_jobs_waiting():
    manifests = rendered(EVERYTHING)
    assert "replicas" not in manifests["Deployment", "demo-worker"]["spec"]
    (metric,) = manifests["HorizontalPodAutoscaler", "demo-worker"]["spec"]["metrics"]
    # A test compares these names with what /metrics exposes.
    datadog = yaml.safe_load((REPOSITORY / "deploy/datadog/openmetrics.yaml").read_text())
    exposed = {name for each in datadog["instances"][0]["metrics"] for name in each}
    assert metric["external"]["metric"]["name"] in exposed


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_dagster_launches_runs_as_confined_jobs(values, tmp_path):
    manifests = rendered(values)
    instance = yaml.safe_load(manifests["ConfigMap", "demo-instance"]["data"]["dagster.yaml"])
    own = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    assert own.keys() | {"run_launcher"} == instance.keys()
    job = run_job(instance, tmp_path)
    kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
    pod, api = job["spec"]["template"]["spec"], pods(manifests)["demo-api"]
    (container,), (other,) = pod["containers"], api["containers"]
    assert container["image"] == other["image"]
    assert container["envFrom"] == other["envFrom"]
    assert (pod["securityContext"], container["securityContext"]) == (
        api["securityContext"],
        other["securityContext"],
    )
    paths = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert paths == {mount["mountPath"] for mount in other["volumeMounts"]}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"api": {"replicas": "two"}}, "/api/replicas"),
        ({"worker": {"replicas": 0}}, "/worker/replicas"),
        ({"apii": {}}, "apii"),
        ({"settings": {"PASSWORD": "x"}}, "PASSWORD"),
        ({"reports": {"../queue.yaml": "name: x"}}, "../queue.yaml"),
        ({"existingSecret": ""}, "/existingSecret"),
    ],
    ids=lambda each: json.dumps(each) if isinstance(each, dict) else "",
)
def test_wrong_values_are_refused_by_name(values, named):
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmError) as refused:
        chart.render(values, name="demo", namespace="figures")
    assert named in str(refused.value)


def test_chart_and_package_have_one_version():
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {package}
