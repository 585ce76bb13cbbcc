"""Profiles: there and back as JSON to the last digit, and nothing else is taken for one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, fields, replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.errors import ConfigError, StateError
from eaves.planner.profile import (
    INPUT,
    CodecCost,
    Profile,
    Seconds,
    Stage,
    StageTimes,
    Subject,
    load_profile,
    parse_profile,
    refuse_difference,
    reply_to,
    structure_digest,
)

FIGURES = st.floats(0, 1e12)
SOME = st.floats(1e-9, 1e12)
COUNTS = st.integers(1, 2**31 - 1)
SHAPES = st.lists(st.integers(1, 10_000), max_size=4).map(tuple)
SECONDS = st.builds(Seconds, FIGURES, FIGURES)
TIMES = st.none() | st.builds(StageTimes, *[SECONDS] * 5)
NAMES = st.text(st.characters(codec="utf-8"), max_size=9)


def _stages(name: str) -> st.SearchStrategy[Stage]:
    return st.builds(
        Stage,
        name=st.just(name),
        output_shape=SHAPES,
        params=st.integers(0, 10**12),
        buffer_bytes=st.integers(0, 10**12),
        forward_macs=FIGURES,
        backward_macs=FIGURES,
        backward_leaf_macs=FIGURES,
        kept_bytes=FIGURES,
        kept_fixed_bytes=FIGURES,
        moved_bytes=FIGURES,
        operations=st.integers(0, 1000),
        times=TIMES,
    )


COST = st.builds(CodecCost, codec=NAMES, bytes_per_sample=SOME, encode=SECONDS, decode=SECONDS)
COSTS = st.lists(COST, min_size=1, max_size=3).map(tuple)
SUBJECTS = st.builds(
    Subject,
    net=NAMES,
    stem=st.none() | NAMES,
    input_shape=SHAPES,
    classes=COUNTS,
    batch_size=COUNTS,
    precision=NAMES,
    exit=NAMES,
    version=NAMES,
    structure=NAMES,
)
MACHINES = st.dictionaries(NAMES, st.none() | st.integers() | NAMES | st.lists(NAMES))


@st.composite
def _profiles(draw: st.DrawFn) -> Profile:
    names = draw(st.lists(NAMES, min_size=2, max_size=4, unique=True))
    cuts = names[:-1]
    sent = [INPUT, *cuts, *map(reply_to, cuts)]
    return Profile(
        subject=draw(SUBJECTS),
        machine=draw(MACHINES),
        payloads_from=draw(NAMES),
        samples=draw(st.none() | COUNTS),
        fetch=draw(SECONDS),
        contention=1.0 + draw(SOME),
        stages=tuple(draw(_stages(name)) for name in names),
        exits={cut: draw(_stages("exit")) for cut in cuts},
        codecs={where: draw(COSTS) for where in sent},
        peak_bytes=draw(st.dictionaries(st.sampled_from(names), st.integers(1, 2**50))),
        infer_peak_bytes=draw(st.dictionaries(st.sampled_from(names), st.integers(1, 2**50))),
    )


# There and back


@settings(deadline=None, max_examples=30)  # a busy machine is no failure
@given(profile=_profiles())
def test_a_profile_survives_json_to_the_last_digit(profile: Profile) -> None:
    again = parse_profile(profile.to_json(), "ours")
    assert again == profile
    assert again.to_json() == profile.to_json()
    assert type(again.exits) is dict
    assert list(again.exits) == list(profile.exits)
    assert list(again.codecs) == list(profile.codecs)


def test_a_profile_survives_a_file(edge: Profile, tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    path.write_text(edge.to_json())
    assert load_profile(path) == edge


def test_a_profile_that_json_cannot_hold_is_not_written(edge: Profile) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(edge, contention=nan).to_json()


def test_reading_needs_no_torch() -> None:
    code = "import sys, eaves.planner.profile; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What is refused

Path_ = tuple[str | int, ...]


def _facts(profile: Profile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(profile.to_json())
    return found


def _places(node: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield where everything is, as the keys that lead there."""
    pairs: Any = node.items() if isinstance(node, dict) else ()
    for key, value in pairs if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def _holder(facts: Any, path: Path_) -> Any:
    for key in path[:-1]:
        facts = facts[key]
    return facts


def _at(facts: Any, path: Path_) -> Any:
    return _holder(facts, path)[path[-1]]


