"""From a training to an audit and a page, as a stranger would do it on the digits."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from eaves.audit.findings import Finding
from eaves.commands.main import main
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditRecord, run_audit
from eaves.runtime.sealed import unsealed_json

Eaves = Callable[..., Any]  # the command: takes its words, returns how it ended

QUICK = ("--effort", "0.05", "--half-width", "0.06", "--known", "400")


@pytest.fixture(scope="module", autouse=True)
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that hides whether a digit is high from who learns its parity."""
    out = tmp_path_factory.mktemp("runs") / "<hostile> & $name$"
    words = ["train", "--method", "priphit", "--data", "digits:parity", "--private", "high"]
    words += ["--train-samples", "400", "--epochs", "1", "--out", str(out), "--json"]
    assert main(words) == 0
    return out


@pytest.fixture(scope="module")
def audited(trained: Path) -> tuple[Path, int]:
    """Return the same, and the exit code of an audit with a limit that no attack can keep to."""
    return trained, main(["audit", str(trained), *QUICK, "--max-attack", "0.01", "--json"])


def test_a_limit_that_does_not_hold_is_exit_code_3(audited: tuple[Path, int]) -> None:
    folder, code = audited
    assert code == 3
    found = json.loads((folder / "audit" / "audit.json").read_bytes())
    assert (found["holds"], found["sound"], found["complete"]) == (False, True, True)
    assert list(found["attributes"]) == ["high"]
    assert found["settings"]["max_attack"] == 0.01
    high = found["attributes"]["high"]
    attackers = {finding["attacker"] for finding in high["findings"]}
    assert {"cloud", "deep", "mlp", "linear", "trees", "together"} < attackers
    best = high["verdict"]["best"]["rate"]
    assert best["value"] == max(finding["rate"]["value"] for finding in high["findings"])
    assert best["n"] == 360
    assert found["subject"]["privacy"]["statement"]
    assert found["subject"]["terms"] == "CC BY 4.0"


def test_a_page_is_made_of_it(eaves: Eaves, audited: tuple[Path, int], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    ended = eaves("report", audited[0], "-o", out)
    assert (ended.code, ended.err) == (0, "")
    assert str(out) in ended.out
    text = out.read_text()
    assert "1. &lt;hostile&gt; &amp; $name$" in text
    assert text.count("data:image/png;base64,") == 3 * 6  # input, before the noise, sent
    assert "Do not publish" not in text  # digits are free
    assert eaves("report", audited[0], "--out", out, "--no-gallery").code == 0
    assert "data:image/png" not in out.read_text()


def test_a_limit_that_holds_is_exit_code_0_and_what_was_rebuilt_before_is_gone(
    eaves: Eaves, audited: tuple[Path, int]
) -> None:
    folder = audited[0]
    assert (folder / "audit" / "gallery.safetensors").exists()
    ended = eaves("audit", folder / "bundle", *QUICK, "--attacks", "labels", "--max-attack", "0.9")
    assert ended.code == 0
    assert "limit 90 %: holds (its interval's upper end does too)" in ended.out
    assert "The noise statement" in ended.out
    assert not (folder / "audit" / "gallery.safetensors").exists()


def test_what_was_found_before_an_interruption_is_kept(trained: Path, tmp_path: Path) -> None:
    config = AuditConfig(effort=0.05, half_width=0.06, known=400, max_attack=0.99, out=tmp_path)
    stop = threading.Event()
    for event in run_audit(trained, config, stop=stop):
        if isinstance(event, Finding) and event.attacker == "cloud":
            stop.set()
        last = event
    assert isinstance(last, AuditRecord)
    assert not last.complete
    found = unsealed_json((tmp_path / "audit.json").read_bytes())
    assert found == json.loads(json.dumps(last.as_json()))
    high = found["attributes"]["high"]
    assert [finding["attack"] for finding in high["findings"]] == ["labels", "attribute"]
    assert (high["control"], high["reconstructions"]) == (None, [])
    assert high["verdict"]["holds"]
    assert found["holds"] is None  # attacks that were not made might be above the limit


def test_an_interruption_before_anything_was_found_leaves_an_earlier_audit(
    trained: Path, tmp_path: Path
) -> None:
    stop = threading.Event()
    stop.set()
    (tmp_path / "audit.json").write_text("earlier")
    config = AuditConfig(half_width=0.06, max_attack=0.99, out=tmp_path)
    *_, last = run_audit(trained, config, stop=stop)
    assert isinstance(last, AuditRecord)
    assert (last.complete, last.attributes, last.holds) == (False, {}, None)
    assert (tmp_path / "audit.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--private", "hgih"], "unknown private attribute 'hgih'; choose from: high"),
        (["--private", "parity"], "the private attribute is the task itself"),
        (["--attacks", "deep"], "unknown attack 'deep'; choose from:"),
        (["--attacks", ""], "name an attack in --attacks: all, quick, labels"),
        (["--max-attack", "65"], "expected --max-attack from 0 to 1, got 65"),
        (["--half-width", "0.01"], "victims or more for an interval of +-0.01, got 360"),
    ],
)
def test_a_mistake_is_one_message(
    eaves: Eaves, trained: Path, words: list[str], message: str
) -> None:
    ended = eaves("audit", trained, *words)
    assert ended.code == 2
    assert message in ended.err
    assert ended.out == ""


def test_what_has_nothing_to_audit_or_show_is_refused(eaves: Eaves, tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text("")
    assert eaves("audit", toml).code == 2
    assert "expected a bundle, or the folder of a run" in eaves("audit", toml).err
    assert eaves("audit", tmp_path).code == 1  # a folder without a bundle
    assert eaves("report").code == 2
    assert eaves("report", tmp_path / "nowhere").code == 2
    assert eaves("report", tmp_path).code == 1  # a folder without a run


def test_help_says_what_the_exit_codes_mean(eaves: Eaves) -> None:
    text = " ".join(eaves("audit", "--help").out.split())
    assert "3: an attack was above --max-attack" in text
    assert "130: interrupted" in text
