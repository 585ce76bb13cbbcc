"""Made-up motion: what physics demands of it, what is written, and what can be read from it.

Dimension key:  T moments   C channels   N windows   K classes
"""

from math import pi, sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.linalg import cross, lstsq

from eaves.data import gait
from eaves.data.gait import GAITS, Gait, made_up_people, moved, write_motion
from eaves.data.load import load_dataset, make_synthetic
from eaves.data.motion import LIMITS, RATE_HZ, companded, expanded
from eaves.data.source import Source
from eaves.errors import ConfigError, DataError, StorageError


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _trial(activity: str, seed: int = 0, seconds: float = 20) -> Tensor:
    generator = _generator(seed)
    person = made_up_people(6, generator=generator)[0]
    return moved(person, activity, seconds, generator=generator)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set: 16 people, trials of 12 and 6 s."""
    folder = tmp_path_factory.mktemp("data")
    write_motion(folder / "motionsense", subjects=16, seconds=12, generator=_generator())
    return folder


@pytest.mark.parametrize("activity", GAITS)
def test_gravity_attitude_and_rotation_are_of_one_orientation(activity: str) -> None:
    """Read by SciPy: Core Motion's attitude is yaw, pitch and roll about z, x and y."""
    spatial = pytest.importorskip("scipy.spatial.transform", reason="needs the extra 'lab'")
    values_TC = _trial(activity)
    roll_T, pitch_T, yaw_T = values_TC[:, :3].T
    angles_T3 = torch.stack([yaw_T, pitch_T, roll_T], dim=1).numpy()
    phones = spatial.Rotation.from_euler("ZXY", angles_T3)
    gravity_T3 = torch.from_numpy(phones.inv().apply([0.0, 0.0, -1.0]))
    torch.testing.assert_close(gravity_T3, values_TC[:, 3:6], rtol=0, atol=1e-9)
    turned_T3 = torch.from_numpy((phones[:-1].inv() * phones[1:]).as_rotvec()) * RATE_HZ
    # The sensor's own noise has a deviation of 0.012, its drift of 0.004 rad/s.
    assert (turned_T3 - values_TC[:-1, 6:9]).abs().max() < 0.1
    assert (turned_T3 - values_TC[:-1, 6:9]).std() < 0.02


@pytest.mark.parametrize("activity", ["wlk", "jog"])
def test_gravity_turns_against_the_rotation(activity: str) -> None:
    values_TC = _trial(activity)
    gravity_T3, rates_T3 = values_TC[:, 3:6], values_TC[:, 6:9]
    torch.testing.assert_close(gravity_T3.norm(dim=1), torch.ones(len(values_TC)).double())
    changes_T3 = gravity_T3.diff(dim=0) * RATE_HZ
    middles_T3 = (gravity_T3[1:] + gravity_T3[:-1]) / 2
    expected_T3 = -cross(rates_T3[:-1], middles_T3)
    assert (changes_T3 - expected_T3).std() < 0.05 * changes_T3.std()


def test_short_legs_go_faster_by_the_root_of_their_length() -> None:
    person = made_up_people(6, generator=_generator())[0]
    found = []
    for height_m in (1.5, 2.0):
        trial_TC = moved(
            person._replace(height_m=height_m), "wlk", seconds=60, generator=_generator(3)
        )
        powers_F = torch.fft.rfft(trial_TC[:, 6] - trial_TC[:, 6].mean()).abs()
        found.append(int(powers_F[15:].argmax() + 15) / 60)  # the thigh swings once in two steps
    assert found[0] / found[1] == pytest.approx(sqrt(2.0 / 1.5), rel=0.03)


def test_activities_differ_as_they_should() -> None:
    trials = {activity: _trial(activity) for activity in GAITS}
    effort = {name: trial_TC[:, 9:].norm(dim=1).mean().item() for name, trial_TC in trials.items()}
    assert max(effort["sit"], effort["std"]) < 0.05
    assert effort["jog"] > 2 * max(effort["wlk"], effort["ups"], effort["dws"])
    assert min(effort["wlk"], effort["ups"], effort["dws"]) > 0.1
    resting = {name: trials[name][:, 3:6].mean(dim=0) for name in ("sit", "std")}
    angle = torch.dot(resting["sit"], resting["std"]).clamp(-1, 1).acos()
    assert 1 < angle < 1.8  # a thigh lies while its owner sits
    assert 0.8 < resting["std"][1] <= 1  # the phone stands on its head


def test_values_stay_within_what_bytes_can_hold() -> None:
    for activity in GAITS:
        values_TC = _trial(activity)
        assert bool((values_TC.abs() <= torch.tensor(list(LIMITS.values()))).all()), activity
        wrong_TC = expanded(companded(values_TC)) - values_TC
        assert wrong_TC[:, 9:].square().mean() < 0.02 * values_TC[:, 9:].square().mean()


def test_people_are_half_women_who_differ_from_men_on_the_average() -> None:
    people = made_up_people(1000, generator=_generator())
    women, men = ([p for p in people if p.gender == gender] for gender in (0, 1))
    assert len(women) == len(men) == 500
    assert [p.code for p in people] == list(range(1, 1001))
    heights = [torch.tensor([p.height_m for p in group]) for group in (women, men)]
    # Five standard errors of a mean of 500: 1.2 cm.
    assert heights[0].mean().item() == pytest.approx(1.665, abs=0.0125)
    assert heights[1].mean().item() == pytest.approx(1.79, abs=0.0125)
    assert all(30 < p.weight_kg < 180 and 18 <= p.age < 90 for p in people)


