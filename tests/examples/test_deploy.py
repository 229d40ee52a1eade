"""The files in examples/deploy/ can be parsed, and name options and keys that exist."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from pressure.cli import COMMANDS
from pressure.executor.cli import main as worker
from pressure.keys import DEFAULT_PREFIX, Keys

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "examples" / "deploy"
UNIT = DEPLOY / "pressure-worker@.service"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


def documents(name: str) -> list[Any]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))


def options(command: click.Command) -> set[str]:
    return {opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")}


def check_worker(words: list[str]) -> None:
    """These arguments are accepted by `pressure-worker`."""
    context = click.Context(worker)
    worker.make_parser(context).parse_args(list(words))


def seconds(words: list[str]) -> float:
    """The grace time among a worker's arguments."""
    text = " ".join(words).replace("=", " ")
    found = re.search(r"--grace (\d+)", text)
    assert found is not None
    return float(found[1])


def test_the_unit() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(UNIT)
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/pressure-worker")
    check_worker(words)
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > seconds(words)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    # Program and user are those of the machine that it is meant for.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"^User=.*\n", "", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=30
    )
    # What it thinks of the machine that this runs on is none of our business.
    assert not [line for line in done.stderr.splitlines() if UNIT.name in line]


def test_the_image() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    commands: dict[str, list[str]] = {}
    for line in lines:
        word, _, rest = line.partition(" ")
        if word in ("ENTRYPOINT", "CMD"):
            commands[word] = json.loads(rest)
        elif word == "HEALTHCHECK":
            commands[word] = json.loads(rest.partition("CMD ")[2])
    assert commands["ENTRYPOINT"] == ["pressure-worker"]
    check_worker(commands["CMD"])
    assert commands["HEALTHCHECK"] == ["pressure-worker", "--check"]


def test_compose() -> None:
    (compose,) = documents("compose.yaml")
    service = compose["services"]["worker"]
    check_worker(service["command"])
    assert int(service["stop_grace_period"].removesuffix("s")) > seconds(service["command"])
    assert service["healthcheck"]["test"] == ["CMD", "pressure-worker", "--check"]
    command = compose["services"]["valkey"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_kubernetes() -> None:
    (deployment,) = documents("kubernetes.yaml")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    check_worker(container["args"])
    assert spec["terminationGracePeriodSeconds"] > seconds(container["args"])
    for probe in ("startupProbe", "livenessProbe"):
        command = container[probe]["exec"]["command"]
        assert command == ["pressure-worker", "--check"]
        check_worker(command[1:])
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert {one["name"] for one in container["env"]} == {"PRESSURE_URL", "PRESSURE_KEY"}


def test_keda_looks_at_the_queue_that_the_deployment_serves() -> None:
    (deployment,) = documents("kubernetes.yaml")
    scaled, authentication = documents("keda.yaml")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (trigger,) = scaled["spec"]["triggers"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (queue,) = (word[8:] for word in container["args"] if word.startswith("--queue="))
    base = Keys(DEFAULT_PREFIX, queue, hash_tag=queue).base.decode()
    assert (trigger["type"], trigger["metadata"]["listName"]) == ("redis", base)
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]


def test_the_document_names_what_there_is() -> None:
    """Commands, options and metrics in docs/operations.md exist."""
    groups = {command.name: command for command in COMMANDS}
    for name, more in re.findall(r"`pressure (\w+)(?: (\w+))?", OPERATIONS):
        assert name in groups
        group = groups[name]
        if isinstance(group, click.Group):
            assert not more or more in group.commands
    known = options(worker).union(*map(options, _commands()))
    wanted = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", OPERATIONS))
    assert wanted - known <= {"--help", "--now"}
    source = (ROOT / "pressure" / "executor" / "supervision" / "metrics.py").read_text("utf-8")
    for metric in re.findall(r"`(pressure_[a-z_]+)`", OPERATIONS):
        stem = re.sub(r"^pressure_(queue_)?|_total$", "", metric)
        assert f'"{stem}"' in source or f"pressure_{stem}" in source or f"_{stem}" in source, metric


def _commands() -> list[click.Command]:
    found: list[click.Command] = []
    for command in COMMANDS:
        found += command.commands.values() if isinstance(command, click.Group) else [command]
    return found
