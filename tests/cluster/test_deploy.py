"""The files that start clusters: against Ray's own schema, by their structure, and the same versions everywhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from cluster.doctor.checks import GIB, SHM_SHARE
from cluster.doctor.gather import PACKAGES, parse_pins
from cluster.submit import is_secret

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "cluster/deploy"
PINS = parse_pins((ROOT / "constraints.txt").read_text())
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text())  # type: ignore[no-any-return]


def spec_of(name: str) -> dict[str, Any]:
    """The RayClusterSpec of a manifest."""
    spec = load(name)["spec"]
    return spec["rayClusterSpec"] if name == "rayjob.yaml" else spec  # type: ignore[no-any-return]


def pods(name: str) -> list[tuple[str, dict[str, Any]]]:
    spec = spec_of(name)
    groups = [("head", spec["headGroupSpec"]), *((g["groupName"], g) for g in spec["workerGroupSpecs"])]
    return [(group, content["template"]["spec"]) for group, content in groups]


def test_autoscaler_yaml_keeps_to_rays_schema() -> None:
    config = load("aws.yaml")
    jsonschema.validate(config, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):  # the schema is one that refuses
        jsonschema.validate({**config, "max_worker": 1}, SCHEMA)


def test_autoscaler_nodes_are_the_ones_it_names() -> None:
    config = load("aws.yaml")
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    (worker,) = (content for name, content in types.items() if name != config["head_node_type"])
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert worker["max_workers"] <= config["max_workers"]
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert command == "ray stop" or "RAY_AUTH_MODE=token" in command
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_manifest_structure(name: str) -> None:
    assert load(name)["apiVersion"] == "ray.io/v1"
    spec = spec_of(name)
    assert spec["authOptions"] == {"mode": "token"}
    head = spec["headGroupSpec"]["rayStartParams"]
    assert head["num-cpus"] == head["num-gpus"] == "0"
    for _, pod in pods(name):
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert {"readinessProbe", "livenessProbe"} <= container.keys()
        assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_workers_have_gpus_and_stand_spot_nodes(name: str) -> None:
    (group,) = spec_of(name)["workerGroupSpecs"]
    (_, pod) = pods(name)[1]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == group["rayStartParams"]["num-gpus"] == "1"
    assert {"nvidia.com/gpu", "spot"} <= {toleration["key"] for toleration in pod["tolerations"]}
    assert pod["terminationGracePeriodSeconds"] < 120
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * GIB
    (shm,) = (volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi")) * GIB >= SHM_SHARE * memory


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_secrets_are_named_never_written(name: str) -> None:
    for _, pod in pods(name):
        for variable in pod["containers"][0]["env"]:
            if is_secret(variable["name"], ""):
                assert "value" not in variable and "secretKeyRef" in variable["valueFrom"]
        assert any("secret" in volume for volume in pod["volumes"])
    secrets = [
        {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume} for _, pod in pods(name)
    ]
    assert secrets == [{"orthoplex-aws", "orthoplex-signing"}, {"orthoplex-aws"}]  # only the driver signs
    text = (DEPLOY / name).read_text()
    assert not re.search(r"AKIA|-----BEGIN|kind: Secret", text)


def test_a_retried_rayjob_goes_on() -> None:
    job = load("rayjob.yaml")["spec"]
    assert job["backoffLimit"] > 0 and job["entrypointNumCpus"] == job["entrypointNumGpus"] == 0
    words = job["entrypoint"].split()
    assert words[:4] == ["python", "-m", "orchestrator", "run"] and (ROOT / words[4]).is_file()
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    assert settings["name"] and "$" not in settings["name"]  # nothing that differs from one attempt to the next
    assert settings["store"].startswith("s3://")
    environment = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
    assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) > 3


def images() -> Iterator[str]:
    for name in ("raycluster.yaml", "rayjob.yaml"):
        yield from (pod["containers"][0]["image"] for _, pod in pods(name))
    yield load("aws.yaml")["docker"]["image"]
    yield re.search(r"-t (\S+)", (DEPLOY / "Dockerfile").read_text())[1]  # type: ignore[index]


def test_one_image_one_ray() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]  # type: ignore[index]
    assert set(images()) == {f"REGISTRY/orthoplex:{version}-ray{PINS['ray']}"}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"ARG RAY_VERSION={PINS['ray']}\n" in dockerfile
    assert "FROM rayproject/ray:${RAY_VERSION}-py311-" in dockerfile
    for name in ("raycluster.yaml", "rayjob.yaml"):
        assert spec_of(name)["rayVersion"] == PINS["ray"] == ray.__version__


def test_what_the_image_copies_exists() -> None:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY --chown"):  # and not out of an earlier stage
            *sources, _ = line.split()[2:]
            assert all((ROOT / source).exists() for source in sources), line


def test_doctor_knows_pins_of_all_it_compares() -> None:
    assert set(PACKAGES) <= PINS.keys()