def test_a_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_motion(tmp_path / name, subjects=6, seconds=6, generator=_generator(seed))
    a, b, c = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in _files(tmp_path / name)}
        for name in "abc"
    )
    assert a == b
    assert a.keys() == c.keys()
    assert a != c
    assert len(a) == 15 * 6 + 2


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_layout_is_that_of_motionsense_and_says_it_is_synthetic(root: Path) -> None:
    folder = root / "motionsense"
    lines = (folder / "A_DeviceMotion_data/A_DeviceMotion_data/jog_16/sub_3.csv").read_text()
    header, first, *rest = lines.split("\n")
    assert header.startswith(",attitude.roll,attitude.pitch,attitude.yaw,gravity.x,")
    assert (header.count(","), first.count(","), first[:2]) == (12, 12, "0,")
    assert len(rest) == 6 * RATE_HZ  # the last of them is empty
    table = (folder / "data_subjects_info.csv").read_text().split("\n")
    assert table[0] == "code,weight,height,age,gender"
    assert len(table) == 16 + 2
    assert "no person has moved" in (folder / "SYNTHETIC.txt").read_text()
    assert load_dataset("motion", root=root).name == "motion (synthetic)"


def _features(source: Source) -> Tensor:
    """The mean and the deviation of each channel of each window, and 1: (N, 2C + 1)."""
    values_NCT = expanded(source.fetch(torch.arange(len(source))).inputs)[:, :, 0]
    ones_N1 = torch.ones(len(values_NCT), 1)
    return torch.cat([values_NCT.mean(dim=2), values_NCT.std(dim=2), ones_N1], dim=1)


def _read(train: Source, test: Source, name: str) -> float:
    """The share that a linear reader with squares of features gets right on the test."""
    features = [_features(source) for source in (train, test)]
    raised = [torch.cat([x_NF, x_NF[:, :-1] ** 2], dim=1) for x_NF in features]
    labels = []
    for source in (train, test):
        batch = source.fetch(torch.arange(len(source)))
        assert batch.private is not None
        labels.append(batch.labels if name == "task" else batch.private.of(name))
    wanted_NK = torch.nn.functional.one_hot(labels[0]).float()
    weights = lstsq(raised[0], wanted_NK, driver="gelsd").solution
    right_N = (raised[1] @ weights).argmax(dim=1) == labels[1]
    return float(right_N.float().mean())


def test_even_a_linear_reader_finds_activity_gender_and_person(root: Path) -> None:
    """On a fixed set, so there is no false alarm; a small net finds more."""
    known = load_dataset("motion:activity,trials", root=root, private=("subject",))
    unseen = load_dataset("motion", root=root, private=("gender",))
    assert _read(known.train, known.test, "subject") > 8 / 16
    assert _read(unseen.train, unseen.test, "task") > 0.8
    assert _read(unseen.train, unseen.test, "gender") > 0.6


def test_nothing_is_written_over_and_nothing_is_left_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "motionsense").mkdir()
    with pytest.raises(ConfigError, match="motionsense is there already; remove it"):
        make_synthetic("motion", root=tmp_path)
    (tmp_path / "motionsense").rmdir()

    def full(path: Path, values_TC: Tensor) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gait, "_write_trial", full)
    with pytest.raises(StorageError, match="motionsense: No space left on device"):
        make_synthetic("motion", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_made_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="digits is not generated here; these are: motion"):
        make_synthetic("digits", root=tmp_path)
    with pytest.raises(DataError, match="is not a folder that exists"):
        make_synthetic("motion", root=tmp_path / "nowhere")
    for subjects, seconds in ((5, 60.0), (1001, 60.0), (24, 5.0), (24, 601.0)):
        with pytest.raises(ConfigError, match="expected 6 to "):
            write_motion(tmp_path / "x", subjects=subjects, seconds=seconds, generator=_generator())
    with pytest.raises(ConfigError, match="no negative size in a gait"):
        Gait(cadence=1, rise=-0.1, flexion_rad=0, swing_rad=0, impact_g=0)


def test_with_the_fewest_people_every_gender_is_in_both_parts(tmp_path: Path) -> None:
    write_motion(tmp_path / "motionsense", subjects=6, seconds=6, generator=_generator())
    data = load_dataset("motion:gender", root=tmp_path)
    for source in (data.train, data.test):
        assert set(source.fetch(torch.arange(len(source))).labels.tolist()) == {0, 1}


def test_the_swinging_thigh_is_a_pendulum() -> None:
    """At the lowest point of a swing of one radian there is the centripetal part alone."""
    person = made_up_people(6, generator=_generator())[0]
    front_T = torch.sin(2 * pi * torch.arange(-50, 51) / RATE_HZ).double()
    felt_T3 = gait._pendulum(person, front_T)
    expected = 0.25 * person.leg_m * (2 * pi) ** 2 / 9.80665
    assert felt_T3[50, 2].item() == pytest.approx(expected, rel=0.02)
    assert felt_T3[50, :2].abs().max() < 1e-9
