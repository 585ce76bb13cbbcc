"""Windows of motion, on files made up in the layout of MotionSense.

Here nothing moves: of a trial the roll is its person's code / 10 and the pitch its activity's.

Dimension key:  N windows   C channels
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eaves.data import motion
from eaves.data.load import interface_of, load_dataset
from eaves.data.motion import ACTIVITIES, LIMITS, SHAPE, companded, expanded, load_motion
from eaves.data.source import Request, Source
from eaves.errors import ConfigError, DataError

_LONG = ("dws_1", "ups_3", "wlk_7", "jog_9", "sit_5", "std_6")
_ALL = (*_LONG, "dws_11", "ups_12", "wlk_15", "jog_16", "sit_13", "std_14")
_PEOPLE = {code: code % 2 for code in range(1, 13)}


def _write(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        ",".join([str(i), *(f"{row.get(name, 0):.6f}" for name in LIMITS)])
        for i, row in enumerate(rows)
    ]
    path.write_text("\n".join(["," + ",".join(LIMITS), *lines, ""]))


def _table(folder: Path, people: Mapping[int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{code},70,170,30,{gender}" for code, gender in people.items()]
    table = ["code,weight,height,age,gender", *rows, ""]
    (folder / "data_subjects_info.csv").write_text("\n".join(table))


def _set(
    root: Path,
    *,
    people: Mapping[int, int] = _PEOPLE,
    trials: Iterable[str] = _ALL,
    moments: int = 130,
) -> Path:
    """Write a set, and return the folder of its trials."""
    folder = root / "motionsense"
    _table(folder, people)
    inner = folder / "A_DeviceMotion_data" / "A_DeviceMotion_data"
    for trial in trials:
        pitch = (1 + list(ACTIVITIES).index(trial.partition("_")[0])) / 10
        for code in people:
            row = {"attitude.roll": code / 10, "attitude.pitch": pitch}
            _write(inner / trial / f"sub_{code}.csv", [row] * moments)
    return inner


def _told(source: Source) -> tuple[list[int], list[int]]:
    """The person and the activity of each window, as its own values tell them."""
    values_NCHW = expanded(source.fetch(torch.arange(len(source))).inputs)
    people_N = (values_NCHW[:, 0, 0, 0] * 10).round().int()
    return people_N.tolist(), ((values_NCHW[:, 1, 0, 0] * 10).round().int() - 1).tolist()


def test_windows_overlap_by_half_and_never_leave_their_trial(tmp_path: Path) -> None:
    inner = _set(tmp_path)
    steps = [{"userAcceleration.x": 8 * (i / 400) ** 2} for i in range(400)]  # linear in bytes
    for trial, moments in (("wlk_7", 400), ("wlk_15", 127)):
        for code in _PEOPLE:
            _write(inner / trial / f"sub_{code}.csv", steps[:moments])
    data = load_motion(Request(root=tmp_path))
    assert data.name == "motion"
    assert (data.train.input_shape, data.augment) == (SHAPE, "none") == ((12, 1, 128), "none")
    batch = data.train.fetch(torch.arange(len(data.train)))
    walked_NCHW = batch.inputs[batch.labels == list(ACTIVITIES).index("wlk")]
    # Of 400 moments five windows, the last from 256 to 383; of 127 none.
    assert len(walked_NCHW) == 5 * 9
    expected_W = (128 + 127 * torch.arange(400) / 400).round().to(torch.uint8)
    windows = {tuple(window.tolist()) for window in walked_NCHW[:, 9, 0]}
    assert windows == {tuple(expected_W[i : i + 128].tolist()) for i in range(0, 257, 64)}


def test_labels_are_of_the_trial_and_the_person(tmp_path: Path) -> None:
    _set(tmp_path)
    private = ("subject", "gender")
    data = load_motion(Request(root=tmp_path, option="activity,trials", private=private))
    assert data.name == "motion:activity,trials"
    assert data.classes == tuple(ACTIVITIES.values())
    assert data.private_classes["gender"] == ("female", "male")
    assert data.private_classes["subject"] == tuple(map(str, range(1, 13)))
    for source in (data.train, data.test):
        people, activities = _told(source)
        batch = source.fetch(torch.arange(len(source)))
        assert batch.private is not None
        assert batch.labels.tolist() == activities
        assert [code + 1 for code in batch.private.of("subject").tolist()] == people
        assert batch.private.of("gender").tolist() == [_PEOPLE[code] for code in people]
        assert set(people) == set(_PEOPLE)


def test_by_trials_the_short_ones_are_for_the_test(tmp_path: Path) -> None:
    inner = _set(tmp_path)
    for code in _PEOPLE:  # two windows in each long trial of walking
        _write(inner / "wlk_7" / f"sub_{code}.csv", [{"attitude.yaw": 1}] * 192)
    data = load_motion(Request(root=tmp_path, option="activity,trials"))
    assert (len(data.train), len(data.test)) == (12 * 7, 12 * 6)


def test_by_subjects_a_fixed_quarter_of_the_people_is_for_the_test(tmp_path: Path) -> None:
    people = {code: int(code > 10) for code in range(1, 25)}
    _set(tmp_path, people=people, trials=_LONG)
    data = load_motion(Request(root=tmp_path))
    tested, trained = ({*_told(source)[0]} for source in (data.test, data.train))
    assert tested | trained == set(people)
    assert not tested & trained
    assert len(tested) == 6
    assert {people[code] for code in tested} == {people[code] for code in trained} == {0, 1}
    again = load_motion(Request(root=tmp_path, option="gender", train_samples=50))
    assert {*_told(again.test)[0]} == tested


def test_other_attributes_and_fewer_examples_leave_the_windows_as_they_are(tmp_path: Path) -> None:
    _set(tmp_path)
    plain = load_motion(Request(root=tmp_path))
    other = load_motion(Request(root=tmp_path, option="gender", private=("activity",)))
    few = load_motion(Request(root=tmp_path, train_samples=20))
    assert _told(other.train) == _told(plain.train)
    assert _told(other.test) == _told(few.test) == _told(plain.test)
    assert (other.name, other.classes, other.private) == (
        *("motion:gender", ("female", "male")),
        ("activity",),
    )
    assert (other.mean, other.std) == (plain.mean, plain.std)
    assert len(few.train) == 20


def test_trials_may_lie_a_folder_higher(tmp_path: Path) -> None:
    inner = _set(tmp_path)
    whole = _told(load_motion(Request(root=tmp_path)).train)
    inner.rename(inner.parent.parent / "moved")
    inner.parent.rmdir()
    (inner.parent.parent / "moved").rename(inner.parent)
    assert _told(load_motion(Request(root=tmp_path)).train) == whole
    assert motion.missing(tmp_path) == []


def test_made_up_data_say_so(tmp_path: Path) -> None:
    inner = _set(tmp_path)
    (inner.parent.parent / "SYNTHETIC.txt").touch()
    assert load_motion(Request(root=tmp_path)).name == "motion (synthetic)"
    assert load_motion(Request(root=tmp_path, option="gender")).name == "motion:gender (synthetic)"


def test_what_is_known_without_looking() -> None:
    assert interface_of("motion").input_shape == (12, 1, 128)
    assert interface_of("motion").classes == tuple(ACTIVITIES.values())
    assert interface_of("motion:gender,trials").classes == ("female", "male")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(image_size=32), "12 channels of 128 moments, got image_size=32; leave it out"),
        (Request(option="speed"), "unknown task of motion 'speed'; choose from: "),
        (Request(option="subject"), "unknown task of motion 'subject'"),
        (Request(option="gender,windows"), "unknown way to divide motion 'windows'"),
        (Request(private=("activity",)), "the private attribute is the task itself"),
        (Request(private=("subject",)), "other people in the test; write motion:activity,trials"),
        (Request(option="gender", private=("subject",)), "write motion:gender,trials"),
        (Request(private=("age",)), "unknown private attribute 'age'; choose from: "),
    ],
)
def test_what_does_not_fit_the_set_is_refused_before_it_is_read(
    request_: Request, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_motion(request_)


def test_a_gender_that_nobody_has_can_neither_be_learnt_nor_hidden(tmp_path: Path) -> None:
    _set(tmp_path, people=dict.fromkeys(range(1, 13), 0), trials=_LONG)
    for request in (
        Request(root=tmp_path, private=("gender",)),
        Request(root=tmp_path, option="gender"),
    ):
        with pytest.raises(DataError, match="in the part to train, found none of male"):
            load_motion(request)
    assert len(load_motion(Request(root=tmp_path)).test) == 3 * 6


def test_who_moves_may_be_hidden_where_the_gender_is_learnt(tmp_path: Path) -> None:
    _set(tmp_path)
    data = load_motion(Request(root=tmp_path, option="gender,trials", private=("subject",)))
    assert (data.private, len(data.private_classes["subject"])) == (("subject",), 12)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*data_subjects_info.csv"):
        load_motion(Request(root=tmp_path))
    assert motion.missing(tmp_path) == [
        *("motionsense/A_DeviceMotion_data", "motionsense/data_subjects_info.csv"),
    ]
    _table(tmp_path / "motionsense", _PEOPLE)
    with pytest.raises(DataError, match=r"no folder .*A_DeviceMotion_data; unpack"):
        load_motion(Request(root=tmp_path))


def test_names_that_are_not_in_the_layout_are_named(tmp_path: Path) -> None:
    inner = _set(tmp_path)
    (inner / ".DS_Store").touch()
    (inner / "notes.txt").touch()
    (inner / "run_1").mkdir()
    with pytest.raises(DataError, match=r"run_1: expected a name such as wlk_7 .* of dws, ups"):
        load_motion(Request(root=tmp_path))
    (inner / "run_1").rmdir()
    (inner / "wlk_7" / "sub_x.csv").touch()
    with pytest.raises(DataError, match=r"sub_x.csv: expected a name such as sub_3.csv"):
        load_motion(Request(root=tmp_path))
    (inner / "wlk_7" / "sub_x.csv").rename(inner / "wlk_7" / "sub_99.csv")
    with pytest.raises(DataError, match=r"sub_99.csv: .*_info.csv has no row for the person 99"):
        load_motion(Request(root=tmp_path))


def test_a_damaged_trial_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = _set(tmp_path) / "jog_9" / "sub_4.csv"
    lines = path.read_text().split("\n")
    lines[77] = lines[77].rpartition(",")[0] + ",nan"
    path.write_text("\n".join(lines))
    wrong = r"jog_9.sub_4.csv, line 78, column userAcceleration.z: expected a finite .* 'nan'"
    with pytest.raises(DataError, match=wrong):
        load_motion(Request(root=tmp_path))
    path.write_text("\n".join(lines).replace("gravity.x", "gravity"))
    with pytest.raises(DataError, match=r"sub_4.csv, line 1, column gravity.x: expected it once"):
        load_motion(Request(root=tmp_path))


def test_a_set_without_a_window_and_a_part_without_a_class_are_refused(tmp_path: Path) -> None:
    inner = _set(tmp_path, moments=127)
    with pytest.raises(DataError, match="a trial of 128 or more rows, found none in 144 files"):
        load_motion(Request(root=tmp_path))
    _set(tmp_path)
    for code in _PEOPLE:
        (inner / "sit_13" / f"sub_{code}.csv").unlink()
    with pytest.raises(DataError, match="in the part to test, found none of sitting"):
        load_motion(Request(root=tmp_path, option="activity,trials"))


def test_more_than_fits_into_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(tmp_path)
    monkeypatch.setattr(motion, "MEMORY_LIMIT_BYTES", 1_000_000)
    monkeypatch.setattr(motion, "read_columns", None)
    with pytest.raises(DataError, match="bytes of trials, more than the 1,000,000 that are read"):
        load_motion(Request(root=tmp_path))


def test_private_attributes_come_through_by_name(tmp_path: Path) -> None:
    _set(tmp_path)
    data = load_dataset("motion:activity,trials", root=tmp_path, private=("Subject",))
    assert data.private == ("subject",)


def test_every_byte_but_0_is_its_own_value_and_back() -> None:
    bytes_NC = torch.arange(1, 256, dtype=torch.uint8)[:, None].expand(-1, 12)
    values_NC = expanded(bytes_NC)
    assert torch.equal(companded(values_NC), bytes_NC)
    assert bool((values_NC.diff(dim=0) > 0).all())
    assert values_NC[127].abs().max() == 0
    limits_C = torch.tensor(list(LIMITS.values()))
    assert torch.equal(values_NC[254], limits_C)
    assert torch.equal(values_NC[0], -limits_C)


@given(st.floats(-1, 1), st.integers(0, 11))
def test_a_value_comes_back_within_half_a_step_of_its_root(share: float, channel: int) -> None:
    limit = list(LIMITS.values())[channel]
    values = torch.full((2, 12, 1, 3), share * limit, dtype=torch.float64)
    found = expanded(companded(values))[0, channel, 0, 0].item() / limit
    root, found_root = (abs(s) ** 0.5 * (1 if s >= 0 else -1) for s in (share, found))
    assert abs(root - found_root) <= 0.5 / 127 + 1e-6


def test_the_first_and_last_steps_are_as_documented() -> None:
    step_C = expanded(torch.full((1, 12), 129, dtype=torch.uint8))[0]
    assert step_C[9].item() == pytest.approx(0.0005, abs=5e-6)
    assert step_C[9].item() * 9.80665 == pytest.approx(0.0049, abs=5e-5)
    assert step_C[6].item() == pytest.approx(0.0022, abs=5e-5)
    assert step_C[0].item() == pytest.approx(0.0002, abs=1e-5)
    below = expanded(torch.full((1, 12), 254, dtype=torch.uint8))[0]
    assert 1 - below[9].item() / 8 == pytest.approx(0.016, abs=5e-4)
    assert torch.tensor(motion.FULL_TURN_RAD_S).rad2deg().item() == pytest.approx(2000)


def test_values_beyond_their_limit_are_kept_to_it() -> None:
    beyond_NC = torch.tensor(list(LIMITS.values())).mul(-1.5)[None]
    assert companded(beyond_NC).tolist() == [[1] * 12]


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 12 channels .* got \(2, 3\)"):
        companded(torch.zeros(2, 3))


# Nothing is left out without a word


def test_short_trials_and_people_without_one_are_named(tmp_path: Path) -> None:
    inner = _set(tmp_path, trials=(*_ALL, "wlk_8"))
    assert load_motion(Request(root=tmp_path)).notices == ()
    for code in (2, 5):
        _write(inner / "wlk_8" / f"sub_{code}.csv", [{}] * 127)
    _table(tmp_path / "motionsense", {**_PEOPLE, 40: 1})
    short, absent = load_motion(Request(root=tmp_path)).notices
    assert "2 trials are shorter than a window of 128 moments" in short
    assert "'wlk_8/sub_2.csv', 'wlk_8/sub_5.csv'" in short
    assert "data_subjects_info.csv: 1 of 13 people have no window: '40'" in absent


def test_files_beside_the_trials_are_named(tmp_path: Path) -> None:
    inner = _set(tmp_path)
    (inner / "wlk_7.csv").write_text("a trial in the wrong place")
    (notice,) = load_motion(Request(root=tmp_path)).notices
    assert "not read: 1 file (1 .csv), the first of them 'wlk_7.csv'" in notice


def test_another_unit_is_noticed_by_what_is_cut_to_the_limit(tmp_path: Path) -> None:
    inner = _set(tmp_path)
    for path in inner.glob("*/*.csv"):
        _write(path, [{"userAcceleration.x": 9.80665, "gravity.z": -1.0}] * 130)
    (notice,) = load_motion(Request(root=tmp_path)).notices
    assert "userAcceleration.x (100.0%, limit 8)" in notice
    assert "gravity.z" not in notice
