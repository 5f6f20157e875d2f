"""Profiles of sites: what they say at a width, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.recipes import shipped, shipped_folder
from pipeline.sweep.launch.slurm.profile import Profile, load_profile
from tests.conftest import changed
from tests.support.slurm_stand_in import profile_file

SCRIPTS = shipped_folder("slurm")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[1]", "a profile is a mapping of keys to values"),
        ("a: [", "not YAML"),
        ("partitoin: gpu", "unknown key partitoin, did you mean partition?"),
        ("max_time: 24:00:00", "max_time must be a time such as 90min, 24h or 2d, got '24:00:00'"),
        ("max_time: 3min", "max_time 3min leaves too little before the signal: give at least 5min, or a smaller "
                           "signal_seconds than 120"),
        ("throttle: 0", "throttle must be at least 1, got 0"),
        ("devices: true", "devices: expected an integer or null, got 'True'"),
        ("memory_per_node: 64 GB", "memory_per_node must be a size such as 64G, got '64 GB'"),
        ("memory_per_node: 64G\nmemory_per_device: 8G", "give memory_per_node or memory_per_device, not both"),
        ("environment: {A-B: 1}", "environment: expected a variable's name, got 'A-B'"),
        ("environment: {WANDB_API_KEY: x}", "environment: WANDB_API_KEY looks like a secret, and all users could read it "
                                            "in the queue: export it where you call pipeline sweep"),
        ("environment: {AWS_ACCESS_KEY_ID: x}", "AWS_ACCESS_KEY_ID looks like a secret"),
        ("environment: {my_token: x}", "my_token looks like a secret"),
        ("environment: {DB_PWD: x}", "DB_PWD looks like a secret"),
        ("environment: {HTTPS_PROXY: 'http://me:word@proxy:80'}", "HTTPS_PROXY looks like a secret"),
        ("options: {array: 0-3}", "options: array is the pipeline's to set"),
        ("options: {--mail-type: END}", "options: expected an option of sbatch, without dashes, got '--mail-type'"),
        ("setup: nowhere.sh", "nowhere.sh is not a file"),
        ("widths: [{devices: 2}]", "rule 1 of widths: start it with from: WIDTH, such as {from: 1024, devices: 8}"),
        ("widths: [{from: 64, device: 2}]", "rule 1 of widths: unknown key device, did you mean devices?"),
        ("widths: [{from: 64, python: x}]", "rule 1 of widths: unknown key python"),
        ("widths: [{from: 64, max_time: 1min}]", "max_time 1min leaves too little"),
        ("options: [a]", "options: expected a mapping of names to values, got \"['a']\""),
        ("options: {mem-bind: {a: 1}}", "options: expected a mapping of names to values"),
        ("options: {1: x}", "options: expected an option of sbatch, without dashes, got 1"),
        ("widths: {from: 1}", "widths: expected a list of rules such as {from: 1024, devices: 8}"),
        ("widths: [{from: true}]", "rule 1 of widths: start it with from: WIDTH"),
        ("widths: [{from: 64}, {from: 32, throttle: 0}]", "rule 2 of widths: throttle must be at least 1, got 0"),
        ("partition: ''", "partition must be text, got ''"),
        ("account: 3", "account: expected text or null, got '3'"),
        ("micro_batch: few", "micro_batch: expected an integer or auto or null, got 'few'"),
        ("micro_batch: 0", "micro_batch must be at least 1, got 0"),
        ("flops_per_second: 0", "flops_per_second must be positive, got 0"),
        ("max_requeues: -1", "max_requeues must not be negative, got -1"),
        ("modules: cuda", "modules: expected a list, got 'cuda'"),
        ("1: 2", "unknown key 1"),
        ("margin: 0.5", "margin must be at least 1, got 0.5"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as error:
        load_profile(str(path))
    assert str(path) in str(error.value)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_what_only_sounds_like_a_secret_is_none(tmp_path: Path) -> None:
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_TOKEN_PATH": "/t",
        "MAX_TOKENS": "8",
        "HTTP_PROXY": "http://p:80",
    }
    assert load_profile(str(profile_file(tmp_path, environment=environment))).environment == environment


def test_unknown_and_missing_profiles() -> None:
    with pytest.raises(RequestError, match=r"--profile nosite: .*no profile of that name \(example\)"):
        load_profile("nosite")
    with pytest.raises(
        RequestError, match=r"needs --profile: a YAML that describes your cluster, like .*example\.yaml"
    ):
        load_profile("")


@pytest.mark.parametrize("name", list(shipped("slurm/profiles")))
def test_every_shipped_profile_loads(name: str) -> None:
    profile = load_profile(name)
    run = RunConfig(width=4096, global_batch=512)
    assert profile.place(run).world_size >= 1


def test_the_example_names_every_key() -> None:
    """Whoever copies it sees all there is."""
    text = (SCRIPTS / "profiles" / "example.yaml").read_text()
    assert [f.name for f in dataclasses.fields(Profile) if f.name not in text] == []


def test_the_last_rule_that_reaches_a_width_holds(tmp_path: Path, tiny: RunConfig) -> None:
    rules = [{"from": 64, "devices": 4, "max_time": "1d12h"}, {"from": 48, "devices": 2, "strategy": "ddp"}]
    profile = load_profile(str(profile_file(tmp_path, widths=rules)))
    assert [profile.at(width).devices for width in (32, 48, 63, 64, 4096)] == [None, 2, 2, 4, 4]
    assert [profile.at(width).max_minutes for width in (32, 48, 64)] == [120, 120, 2160]
    wide = profile.place(changed(tiny, width=64))
    assert (wide.devices, wide.strategy, wide.micro_batch) == (4, "auto", 1)
    assert profile.place(tiny) == tiny
    assert wide.run_name == changed(tiny, width=64).run_name  # the same mathematics, the same directory
    assert profile.place(changed(tiny, width=64, micro_batch=1)).micro_batch == 1
    impossible = load_profile(str(profile_file(tmp_path, devices=3)))
    with pytest.raises(RequestError, match=r"^profile, width 32: --global_batch 4 is not a multiple"):
        impossible.place(tiny)
