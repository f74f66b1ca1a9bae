"""Where a command runs, what cannot be submitted, and the launcher files that are accepted; no cluster is started."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from lth_trainable.errors import UserError
from sweeps.lth_grid import main
from sweeps.running.cluster import Cluster, fitting
from sweeps.running.progress import Board, line
from sweeps.running.resources import Resources
from sweeps.running.submit import Target, Where, check_launcher_file, check_submittable, where_of, without
from tests.support.command import ROOT, free_ports

pytest.importorskip("aiohttp", reason="for the cluster extra")

SMALL = ["digits", "--controls", "none", "--epochs", "1", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "1"]
FILE = str(ROOT / "cluster.yaml")


def test_trials_fit_on_a_node_by_cores_and_by_parts_of_gpus() -> None:
    node = {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}
    assert fitting(node, Resources(cpus=3)) == 2
    assert fitting(node, Resources(cpus=1, gpus=0.25)) == 8
    assert fitting(node, Resources(cpus=1, gpus=1)) == 2
    assert fitting({"memory": 1e9}, Resources()) == fitting({"CPU": 4.0}, Resources(gpus=0.5)) == 0


def test_the_plain_line_shows_the_cluster() -> None:
    assert line(Board(planned=1, cluster="3 nodes, 2/4 GPUs")).endswith("3 nodes, 2/4 GPUs")
    assert "node" not in line(Board(planned=1))


@pytest.mark.parametrize(
    ("options", "ray_address", "where"),
    [
        ({}, "127.0.0.1:6379", Where.LOCAL),
        ({"cluster": Path("c.yaml")}, "127.0.0.1:6379", Where.CONNECT),
        ({"cluster": Path("c.yaml")}, "http://head:8265", Where.SUBMIT),
        ({"cluster": Path("c.yaml")}, None, Where.SUBMIT),
        ({"address": "auto"}, None, Where.CONNECT),
        ({"address": "10.0.0.1:6379"}, None, Where.CONNECT),
        ({"address": "http://head:8265"}, "127.0.0.1:6379", Where.SUBMIT),
        ({"address": "http://head:8265", "cluster": Path("c.yaml")}, None, Where.SUBMIT),
    ],
)
def test_where_a_command_runs(
    options: dict[str, Any], ray_address: str | None, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.running.submit.address_of_local_node", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if ray_address is not None:
        monkeypatch.setenv("RAY_ADDRESS", ray_address)
    assert where_of(Target(**options)) is where


def test_a_head_on_this_machine_is_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("sweeps.running.submit.address_of_local_node", lambda: address)
        assert where_of(Target(cluster=Path("c.yaml"))) is Where.CONNECT
    assert where_of(Target(cluster=Path("c.yaml"))) is Where.SUBMIT, "the file of a head that has gone"


BAD = [
    (["--cluster", FILE], "a job has its own working directory"),
    (["--cluster", "none.yaml", "--storage", "/shared/runs"], "there is no such file"),
    (["--address", "http://127.0.0.1:1", "--storage", "/shared/runs"], "no job server answers at http://127.0.0.1:1"),
    (["--address", "http://127.0.0.1:1", "--cpus-per-trial", "0"], "at least 1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_what_cannot_be_submitted_exits_with_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweeps.running.submit.address_of_local_node", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("sweeps.running.submit.brought_up", lambda *_: pytest.fail("it would cost money"))
    assert main([*SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "it is not valid YAML: while parsing"),
        ("", "None is not of type 'object'"),
        ("cluster_name: a\n", "'provider' is a required property"),
        ("cluster_name: a\nprovider: {type: awz}\n", "provider.type: found 'awz'; expected one of aliyun, aws, "),
        ("cluster_name: a\nprovider: {type: awz}\n", "did you mean aws?"),
        ("cluster_name: a\nprovider: {type: aws}\nmax_worker: 3\n", "('max_worker' was unexpected)"),
        (
            "cluster_name: a\nprovider: {type: aws}\navailable_node_types: {head: {node_config: {}, resources: 3}}\n",
            "available_node_types.head.resources: 3 is not of type 'object'",
        ),
    ],
)
def test_a_launcher_file_with_a_slip_is_one_line_before_anything_is_brought_up(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweeps.running.submit.address_of_local_node", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("sweeps.running.submit.brought_up", lambda *_: pytest.fail("it would cost money"))
    (tmp_path / "mine.yaml").write_text(text)
    assert main([*SMALL, "--storage", str(tmp_path), "--cluster", str(tmp_path / "mine.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cluster: ") and message in error and error.count("\n") == 1


def test_the_launcher_files_of_repository_and_docs_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"auth_token: there is no ~/.ray/auth_token; make it with: .*get-auth-token"):
        check_launcher_file(Path(FILE))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    monkeypatch.chdir(ROOT)
    check_launcher_file(Path(FILE))
    (tmp_path / "lab.yaml").write_text(
        (ROOT / "docs" / "clusters.md").read_text().split("```yaml\n")[1].split("```")[0]
    )
    check_launcher_file(tmp_path / "lab.yaml")


def test_a_head_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray tries for minutes, and tells of each attempt."""
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("it would try for minutes"))
    (port,) = free_ports(1)
    with pytest.raises(UserError, match=f"no Ray cluster answers at 127.0.0.1:{port} .*refused"):
        Cluster.connect(f"127.0.0.1:{port}", Resources(), print)


def test_without_the_extra_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.running.submit._is_installed", lambda name: False)
    with pytest.raises(ValueError, match=r"pip install 'lottery-sweep\[cluster\]'"):
        check_submittable(Target(address="http://head:8265", storage="/shared/runs"))


def test_the_flag_that_submitted_is_not_submitted() -> None:
    given = ["digits", "--address", "http://a", "--seeds", "1", "--address=http://b"]
    assert without(given, "--address") == ["digits", "--seeds", "1"]


def test_the_shipped_file_is_what_rays_schema_and_its_aws_provider_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `ray up` does before it starts the first machine, against moto's AWS."""
    moto = pytest.importorskip("moto", reason="for the test extra")
    boto3 = pytest.importorskip("boto3", reason="for the test extra")
    import jsonschema
    import ray.autoscaler
    from ray.autoscaler.sdk import bootstrap_config

    monkeypatch.setenv("HOME", str(tmp_path))  # for the key pair
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (tmp_path / ".ssh").mkdir()
    config = yaml.safe_load(Path(FILE).read_text())
    jsonschema.validate(config, json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text()))
    with moto.mock_aws():
        for name in ("lottery-sweep", "lottery-sweep-head"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=name)
        ready = bootstrap_config(config, no_config_cache=True)
    worker, first = (ready["available_node_types"][name] for name in ("gpu_worker", "head"))
    assert (worker["min_workers"], worker["max_workers"]) == (0, 4)
    assert {name: worker["resources"][name] for name in ("CPU", "GPU")} == {"CPU": 4, "GPU": 1}
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert first["resources"]["CPU"] == 0 and ready["idle_timeout_minutes"] == 5
    assert worker["node_config"]["SubnetIds"] and first["node_config"]["KeyName"]
