# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The container recipe and the Kubernetes manifests: as far as they can be tried without a registry and a cluster.

The manifests are held against a schema of the fields that they use, written here after the Kubernetes API, which
knows no others: a misspelt field fails. What they start is then run with exactly their arguments and capabilities, by
the image's one file, where nothing can be written to but /run/acme-steer. The recipe's instructions are read, and
what they name must be there; test_static.py tries the file that it makes.
"""

import json
import os
import re
import secrets
import socket

import jsonschema
import pytest
import yaml

from documented import ROOT
from lab import BUILD, sh, wait_until
from servers import SMALL, get, openssl_responder, tls_client
from steer import BINARY

pytestmark = pytest.mark.needs_steer

MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
RECIPE = ROOT / "deploy" / "container" / "Containerfile"
NAME = "www.example.org"
# All that a pod may be given is in capability.h; of those, what is reasonable here.
CAPABILITIES = ["BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "SETUID", "SETGID", "SYS_CHROOT",
                "SETPCAP", "KILL", "CHOWN"]


def record(required, **properties):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


STRING = {"type": "string", "minLength": 1}
DNS_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
LABELS = {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"}}
METADATA = record(["name"], name=DNS_NAME, labels=LABELS)
CONTAINER = record(
    ["name", "image"], name=DNS_NAME, image=STRING, args={"type": "array", "items": STRING, "minItems": 1},
    ports={"type": "array", "items": record(
        ["containerPort"], name=DNS_NAME, containerPort={"type": "integer", "minimum": 1, "maximum": 65535},
        protocol={"enum": ["TCP", "UDP", "SCTP"]})},
    securityContext=record(
        [], runAsUser={"type": "integer", "minimum": 0}, allowPrivilegeEscalation={"type": "boolean"},
        readOnlyRootFilesystem={"type": "boolean"},
        capabilities=record(["drop", "add"], drop={"const": ["ALL"]},
                            add={"type": "array", "items": {"enum": CAPABILITIES}, "uniqueItems": True})),
    volumeMounts={"type": "array", "items": record(
        ["name", "mountPath"], name=DNS_NAME, mountPath={"type": "string", "pattern": "^/[^:]*$"},
        readOnly={"type": "boolean"})})
VOLUME = {"oneOf": [
    record(["name", "emptyDir"], name=DNS_NAME, emptyDir=record([], medium={"enum": ["", "Memory"]})),
    record(["name", "hostPath"], name=DNS_NAME, hostPath=record(
        ["path"], path=STRING, type={"enum": ["", "DirectoryOrCreate", "Directory", "File"]}))]}
POD = record(["containers"], hostNetwork={"type": "boolean"}, nodeSelector={
    "type": "object", "additionalProperties": {"type": "string"}},
    containers={"type": "array", "items": CONTAINER, "minItems": 1}, volumes={"type": "array", "items": VOLUME})
SCHEMA = {"oneOf": [
    record(["apiVersion", "kind", "metadata", "spec"], apiVersion={"const": "v1"}, kind={"const": "Pod"},
           metadata=METADATA, spec=POD),
    record(["apiVersion", "kind", "metadata", "spec"], apiVersion={"const": "apps/v1"}, kind={"const": "DaemonSet"},
           metadata=METADATA, spec=record(
               ["selector", "template"], selector=record(["matchLabels"], matchLabels=LABELS),
               template=record(["metadata", "spec"], metadata=record(["labels"], labels=LABELS), spec=POD)))]}


def load(path):
    return yaml.safe_load(path.read_text())


def pod(manifest):
    return manifest["spec"].get("template", manifest)["spec"] if manifest["kind"] != "Pod" else manifest["spec"]


def ours(manifest):
    container, = (c for c in pod(manifest)["containers"] if c["name"] == "acme-steer")
    return container


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest(path):
    manifest = load(path)
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(manifest, SCHEMA, cls=jsonschema.Draft7Validator)
    spec = pod(manifest)
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
    if manifest["kind"] == "DaemonSet":
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert ours(manifest)["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_schema_refuses():
    """What it is for: a field that there is not, a capability that nobody needs, a wrong type."""
    manifest = load(MANIFESTS[0])
    for change in (lambda m: pod(m).update(hostNetworking=True),
                   lambda m: ours(m)["securityContext"]["capabilities"]["add"].append("SYS_ADMIN"),
                   lambda m: ours(m).update(args="serve"),
                   lambda m: m.update(apiVersion="v2")):
        copy = load(MANIFESTS[0])
        change(copy)
        assert copy != manifest
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(copy, SCHEMA, cls=jsonschema.Draft7Validator)


@pytest.fixture
def start(lab, nginx):
    """A manifest's container: its arguments and capabilities, and no file system to write to but its volume."""
    started = []

    def run(path):
        context = ours(load(path))["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        capabilities = ",".join(["-all", *(f"+{name.lower()}" for name in context["capabilities"]["add"])])
        mount, = (mount["mountPath"] for mount in ours(load(path))["volumeMounts"])
        script = ('mount -o remount,ro,bind /; mkdir -p "$0" 2>/dev/null || test -d "$0"; mount -t tmpfs none "$0"; '
                  'exec setpriv --bounding-set "$1" --inh-caps=-all --no-new-privs -- "$2" $3')
        process = lab.edge.start("container", ["unshare", "--mount", "sh", "-ec", script, mount, capabilities,
                                               BUILD / "acme-steer-static", " ".join(ours(load(path))["args"])])
        started.append(process)
        socket_path = f"/proc/{process.pid}/root{mount}/{lab.edge.inode}.sock"
        wait_until(lambda: os.path.exists(socket_path) or not process.running(), what="it listens")
        assert process.running(), process.stderr()
        with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
            effective = int(re.search(r"^CapEff:\s*(\w+)", f.read(), re.M)[1], 16)
        # It has given up those that are only for the built-in responder's start.
        assert 0 < effective.bit_count() <= len(context["capabilities"]["add"])
        process.ask = lambda *lines: ask(socket_path, *lines)
        return process
    yield run
    for process in started:
        assert not process.running() or process.stop() == 0


def ask(path, *lines):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(("\n".join(lines) + "\n\n").encode())
        answer = b""
        while more := sock.recv(65536):
            answer += more
    assert answer.endswith(b"ok\n"), answer
    return answer.decode()


def test_sidecar(lab, nginx, start):
    """While somebody listens, he is asked; visitors are served all the time."""
    process = start(ROOT / "deploy" / "kubernetes" / "sidecar.yaml")
    responder = openssl_responder(lab.edge, 31443, [NAME], lab.dir)
    wait_until(lambda: '"armed:127.0.0.1:31443"' in process.ask("status"), what="the window is open")
    for address in (lab.edge.v4, lab.edge.v6):
        assert tls_client(lab.ca, address, NAME, "acme-tls/1").get("subject") == "CN = responder-31443"
        assert get(lab, address) == SMALL
    status = json.loads(process.ask("status").rsplit("ok", 1)[0])
    responder.stop()
    assert status["planes"]["handoff"]["available"] , status
    counters = status["counters"]
    assert counters["handed_off_web"] + counters["read_in_passing"] == 2, counters


def test_daemonset(lab, nginx, start):
    """The built-in responder has what it needs to give everything up."""
    process = start(ROOT / "deploy" / "kubernetes" / "daemonset.yaml")
    digest = secrets.token_bytes(32)
    process.ask("challenge-add", f"name={NAME}", f"digest={digest.hex()}")
    status = json.loads(process.ask("status").rsplit("ok", 1)[0])
    with open(f"/proc/{status['responder']['pid']}/status", encoding="ascii") as f:
        text = f.read()
    assert re.search(r"^CapEff:\s*0+$", text, re.M) and re.search(r"^Uid:\s*65534\s", text, re.M)
    for address in (lab.edge.v4, lab.edge.v6):
        out = lab.ca.run(BINARY, "probe", NAME, "--address", address, "--expect", digest.hex())
        assert "with the digest that is expected" in out
        assert get(lab, address) == SMALL


def test_recipe():
    """Its stages, and what it copies and runs: files and make targets that there are."""
    stages, known = [], {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT", "CMD"}
    text = RECIPE.read_text()
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        instruction, rest = line.split(" ", 1)
        assert instruction in known, line
        if instruction == "FROM":
            stages.append(rest.partition(" AS ")[2])
        if instruction == "COPY" and not rest.startswith("--from="):
            assert (ROOT / rest.split()[0]).exists(), line
        if instruction == "COPY" and rest.startswith("--from="):
            assert re.match(r"--from=(\w+)", rest)[1] in stages
        if instruction in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(word, str) for word in json.loads(rest))
    assert len(stages) == 2
    version, = re.findall(r"^VERSION +:= (\S+)$", (ROOT / "Makefile").read_text(), re.M)
    for page in (RECIPE, ROOT / "docs" / "containers.md", *MANIFESTS):
        named = re.findall(r"(?<![\w/.-])acme-steer:(\S+)|-t acme-steer( )", page.read_text())
        assert named and all(tag == version for tag, _none in named), (page, named)
    assert "make static" in text and re.search(r"^static:", (ROOT / "Makefile").read_text(), re.M)
    sh(ROOT / "tools" / "install-deps", "--list", "--build")