def _put(profile: Profile, path: Path_, value: Any) -> str:
    facts = _facts(profile)
    _holder(facts, path)[path[-1]] = value
    return json.dumps(facts)


def _optional(path: Path_) -> bool:
    """Return whether a profile is one without what is at ``path``."""
    if path == ("infer_peak_bytes",) or path[-1] == "uncounted":  # not in profiles of before
        return True
    whole = path[0] in ("codecs", "peak_bytes", "infer_peak_bytes") and len(path) == 2
    return whole and not str(path[1]).endswith("/reply")


def test_a_profile_that_lacks_anything_is_refused(edge: Profile) -> None:
    facts = _facts(edge)
    places = [path for path in _places(facts) if isinstance(_holder(facts, path), dict)]
    required = [path for path in places if not _optional(path)]
    assert len(required) > 300
    for path in required:
        lacking = deepcopy(facts)
        del _holder(lacking, path)[path[-1]]
        with pytest.raises(StateError, match=r"^ours"):
            parse_profile(json.dumps(lacking), "ours")


def test_what_a_plan_can_do_without_may_be_left_out(edge: Profile) -> None:
    facts = _facts(edge)
    facts["codecs"] = {where: costs for where, costs in facts["codecs"].items() if "/" in where}
    facts["peak_bytes"] = {}
    found = parse_profile(json.dumps(facts), "ours")
    assert found == replace(edge, codecs=found.codecs, peak_bytes={})


def test_a_profile_of_before_and_what_follows_from_one_are_read(edge: Profile) -> None:
    facts = _facts(edge)
    del facts["infer_peak_bytes"]
    facts["on_device"] = [{"cut": "a", "energy_j": 1.0}]
    assert parse_profile(json.dumps(facts), "ours") == edge
    facts["in_device"] = []
    with pytest.raises(StateError, match="ours is no profile"):
        parse_profile(json.dumps(facts), "ours")


NO_FIGURES: list[Any] = [None, "1", [], {}, True, -1, -0.5, inf, -inf, nan, 10**400, [1]]


@pytest.mark.parametrize("value", NO_FIGURES, ids=lambda value: str(value)[:5])
def test_what_is_no_figure_is_refused_wherever_it_stands(edge: Profile, value: Any) -> None:
    facts = _facts(edge)
    del facts["format"]
    places = [path for path in _places(facts) if type(_at(facts, path)) in (int, float)]
    assert len(places) > 200
    for path in places[:: 1 if value is None else 7]:
        with pytest.raises(StateError, match=r"^ours"):
            parse_profile(_put(edge, path, value), "ours")


def _refused(profile: Profile, *changes: tuple[Path_, Any]) -> str:
    facts = _facts(profile)
    for path, value in changes:
        _holder(facts, path)[path[-1]] = value
    with pytest.raises(StateError) as caught:
        parse_profile(json.dumps(facts), "ours")
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["subject", "stages", "exits", "codecs", "peak_bytes", "infer_peak_bytes", "fetch"],
)
@pytest.mark.parametrize("value", [None, 3, "x", [3], {"x": "y"}])
def test_another_kind_of_thing_is_refused(edge: Profile, name: str, value: Any) -> None:
    assert _refused(edge, ((name,), value)).startswith("ours is no profile, or damaged: ")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("subject", "batch_size"), 0),
        (("subject", "batch_size"), 2.0),
        (("subject", "classes"), 0),
        (("subject", "classes"), 2**31),
        (("subject", "input_shape"), "3x8x8"),
        (("subject", "input_shape"), [3, 8, 0]),
        (("subject", "input_shape"), [3, 8.0, 8]),
        (("subject", "input_shape"), {}),
        (("subject", "input_shape"), [1] * 9),
        (("subject", "net"), None),
        (("subject", "stem"), 7),
        (("subject", "version"), ["1"]),
        (("samples",), 0),
        (("samples",), "100"),
        (("samples",), 1.5),
        (("machine",), None),
        (("machine",), ["x86"]),
        (("payloads_from",), 7),
        (("contention",), 0),
        (("contention",), 0.99),
        (("peak_bytes", "a"), 0),
        (("infer_peak_bytes",), []),
        (("infer_peak_bytes",), {"a": 0}),
        (("stages", 0, "output_shape"), [4, -8, 8]),
        (("stages", 0, "name"), None),
        (("stages", 0, "name"), []),
        (("stages", 3, "name"), []),
        (("stages", 0, "times"), []),
        (("stages", 0, "times"), 1.0),
        (("codecs", "a", 0, "codec"), None),
        (("codecs", "a", 0, "bytes_per_sample"), 0),
    ],
)
def test_a_value_that_cannot_be_is_refused(edge: Profile, path: Path_, value: Any) -> None:
    assert _refused(edge, (path, value)).startswith("ours is no profile, or damaged: ")


