"""What is exported answers as the bundle does, or is not written at all."""

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.experiments.conftest import Cloud
from torch import nn

from eaves.core.roles import EdgePredictor
from eaves.core.rules import ConfidenceAbove
from eaves.errors import ConfigError, StateError, StorageError
from eaves.experiments import exporting
from eaves.experiments.calibrating import NAME as RULE
from eaves.experiments.config import TrainConfig
from eaves.experiments.exporting import TOLERANCE, Exported, _example, _model, _Part, export
from eaves.experiments.halves import Origin, edge_job, open_origin, write_untrained
from eaves.experiments.inferring import Answered, infer
from eaves.experiments.netconfig import InferConfig, ServeConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.run import run
from eaves.light.facts import EDGE, EXIT, NAME, read_facts
from eaves.light.model import LightEdge, Model
from eaves.light.running import LightAnswered, answer_all
from eaves.network.asking import CloudClient
from eaves.network.waiting import Answers, Policy
from eaves.privacy.bounds import BOUNDS, bound_named

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=1)
HIDDEN = replace(
    TINY,
    method="priphit",
    data="digits:parity",
    bottleneck="2x2x2",
    privacy=PrivacyConfig(private="high", noise_scale=0.25, noise="laplace"),
)
CALM = InferConfig(cloud=None, deadline_ms=30_000.0, batch_size=60)
CloudOf = Callable[[Origin, ServeConfig], Cloud]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run, with its export in ``light``."""
    out = tmp_path_factory.mktemp("trained")
    list(run(TrainConfig(epochs=1, out=out)))
    export(out, out / "light")
    return out


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """Return an untrained bundle whose edge hides, and its export."""
    root = tmp_path_factory.mktemp("hidden")
    write_untrained(HIDDEN, root / "bundle")
    return root / "bundle", export(root / "bundle", root / "light")


@pytest.fixture
def quick(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an export of that run take the model that was made before."""
    content = (trained / "light" / EDGE).read_bytes()
    monkeypatch.setattr(exporting, "_model", lambda part, example: content)


def _inputs(origin: Origin) -> torch.Tensor:
    job, _ = edge_job(origin, trains=False)
    return job.dataset.test.fetch(torch.arange(len(job.dataset.test))).inputs


def _predictor(origin: Origin) -> EdgePredictor:
    return edge_job(origin, trains=False)[0].method.edge_predictor


def _rule(origin: Origin) -> ConfidenceAbove:
    """Return a rule that about half of the answers pass, and none nearly."""
    early = _predictor(origin).predict(_inputs(origin))[1]
    assert early is not None
    scores = ConfidenceAbove.scores(early).sort().values[150:210]
    widest = int(scores.diff().argmax())
    return ConfidenceAbove(threshold=float(scores[widest : widest + 2].mean()))


def _classes(answers: list[Answers]) -> list[int | None]:
    return [answer.label for found in answers for answer in found.answers]


def test_a_device_gets_the_answers_that_infer_gets(
    trained: Path, tmp_path: Path, cloud_of: CloudOf
) -> None:
    origin, folder = open_origin(trained), trained / "light"
    settings = ServeConfig(listen="127.0.0.1:0", insecure=True, out=tmp_path / "cloud", edges=0)
    cloud = cloud_of(origin, settings)
    rule = _rule(origin)
    config = replace(CALM, rule="confidence", threshold=rule.threshold)
    theirs = [e.answers for e in infer(origin, config, cloud.target()) if isinstance(e, Answered)]
    facts = read_facts(folder)
    edge, policy = LightEdge(folder, facts), Policy(rule=rule, deadline_s=30.0)
    x = _inputs(origin).numpy()
    with closing(CloudClient(cloud.target(), facts.session)) as client:
        events = list(answer_all(edge, facts, x, client, policy, batch_size=60))
    ours = [event.answers for event in events if isinstance(event, LightAnswered)]
    assert _classes(ours) == _classes(theirs)
    who = [[answer.answered_by for found in a for answer in found.answers] for a in (ours, theirs)]
    assert who[0] == who[1]
    assert {"exit", "cloud"} == set(who[0])
    assert abs(sum(a.bytes_up for a in ours) - sum(a.bytes_up for a in theirs)) < 100


