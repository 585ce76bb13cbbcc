"""The files in deploy/: they say nothing that the commands would not understand."""

import configparser
import re
import shlex
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest
import tyro

from eaves.data.source import ROOT_VARIABLE
from eaves.experiments.netconfig import PREFIXES, AgentConfig, InferConfig, ServeConfig
from eaves.experiments.settings import from_environment, variable

DEPLOY = Path(__file__).parents[2] / "deploy"
Config = ServeConfig | AgentConfig
COMMANDS: dict[str, type[Config]] = {"serve": ServeConfig, "agent": AgentConfig}
_LINE = re.compile(r"(?P<off>#?)(?P<name>EAVES_[A-Z_]+)=(?P<value>.*)")


def _example() -> tuple[dict[str, str], dict[str, str]]:
    """Return what the example sets, and what it shows commented out."""
    on: dict[str, str] = {}
    off: dict[str, str] = {}
    for line in (DEPLOY / "eaves.env.example").read_text(encoding="utf-8").splitlines():
        if found := _LINE.fullmatch(line):
            assert found["name"] not in on | off, f"{found['name']} stands there twice"
            (off if found["off"] else on)[found["name"]] = found["value"]
        else:
            assert re.fullmatch("(#( .*)?)?", line), f"neither a setting nor a remark: {line}"
    return on, off


def _variables(cls: type[Config | InferConfig]) -> set[str]:
    return {variable(PREFIXES[cls], field.name) for field in fields(cls)}


def _unit(command: str) -> configparser.RawConfigParser:
    # Some keys stand in a unit more than once; those tested here do not.
    unit = configparser.RawConfigParser(strict=False, comment_prefixes="#", delimiters="=")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((DEPLOY / f"eaves-{command}.service").read_text(encoding="utf-8"))
    return unit


# The environment


def test_the_example_names_every_setting_and_no_other() -> None:
    on, off = _example()
    expected = {ROOT_VARIABLE} | _variables(ServeConfig) | _variables(AgentConfig)
    assert set(on | off) == expected


@pytest.mark.parametrize("cls", COMMANDS.values())
def test_what_is_commented_out_is_the_default(cls: type[Config]) -> None:
    _, off = _example()
    assert from_environment(cls(), PREFIXES[cls], off) == cls()


@pytest.mark.parametrize("cls", COMMANDS.values())
def test_what_is_set_can_be_read(cls: type[Config]) -> None:
    on, _ = _example()
    assert from_environment(cls(), PREFIXES[cls], on) != cls()


# Units


@pytest.mark.parametrize("command", COMMANDS)
def test_a_unit_starts_a_command_with_flags_that_it_has(command: str) -> None:
    program, subcommand, source, *flags = shlex.split(_unit(command)["Service"]["ExecStart"])
    assert (Path(program).name, subcommand) == ("eaves", command)
    assert Path(source).is_absolute()
    config = tyro.cli(COMMANDS[command], args=flags)
    assert config.credentials is not None
    assert not config.insecure
    assert str(config.out) == f"%S/{_unit(command)['Service']['StateDirectory']}"


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_of_a_unit_and_the_example_go_together(command: str) -> None:
    cls = COMMANDS[command]
    base = from_environment(cls(), PREFIXES[cls], _example()[0])
    flags = shlex.split(_unit(command)["Service"]["ExecStart"])[3:]
    config = tyro.cli(cls, args=flags, default=base)
    assert config == replace(base, credentials=config.credentials, out=config.out) != base


@pytest.mark.parametrize("command", COMMANDS)
def test_a_unit_ends_and_starts_again_as_the_commands_expect(command: str) -> None:
    service = _unit(command)["Service"]
    expected = {
        "KillSignal": "SIGTERM",  # which writes a checkpoint
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",  # eaves.commands.main: a mistake in the command
        "User": "eaves",
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
    }
    assert {key: service[key] for key in expected} == expected
    assert _unit(command)["Unit"]["StartLimitIntervalSec"] == "0"


def test_both_units_are_kept_in_the_same_way() -> None:
    ours = {"ExecStart", "StateDirectory", "WorkingDirectory"}
    serve, agent = (dict(_unit(command)["Service"]) for command in COMMANDS)
    assert {k: v for k, v in serve.items() if k not in ours} == {
        k: v for k, v in agent.items() if k not in ours
    }


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("command", COMMANDS)
def test_systemd_understands_a_unit(command: str, tmp_path: Path) -> None:
    text = (DEPLOY / f"eaves-{command}.service").read_text(encoding="utf-8")
    path = tmp_path / f"eaves-{command}.service"
    program = shutil.which("true")
    path.write_text(text.replace("/opt/eaves/bin/eaves", str(program)), encoding="utf-8")
    done = _verify(path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    path.write_text(path.read_text(encoding="utf-8").replace("RestartSec", "RestartSecs"))
    assert "RestartSecs" in _verify(path).stderr


def _verify(path: Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "verify", "--man=no", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# The image


def test_the_image_sets_what_the_commands_read() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    settings = dict(re.findall(r"(EAVES_[A-Z_]+)=(\S+)", text))
    assert settings
    for cls in COMMANDS.values():
        assert from_environment(cls(), PREFIXES[cls], settings) != cls()
    known = _variables(ServeConfig) | _variables(AgentConfig)
    assert set(settings) <= known
    port = settings["EAVES_SERVE_LISTEN"].rpartition(":")[2]
    assert f"\nEXPOSE {port}\n" in text


def test_the_image_does_not_run_as_root_and_copies_what_is_there() -> None:
    lines = (DEPLOY / "Containerfile").read_text(encoding="utf-8").splitlines()
    assert "USER eaves" in lines
    assert lines.index("USER eaves") < lines.index('ENTRYPOINT ["eaves"]')
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied
    assert [name for name in copied if not (DEPLOY.parent / name).exists()] == []