@pytest.mark.parametrize("path", [(), ("subject",), ("stages", 0), ("stages", 0, "times")])
def test_what_is_not_known_is_refused(edge: Profile, path: Path_) -> None:
    assert "colour" in _refused(edge, ((*path, "colour"), {"median_s": 1, "spread_s": 1}))


def test_stages_exits_and_replies_must_fit(edge: Profile) -> None:
    facts = _facts(edge)
    stages, exits = facts["stages"], facts["exits"]
    one = "expected two stages or more, each with a name of its own"
    assert one in _refused(edge, (("stages",), stages[:1]), (("exits",), {}))
    assert one in _refused(edge, (("stages",), [stages[0], *stages]))
    assert one in _refused(edge, (("stages",), []), (("exits",), {}))
    exit_ = "expected an exit for each cut, and for nothing else"
    assert exit_ in _refused(edge, (("exits", "head"), exits["a"]))
    assert exit_ in _refused(edge, (("stages",), stages[1:]))
    gradients = "expected a codec of the gradients at each cut"
    assert gradients in _refused(edge, (("codecs", "b/reply"), []))


@pytest.mark.parametrize(
    ("text", "found"), [("{}", "None"), ("[]", "None"), ("3", "None"), ('{"format": 2}', "2")]
)
def test_another_format_is_named(text: str, found: str) -> None:
    message = f"^ours: expected a profile of format 1, got {found}; take it again with: eaves"
    with pytest.raises(StateError, match=message):
        parse_profile(text, "ours")


@pytest.mark.parametrize(
    "text",
    ["", "x", "\ufeff{}", "[" * 100_000, '{"a":' * 100_000, '"', "\0", "NaN", "9" * 5000],
    ids=lambda text: text[:3],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(StateError, match="ours is no profile, or damaged"):
        parse_profile(text, "ours")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_figures_beyond_all_bounds_are_refused(edge: Profile, word: str) -> None:
    text = edge.to_json()
    assert '"contention": 1.5' in text
    with pytest.raises(StateError, match=r"is no figure|expected a number"):
        parse_profile(text.replace('"contention": 1.5', f'"contention": {word}'), "ours")


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_whatever_a_file_holds_it_is_a_profile_or_refused(
    edge: Profile, data: st.DataObject
) -> None:
    facts = _facts(edge)
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=4,
    )
    path = data.draw(st.sampled_from(list(_places(facts))))
    text = _put(edge, path, data.draw(values))
    found = None
    with suppress(StateError):  # any other error is a failure
        found = parse_profile(text, "ours")
    assert found is None or parse_profile(found.to_json(), "again") == found


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_profile_that_was_cut_off_is_refused(edge: Profile, data: st.DataObject) -> None:
    text = edge.to_json().rstrip()
    end = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(StateError, match="ours is no profile, or damaged"):
        parse_profile(text[:end], "ours")


# Files