def test_the_projection_is_part_of_the_model_and_noise_is_not(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    config = TrainConfig(
        method="siamese", epochs=4, codec="int8", privacy=PrivacyConfig(noise_scale=0.1)
    )
    list(run(replace(config, out=tmp_path / "run")))
    origin, folder = open_origin(tmp_path / "run"), tmp_path / "light"
    export(tmp_path / "run", folder)
    facts = read_facts(folder)
    x = _inputs(origin)
    edge = LightEdge(folder, facts)
    job = edge_job(origin, trains=False)[0]
    with torch.no_grad():
        z = job.method.edge_modules["edge"].eval()(x)
    bounded = bound_named("l2", 1.5 * 8**0.5).apply(z)
    sent, early = edge.predict(x.numpy())
    assert early is None
    assert sent is not None
    assert sent.shape == (360, 8)
    apart = torch.from_numpy(sent) - bounded
    assert float(apart.std()) == pytest.approx(0.1, rel=0.1)  # of 2,880 values: 7 standard errors
    settings = ServeConfig(listen="127.0.0.1:0", insecure=True, out=tmp_path / "cloud", edges=0)
    cloud = cloud_of(origin, settings)
    with closing(CloudClient(cloud.target(), facts.session)) as client:
        policy = Policy(deadline_s=30.0)
        events = list(answer_all(edge, facts, x.numpy(), client, policy, batch_size=60))
    answers = _classes([event.answers for event in events if isinstance(event, LightAnswered)])
    labels = job.dataset.test.fetch(torch.arange(360)).labels.tolist()
    right = sum(a == b for a, b in zip(answers, labels, strict=True)) / 360
    assert right > 0.9


def test_features_and_exit_are_those_of_torch(trained: Path) -> None:
    origin, folder = open_origin(trained), trained / "light"
    x = _inputs(origin)[:50]
    z, early = _predictor(origin).predict(x)
    assert z is not None
    assert early is not None
    ours_z, ours_early = LightEdge(folder, read_facts(folder)).predict(x.numpy())
    assert ours_z == pytest.approx(z.numpy(), rel=TOLERANCE, abs=TOLERANCE)
    assert ours_early == pytest.approx(early.numpy(), rel=TOLERANCE, abs=TOLERANCE)


def test_what_is_hidden_is_bounded_in_the_model_and_noised_on_the_device(
    hidden: tuple[Path, Exported],
) -> None:
    bundle, exported = hidden
    facts, folder, origin = exported.facts, exported.folder, open_origin(bundle)
    assert facts.noising is not None
    assert (facts.early, facts.noising.law, facts.noising.scale) == (EXIT, "laplace", 0.25)
    job, _ = edge_job(origin, trains=False)
    x = _inputs(origin)
    with torch.no_grad():
        z = torch.tanh(job.method.edge_modules["edge"].eval()(x))
    [bounded] = Model((folder / EDGE).read_bytes(), source=EDGE).run(x.numpy())
    assert bounded == pytest.approx(z.numpy(), abs=TOLERANCE)
    sent, early = LightEdge(folder, facts).predict(x.numpy())
    # Laplace noise of b = 0.25 has a mean size of b and as large a deviation of it: 6 standard
    # errors of 2,880 values.
    size = np.abs(sent - bounded).mean()
    assert abs(size - 0.25) < 6 * 0.25 / np.sqrt(sent.size)
    with torch.no_grad():
        expected = job.method.edge_modules["exit"].eval()(torch.from_numpy(sent))
    assert early == pytest.approx(expected.numpy(), abs=10 * TOLERANCE)


def test_what_was_written_is_what_was_said(hidden: tuple[Path, Exported]) -> None:
    _, exported = hidden
    assert sorted(path.name for path in exported.folder.iterdir()) == sorted([EDGE, EXIT, NAME])
    assert read_facts(exported.folder) == exported.facts
    assert 0 < exported.facts.verified["of_tolerance"] <= 1
    assert exported.as_json()["model_bytes"] == exported.model_bytes
    json.dumps(exported.as_json(), allow_nan=False)


def test_nothing_of_this_machine_and_no_key_is_in_it(hidden: tuple[Path, Exported]) -> None:
    bundle, exported = hidden
    content = b"".join(path.read_bytes() for path in exported.folder.iterdir())
    places = (str(bundle), str(Path.home()), str(Path(exporting.__file__).parents[2]), ".py")
    assert [place for place in places if place.encode() in content] == []
    assert b"key" not in (exported.folder / NAME).read_bytes()


@pytest.mark.usefixtures("quick")
def test_the_rule_of_the_bundle_goes_along(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = ConfidenceAbove(threshold=0.625)
    stored = type("Stored", (), {"rule": rule})
    monkeypatch.setattr(exporting, "read_rule", lambda folder: stored)
    (trained / "bundle" / RULE).touch()
    try:
        assert export(trained, tmp_path / "out").facts.rule == rule
    finally:
        (trained / "bundle" / RULE).unlink()


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_holds_in_the_model(name: str) -> None:
    bound = bound_named(name, 0.1)
    part = _Part(nn.Flatten(), bound, None).eval()
    model = Model(_model(part, torch.zeros(2, 1, 3, 4)), source=name)
    x = 100 * torch.randn(50, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    x[:10] *= 1e-4
    x[10] = 1e30
    [found] = model.run(x.numpy())
    assert bound.holds(torch.from_numpy(found))
    assert found == pytest.approx(bound.apply(x.flatten(1)).numpy(), rel=1e-5, abs=1e-6)


# What is refused, and leaves nothing behind


def _refused(bundle: Path, out: Path, error: type[Exception], words: str) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(error, match=words):
        export(bundle, out)
    assert sorted(out.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(TINY, method="full-cloud"), "full-cloud cannot be exported: it sends its inputs"),
        (replace(TINY, method="full-edge"), "full-edge cannot be exported: it answers on the edge"),
        (replace(TINY, method="datamix"), "datamix cannot be exported: it mixes the features of"),
        (replace(TINY, codec="int4"), "unknown codec of a device without torch 'int4'"),
    ],
)
def test_what_cannot_be_exported_says_why(tmp_path: Path, config: TrainConfig, words: str) -> None:
    out = tmp_path / "run"
    list(run(replace(config, max_steps=1, out=out)))
    _refused(out, tmp_path / "light", ConfigError, words)


@pytest.mark.usefixtures("quick")
def test_a_model_that_answers_otherwise_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Model.run
    monkeypatch.setattr(Model, "run", lambda self, x: [1.001 * y for y in honest(self, x)])
    _refused(trained, tmp_path / "light", StateError, "answers otherwise than torch")
    nan = np.float32(np.nan)
    monkeypatch.setattr(Model, "run", lambda self, x: [nan * y for y in honest(self, x)])
    _refused(trained, tmp_path / "light", StateError, "answers otherwise than torch")


@pytest.mark.usefixtures("quick")
def test_a_full_disk_leaves_nothing_behind(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def full(path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        written.append(path)
        if path.name == NAME:
            raise StorageError("full")

    monkeypatch.setattr(exporting, "write_atomically", full)
    _refused(trained, tmp_path / "light", StorageError, "full")
    assert [path.name for path in written] == [EDGE, NAME]


def test_a_folder_that_holds_something_is_kept(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        export(trained, tmp_path)
    assert (tmp_path / "kept").exists()


def test_a_configuration_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(TINY.to_toml())
    with pytest.raises(ConfigError, match="expected a bundle to export"):
        export(tmp_path / "run.toml", tmp_path / "light")


def test_without_the_exporter_it_says_what_to_install(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    _refused(trained, tmp_path / "light", ConfigError, r"install eaves\[onnx\]")


def test_made_up_inputs_reach_both_ends_of_the_scale() -> None:
    x = _example(EDGE, 7, (1, 2, 2))
    assert (int(x.min()), int(x.max()), x.dtype) == (0, 255, torch.uint8)
    assert torch.equal(x, _example(EDGE, 7, (1, 2, 2)))
