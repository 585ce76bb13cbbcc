import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eaves.errors import ConfigError
from eaves.experiments.compare import compared, finished
from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig

BASE = TrainConfig(compare="full-cloud, full-cloud:jpeg:90,split:int4+zstd,full-edge", seed=3)


def test_runs_differ_in_what_their_name_says_only() -> None:
    runs = compared(BASE)
    assert list(runs) == ["full-cloud", "full-cloud:jpeg:90", "split:int4+zstd", "full-edge"]
    assert runs["full-cloud:jpeg:90"].input_codec == "jpeg:90"
    assert runs["full-cloud:jpeg:90"].codec == BASE.codec
    assert runs["split:int4+zstd"].codec == "int4+zstd"
    for name, config in runs.items():
        assert config.method == name.partition(":")[0]
        told = ("method", "compare", "out", "codec", "input_codec")
        same: dict[str, Any] = {field: getattr(BASE, field) for field in told}
        assert replace(config, **same) == BASE
    outs = [config.out for config in runs.values()]
    assert len(set(outs)) == len(outs)
    assert all(out.parent == BASE.out for out in outs)


def test_sending_once_is_the_business_of_one_run() -> None:
    base = TrainConfig(send="once", copies=2, cloud_epochs=5, compare="split,full-cloud:once")
    runs = compared(base)
    assert (runs["split"].send, runs["split"].copies) == ("auto", 1)
    assert not runs["split"].sends_once
    assert runs["split"].cloud_epochs is None
    assert runs["full-cloud:once"].send == "once"


def test_what_hides_is_compared_as_it_is_and_with_what_hides_nothing() -> None:
    hidden = PrivacyConfig(private="high", keep_training=True)
    base = TrainConfig(
        method="priphit",
        send="every-epoch",
        privacy=hidden,
        compare="hierarchical,nopeek,full-cloud:once",
    )
    runs = compared(base)
    assert list(runs) == ["hierarchical", "nopeek", "full-cloud:once"]
    kept = replace(hidden, keep_training=False)  # of the edge that sends every epoch alone
    assert {config.privacy for config in runs.values()} == {kept}
    assert {name: config.sends_once for name, config in runs.items()} == {
        "hierarchical": False,
        "nopeek": True,
        "full-cloud:once": True,
    }
    with pytest.raises(ConfigError, match="priphit hides private attributes: name them"):
        compared(TrainConfig(compare="priphit"))


def test_nothing_to_compare() -> None:
    assert compared(TrainConfig()) == {}


def test_a_run_is_not_compared_with_itself() -> None:
    assert list(compared(TrainConfig(compare="hierarchical,split"))) == ["split"]


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ("split,split", "names the same run twice"),
        ("full-clod", "unknown method 'full-clod'; choose from: full-cloud, "),
        ("split:once", "--send once is for"),
    ],
)
def test_a_comparison_that_cannot_work_is_refused(compare: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compared(TrainConfig(compare=compare))


def test_a_run_is_finished_or_not(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path)
    record = tmp_path / "record.json"
    assert finished(config) is None
    record.write_text(json.dumps({"complete": False, "config_hash": config.hash()}))
    assert finished(config) is None
    record.write_text(json.dumps({"complete": True, "config_hash": config.hash()}))
    assert finished(config) == {"complete": True, "config_hash": config.hash()}
    assert finished(replace(config, seed=1)) is None
    record.write_text('{"complete": tr')
    assert finished(config) is None