def test_a_file_that_is_not_there_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the profile .*none\.json: No such file"):
        load_profile(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_profile(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x81", b"\x1f\x8b\x08", b"\xff\xfe{\0}\0"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "edge.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"edge\.json is no profile, or damaged"):
        load_profile(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no room
    with pytest.raises(StateError, match=r"huge\.json is no profile: it is larger than 16777216"):
        load_profile(path)


# Two profiles

OTHER: dict[str, tuple[Any, str]] = {
    "net": ("vgg16", "net made and vgg16"),
    "stem": ("cifar", "stem None and cifar"),
    "input_shape": ((1, 8, 8), "input_shape (3, 8, 8) and (1, 8, 8)"),
    "classes": (7, "classes 5 and 7"),
    "batch_size": (8, "batch_size 4 and 8"),
    "precision": ("bf16", "precision fp32 and bf16"),
    "exit": ("mlp", "exit conv and mlp"),
    "version": ("1", "version 0 and 1"),
    "structure": ("1", "structure 0 and 1"),
}


def _other(profile: Profile, *names: str) -> Profile:
    changed = {name: OTHER[name][0] for name in names}
    return replace(profile, subject=replace(profile.subject, **changed))


def test_every_fact_of_the_subject_can_differ(edge: Profile) -> None:
    assert set(OTHER) == {field.name for field in fields(Subject)}
    assert edge.subject.differences(replace(edge.subject)) == []
    for name, (_, words) in OTHER.items():
        assert edge.subject.differences(_other(edge, name).subject) == [words]


def test_the_structure_is_named_where_nothing_else_explains_it(edge: Profile) -> None:
    other = _other(edge, "classes", "structure")
    assert edge.subject.differences(other.subject) == ["classes 5 and 7"]
    other = _other(edge, "net", "structure", "exit")
    assert edge.subject.differences(other.subject) == [OTHER["net"][1], OTHER["exit"][1]]


def test_profiles_of_different_subjects_do_not_belong_together(
    edge: Profile, cloud: Profile
) -> None:
    refuse_difference(edge, cloud, ("pi.json", "gpu.json"))
    message = (
        r"^the profiles of pi\.json and gpu\.json do not belong together: "
        r"classes 5 and 7; batch_size 4 and 8\. Take both with the same flags and version$"
    )
    with pytest.raises(ConfigError, match=message):
        refuse_difference(edge, _other(cloud, "batch_size", "classes"), ("pi.json", "gpu.json"))


# The structure


def test_the_structure_is_what_the_stages_are(edge: Profile, cloud: Profile) -> None:
    digest = structure_digest(edge.stages)
    assert structure_digest(iter(edge.stages)) == digest
    assert structure_digest(cloud.stages) == digest  # another machine has other times
    assert len(digest) == 16
    changes: list[dict[str, Any]] = [
        {"name": "z"},
        {"output_shape": (4, 8, 4)},
        {"params": 11},
        {"forward_macs": 4097.0},
    ]
    others = [structure_digest([replace(edge.stages[0], **c), *edge.stages[1:]]) for c in changes]
    others += [structure_digest(edge.stages[::-1]), structure_digest(edge.stages[1:])]
    assert len({digest, *others}) == 1 + len(others)


def test_what_one_machine_measures_is_no_structure(edge: Profile) -> None:
    first = edge.stages[0]
    for field in fields(Stage):
        if field.name in ("name", "output_shape", "params", "forward_macs"):
            continue
        change: dict[str, Any] = {field.name: None if field.name == "times" else 12345}
        other = replace(first, **change)
        assert structure_digest([other]) == structure_digest([first])


# What a profile answers


def test_cuts_are_all_stages_but_the_last(edge: Profile) -> None:
    assert edge.cuts == ("a", "b", "c")


def test_a_profile_is_measured_where_all_stages_are(edge: Profile) -> None:
    assert edge.measured
    untimed = replace(edge.stages[1], times=None)
    assert not replace(edge, stages=(edge.stages[0], untimed, *edge.stages[2:])).measured


def test_the_values_of_a_stage_are_the_product_of_its_sides(edge: Profile) -> None:
    assert [stage.values for stage in edge.stages] == [256, 64, 32, 5]
    assert replace(edge.stages[0], output_shape=()).values == 1


def test_a_codec_is_found_by_cut_and_name(edge: Profile) -> None:
    assert asdict(edge.codec("b", "int4")) == asdict(edge.codecs["b"][1])
    assert edge.codec(INPUT, "png").bytes_per_sample == 97.0
    assert edge.codec(reply_to("c"), "fp16").bytes_per_sample == 65.0


@pytest.mark.parametrize(
    ("cut", "known", "flag"),
    [
        ("a", "int8, int4", "codecs"),
        (INPUT, "raw, png", "input-codecs"),
        ("nowhere", "none", "codecs"),
    ],
)
def test_a_codec_without_figures_says_how_to_get_them(
    edge: Profile, cut: str, known: str, flag: str
) -> None:
    message = f"no figures for the codec 'zfp' at '{cut}', only for: {known}; .*--{flag} zfp"
    with pytest.raises(ConfigError, match=message):
        edge.codec(cut, "zfp")


def test_operations_without_a_count_are_read_back(edge: Profile) -> None:
    stages = (replace(edge.stages[0], uncounted=("own::mix", "mul")), *edge.stages[1:])
    profile = replace(edge, stages=stages)
    assert parse_profile(profile.to_json(), "ours") == profile
    assert profile.uncounted == ("mul", "own::mix")
