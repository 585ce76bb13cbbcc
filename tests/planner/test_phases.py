"""What each method does for a batch, and what it holds: the times that its paper's steps take."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from eaves.errors import ConfigError
from eaves.planner.phases import INFERENCE, ONCE, TRAINING, Held, Phase
from eaves.planner.profile import CodecCost, Profile, Seconds, numbers_at
from eaves.planner.scenario import Candidate, Choices, Scenario

Total = Callable[[Profile, str], float]

BATCH, BATCHES, EPOCHS = 4, 5, 8

# Steps at the cut `b`. Nothing goes back beyond the edge part, nor beyond the cloud part in one-way
# methods; the exit's gradient goes on.
FORWARD = "a.forward b.forward"
BACKWARD = "a.backward_leaf b.backward"
UPDATE = "a.update b.update"
EXIT_STEP = "exit-b.forward exit-b.backward exit-b.update"
CLOUD_FORWARD = "c.forward head.forward"
CLOUD_UPDATE = "c.update head.update"
CLOUD_STEP = f"{CLOUD_FORWARD} c.backward_leaf head.backward {CLOUD_UPDATE}"
WHOLE_STEP = (
    f"{FORWARD} {BACKWARD} {UPDATE} {CLOUD_FORWARD} c.backward head.backward {CLOUD_UPDATE}"
)
WHOLE_INFER = "a.infer b.infer c.infer head.infer"

# Bytes at the cut `b`: three copies of the weights, buffers, what is kept of 4 examples.
EDGE_LEARNS = 3 * 4 * 10 + 8 + (1 + 2) + BATCH * (1000 + 200)
EXIT_LEARNS = 3 * 4 * 5 + 1 + 16 + BATCH * 0.5
CLOUD_LEARNS = 3 * 4 * 150 + 16 + (4 + 8) + BATCH * (30 + 4)
ADAM_EDGE, ADAM_EXIT, ADAM_CLOUD = 4 * 10, 4 * 5, 4 * 150  # a fourth copy
INPUTS, FEATURES = BATCH * 192, 4 * BATCH * 64


def _train(scenario: Scenario, candidate: Candidate) -> tuple[list[Phase], Held]:
    return TRAINING[candidate.method](scenario, candidate)


def _answer(scenario: Scenario, candidate: Candidate) -> tuple[list[Phase], Held]:
    return INFERENCE[candidate.method](scenario, candidate)


# Training


@pytest.mark.parametrize(("codec", "each"), [("raw", 193), ("png", 97)])
def test_full_cloud(scenario: Scenario, total: Total, codec: str, each: int) -> None:
    phases, held = _train(scenario, Candidate(method="full-cloud", codec=codec))
    sending = Phase(
        batches=BATCHES * EPOCHS,
        ahead_s=total(scenario.edge, f"fetch input:{codec}.encode"),
        up_bytes=BATCH * each,
        cloud_s=total(scenario.cloud, f"input:{codec}.decode {WHOLE_STEP}"),
    )
    assert phases == [sending]
    # What goes in, and the message: the edge holds nothing else.
    cloud_bytes = 3 * 4 * 160 + 24 + (1 + 2 + 4 + 8) + BATCH * 1234 + INPUTS
    assert held == Held(2 * INPUTS, cloud_bytes)


def test_full_edge(scenario: Scenario, total: Total) -> None:
    phases, held = _train(scenario, Candidate(method="full-edge"))
    learning = total(scenario.edge, f"fetch {WHOLE_STEP}")
    assert phases == [Phase(batches=BATCHES * EPOCHS, ahead_s=learning)]
    assert held == Held(3 * 4 * 160 + 24 + (1 + 2 + 4 + 8) + BATCH * 1234 + INPUTS, 0)


@pytest.mark.parametrize(("codec", "each"), [("int8", 68), ("int4", 36)])
def test_hierarchical(scenario: Scenario, total: Total, codec: str, each: int) -> None:
    phases, held = _train(scenario, Candidate(method="hierarchical", cut="b", codec=codec))
    sending = Phase(
        batches=BATCHES * EPOCHS,
        ahead_s=total(scenario.edge, f"fetch {FORWARD} b:{codec}.encode"),
        beside_s=total(scenario.edge, f"{EXIT_STEP} {BACKWARD} {UPDATE}"),
        up_bytes=BATCH * each,
        cloud_s=total(scenario.cloud, f"b:{codec}.decode {CLOUD_STEP}"),
    )
    assert phases == [sending]
    assert held == Held(EDGE_LEARNS + EXIT_LEARNS + INPUTS, CLOUD_LEARNS + FEATURES)


def test_split_waits_for_the_gradient_by_the_features(scenario: Scenario, total: Total) -> None:
    phases, held = _train(scenario, Candidate(method="split", cut="b", codec="int8"))
    linked = f"{CLOUD_FORWARD} c.backward head.backward {CLOUD_UPDATE}"
    both_ways = Phase(
        batches=BATCHES * EPOCHS,
        ahead_s=total(scenario.edge, f"fetch {FORWARD} b:int8.encode"),
        up_bytes=BATCH * 68,
        cloud_s=total(scenario.cloud, f"b:int8.decode {linked} b/reply:fp16.encode"),
        down_bytes=BATCH * 129,
        after_s=total(scenario.edge, f"b/reply:fp16.decode {BACKWARD} {UPDATE}"),
        waits=True,
    )
    assert phases == [both_ways]
    assert held == Held(EDGE_LEARNS + INPUTS, CLOUD_LEARNS + FEATURES)


def test_hierarchical_once_learns_on_the_edge_then_sends_then_learns_on_in_the_cloud(
    scenario: Scenario, total: Total
) -> None:
    once = Candidate(method="hierarchical", cut="b", codec="int8", send="once")
    phases, held = _train(scenario, once)
    edge, cloud = scenario.edge, scenario.cloud
    learning_s = total(cloud, f"b:int8.decode {CLOUD_STEP}")
    assert phases == [
        # No cloud takes part, so nothing is encoded.
        Phase(
            batches=BATCHES * EPOCHS,
            ahead_s=total(edge, f"fetch {FORWARD}"),
            beside_s=total(edge, f"{EXIT_STEP} {BACKWARD} {UPDATE}"),
        ),
        # The edge has finished learning: a pass in evaluation mode.
        Phase(
            batches=BATCHES,
            ahead_s=total(edge, "fetch a.infer b.infer b:int8.encode"),
            up_bytes=BATCH * 68,
            cloud_s=learning_s,
        ),
        Phase(batches=BATCHES * (EPOCHS - 1), cloud_s=learning_s),
    ]
    assert held == _train(scenario, replace(once, send="every-epoch"))[1]


def test_full_cloud_once(scenario: Scenario, total: Total) -> None:
    phases, _ = _train(scenario, Candidate(method="full-cloud", codec="raw", send="once"))
    learning_s = total(scenario.cloud, f"input:raw.decode {WHOLE_STEP}")
    ahead_s = total(scenario.edge, "fetch input:raw.encode")
    assert phases == [
        Phase(batches=BATCHES, ahead_s=ahead_s, up_bytes=BATCH * 193, cloud_s=learning_s),
        Phase(batches=BATCHES * (EPOCHS - 1), cloud_s=learning_s),
    ]


@pytest.mark.parametrize("method", ONCE)
def test_an_only_epoch_leaves_nothing_to_learn_from_the_store(
    scenario: Scenario, method: str
) -> None:
    cut, codec = (None, "raw") if method == "full-cloud" else ("b", "int8")
    once = Candidate(method=method, cut=cut, codec=codec, send="once")
    phases, _ = _train(replace(scenario, epochs=1), once)
    assert [phase.batches for phase in phases] == [BATCHES] * len(phases)
    assert phases[-1].up_bytes > 0


@pytest.mark.parametrize(("adversaries", "steps"), [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_priphit_first_learns_against_adversaries_on_the_edge_alone(
    scenario: Scenario, total: Total, adversaries: int, steps: int
) -> None:
    choices = Choices(adversaries=adversaries, adversary_steps=steps)
    phases, held = _train(
        replace(scenario, choices=choices),
        Candidate(method="priphit", cut="b", codec="int8", send="once"),
    )
    edge = scenario.edge
    # On features without a gradient; then its loss, with its weights left alone, goes on into E.
    adversary_s = total(edge, "exit-b.forward exit-b.backward_leaf exit-b.update")
    against_s = steps * adversary_s + total(edge, "exit-b.forward exit-b.backward")
    task_s = total(edge, f"{EXIT_STEP} {BACKWARD} {UPDATE}")
    assert phases[0] == Phase(
        batches=BATCHES * EPOCHS,
        ahead_s=total(edge, f"fetch {FORWARD}"),
        beside_s=adversaries * against_s + task_s,
    )
    edge_bytes = EDGE_LEARNS + ADAM_EDGE + (1 + adversaries) * (EXIT_LEARNS + ADAM_EXIT)
    assert held == Held(edge_bytes + INPUTS, CLOUD_LEARNS + ADAM_CLOUD + FEATURES)


def test_priphit_then_sends_once_as_hierarchical_does(scenario: Scenario) -> None:
    ways = [
        Candidate(method=method, cut="b", codec="int8", send="once")
        for method in ("priphit", "hierarchical")
    ]
    private, plain = (_train(scenario, way)[0] for way in ways)
    assert len(private) == 3
    assert private[1:] == plain[1:]


def test_priphit_sends_every_epoch_what_it_would_send_once(scenario: Scenario) -> None:
    once = Candidate(method="priphit", cut="b", codec="int8", send="once")
    alone, sending, _ = _train(scenario, once)[0]
    phases, held = _train(scenario, replace(once, send="every-epoch"))
    assert phases == [alone, replace(sending, batches=BATCHES * EPOCHS)]
    assert held == _train(scenario, once)[1]


# Inference


def test_answers_at_a_cut(scenario: Scenario, total: Total) -> None:
    for method in ("hierarchical", "split", "priphit"):
        phases, held = _answer(scenario, Candidate(method=method, cut="b", codec="int8"))
        asking = Phase(
            batches=BATCHES,
            ahead_s=total(scenario.edge, "a.infer b.infer b:int8.encode"),
            up_bytes=BATCH * 68,
            cloud_s=total(scenario.cloud, "b:int8.decode c.infer head.infer"),
            down_bytes=64 + 4 * BATCH * 5,  # a number for each class
        )
        assert phases == [asking]
        # Weights, and the input and output of the widest stage.
        edge_bytes = 4 * 10 + 8 + 2 * (4 * BATCH * 256)
        cloud_bytes = 4 * 150 + 16 + 2 * (4 * BATCH * 32)
        assert held == Held(edge_bytes + INPUTS, cloud_bytes + FEATURES)


def test_answers_of_one_side(scenario: Scenario, total: Total) -> None:
    phases, held = _answer(scenario, Candidate(method="full-edge"))
    assert phases == [Phase(batches=BATCHES, ahead_s=total(scenario.edge, WHOLE_INFER))]
    whole_bytes = 4 * 160 + 24 + 2 * (4 * BATCH * 256) + INPUTS
    assert held == Held(whole_bytes, 0)
    phases, held = _answer(scenario, Candidate(method="full-cloud", codec="png"))
    asking = Phase(
        batches=BATCHES,
        ahead_s=total(scenario.edge, "input:png.encode"),
        up_bytes=BATCH * 97,
        cloud_s=total(scenario.cloud, f"input:png.decode {WHOLE_INFER}"),
        down_bytes=64 + 4 * BATCH * 5,
    )
    assert phases == [asking]
    assert held == Held(2 * INPUTS, whole_bytes)


@pytest.mark.parametrize("group", [2, 4])
def test_datamix_mixes_what_is_sent_and_takes_the_answers_apart(
    scenario: Scenario, total: Total, group: int
) -> None:
    mixed = Candidate(method="datamix", cut="b", codec="int8")
    [phase], held = _answer(replace(scenario, choices=Choices(group=group)), mixed)
    [plain], plainly_held = _answer(scenario, replace(mixed, method="hierarchical"))
    # As many mixtures as inputs, each number of them a sum of `group` products.
    mac_s = total(scenario.edge, "a.infer b.infer") / (BATCH * 4096)
    assert phase.ahead_s == pytest.approx(plain.ahead_s + mac_s * BATCH * group * 64)
    assert phase.after_s == pytest.approx(mac_s * BATCH * group * 5)
    assert phase == replace(plain, ahead_s=phase.ahead_s, after_s=phase.after_s)
    assert held == replace(plainly_held, edge_bytes=plainly_held.edge_bytes + FEATURES)


def test_what_has_no_speed_of_products_mixes_in_no_time(scenario: Scenario) -> None:
    stages = (replace(scenario.edge.stages[0], forward_macs=0.0), *scenario.edge.stages[1:])
    pooling = replace(scenario, edge=replace(scenario.edge, stages=stages))
    mixed = Candidate(method="datamix", cut="b", codec="int8")
    plain = replace(mixed, method="hierarchical")
    assert _answer(pooling, mixed)[0] == _answer(pooling, plain)[0]


_NUMBERS = {
    name: CodecCost(codec=name, bytes_per_sample=n, encode=Seconds(0.5), decode=Seconds(0.25))
    for name, n in (("int8", 17.0), ("fp16", 23.0))
}


def _with_numbers(scenario: Scenario) -> Scenario:
    """Return profiles of now, which know what projecting to a few numbers takes."""
    known = {numbers_at("b"): tuple(_NUMBERS.values())}
    faster = [
        replace(cost, encode=cost.encode.times(0.1), decode=cost.decode.times(0.1))
        for cost in _NUMBERS.values()
    ]
    cloud = {numbers_at("b"): tuple(faster)}
    return replace(
        scenario,
        edge=replace(scenario.edge, codecs={**scenario.edge.codecs, **known}),
        cloud=replace(scenario.cloud, codecs={**scenario.cloud.codecs, **cloud}),
    )


@pytest.mark.parametrize("d", [1, 8])
def test_siamese_sends_a_few_numbers_of_a_byte(scenario: Scenario, total: Total, d: int) -> None:
    siamese = Candidate(method="siamese", cut="b")
    [phase], held = _answer(replace(scenario, choices=Choices(components=d)), siamese)
    edge_s = total(scenario.edge, "a.infer b.infer")
    cloud_s = total(scenario.cloud, "c.infer head.infer")
    assert phase.up_bytes == BATCH * d + 64
    assert phase.ahead_s == pytest.approx(edge_s * (1 + d * 64 / 4096))
    assert phase.cloud_s == pytest.approx(cloud_s * (1 + d * 64 / (8192 + 64)))
    plain, plainly_held = _answer(scenario, Candidate(method="hierarchical", cut="b", codec="int8"))
    assert phase.down_bytes == plain[0].down_bytes
    # The basis, the mean, and what is sent.
    more_bytes = 4 * (d * 64 + 64 + BATCH * d)
    assert held.edge_bytes == plainly_held.edge_bytes + more_bytes
    assert held.cloud_bytes == plainly_held.cloud_bytes + more_bytes


def test_siamese_takes_what_was_measured(scenario: Scenario, total: Total) -> None:
    """A byte for each number, or two; as long as it took, each side by its own profile."""
    for d, codec in ((8, "int8"), (8, "fp16"), (4, "int8"), (16, "fp16")):
        [phase], _ = _answer(
            _with_numbers(replace(scenario, choices=Choices(components=d))),
            Candidate(method="siamese", cut="b", codec=codec),
        )
        width, longer = {"int8": 1, "fp16": 2}[codec], max(1, d / 8)
        cost = _NUMBERS[codec]
        assert phase.up_bytes == BATCH * (cost.bytes_per_sample + width * (d - 8))
        assert phase.ahead_s == pytest.approx(
            total(scenario.edge, "a.infer b.infer") + longer * cost.encode.median_s
        )
        # The cloud is another machine: ten times as fast.
        assert phase.cloud_s == pytest.approx(
            total(scenario.cloud, "c.infer head.infer") + longer * cost.decode.median_s / 10
        )


def test_what_was_followed_is_what_answering_holds(scenario: Scenario) -> None:
    edge = replace(scenario.edge, infer_peak_bytes={"b": 7_000, "head": 9_000})
    followed = replace(scenario, edge=edge)
    for method, more_bytes in (
        ("hierarchical", 0),
        ("datamix", FEATURES),
        ("siamese", 4 * (8 * 64 + 64 + BATCH * 8)),
    ):
        at_b = Candidate(method=method, cut="b", codec="int8")
        (_, plainly), (_, held) = _answer(scenario, at_b), _answer(followed, at_b)
        assert held == replace(plainly, edge_bytes=7_000 + more_bytes)
        at_a = replace(at_b, cut="a")  # of which nothing is known
        assert _answer(followed, at_a) == _answer(scenario, at_a)
    assert _answer(followed, Candidate(method="full-edge"))[1] == Held(9_000, 0)


def test_siamese_knows_the_codecs_whose_bytes_do_not_depend_on_values(scenario: Scenario) -> None:
    with pytest.raises(ConfigError, match="unknown codec of a few numbers 'int4'"):
        _answer(scenario, Candidate(method="siamese", cut="b", codec="int4"))
    with pytest.raises(ConfigError, match=r"expected 1 to 64 components at 'b'.* got 65"):
        _answer(
            replace(scenario, choices=Choices(components=65)), Candidate(method="siamese", cut="b")
        )


# What cannot be


@pytest.mark.parametrize("method", ["hierarchical", "split", "priphit", "datamix", "siamese"])
def test_a_method_that_divides_the_net_needs_a_cut(scenario: Scenario, method: str) -> None:
    nowhere = Candidate(method=method, codec="int8")
    for table in (TRAINING, INFERENCE):
        if method in table:
            with pytest.raises(ConfigError, match=f"{method} divides the net: name a cut"):
                table[method](scenario, nowhere)


@pytest.mark.parametrize("method", ["hierarchical", "split", "priphit", "datamix"])
def test_a_method_that_sends_needs_a_codec(scenario: Scenario, method: str) -> None:
    for table in (TRAINING, INFERENCE):
        for candidate, message in (
            (Candidate(method=method, cut="b"), "name a codec"),
            (Candidate(method=method, cut="b", codec="int2"), "no figures for the codec 'int2'"),
            (Candidate(method=method, cut="x", codec="int8"), "unknown cut 'x'"),
        ):
            if method in table:
                with pytest.raises(ConfigError, match=message):
                    table[method](scenario, candidate)
