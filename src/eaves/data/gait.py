"""Synthetic motion in the layout of MotionSense, for tests and trials where the set is not at hand.

**Synthetic**: no person has moved, and no figure measured on it says anything about real people. A
file ``SYNTHETIC.txt`` in the folder says so, and ``eaves.data.motion`` carries it into the name.

What is kept from physics: attitude and gravity are two readings of one orientation, the rotation
rate turns each orientation into the next, the acceleration of the pocket is the hip's and what the
swinging thigh adds (a rigid pendulum), all of it in the axes of the phone; cadence goes with the
square root of gravity over the length of the leg (dynamic similarity), the leg is 0.53 of the
height (Drillis and Contini 1966, *Body Segment Parameters*). Heights and weights are near those in
the published table of MotionSense.

What is invented: every other number below, above all how people and genders differ (sway, hip, seat
of the phone, tremor, and a signature of harmonics for each person), chosen so that a small net
tells activities and genders of people it has not seen, and people from other trials of theirs.
There are no stumbles, turns on the spot, pauses, or cloth that moves, and no ground under the feet.
The acceleration has the sign of the movement, which Core Motion may count the other way round.

Dimension key:  T moments   C channels   J three axes   K harmonics of the stride   3 x, y, z
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, sqrt
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor

from eaves.data.motion import (
    FOLDER,
    LAST_LONG_TRIAL,
    LIMITS,
    PEOPLE_FILE,
    RATE_HZ,
    SYNTHETIC_FILE,
    TRIALS_FOLDER,
)
from eaves.errors import ConfigError, StorageError

TRIALS = (
    *("dws_1", "dws_2", "dws_11", "ups_3", "ups_4", "ups_12", "wlk_7", "wlk_8", "wlk_15"),
    *("jog_9", "jog_16", "sit_5", "sit_13", "std_6", "std_14"),
)
FEWEST, MOST = 6, 1000
"""How many people there may be: with fewer, a part of them would lack a gender."""
SHORTEST_S, LONGEST_S = 6.0, 600.0
NOTE = """Synthetic motion, written by eaves.data.gait: no person has moved.
It has the layout of MotionSense (https://github.com/mmalekzadeh/motion-sense) and none of its data.
"""

_SEED = 3  # of 0 to 3, with which a small net is right on 91 to 100 %: one where it errs a little
_GRAVITY = 9.80665
_LEG_OF_HEIGHT = 0.53
_WALKING_HZ = 1.75  # steps a second, of a person whose leg is a metre
_POCKET_OF_LEG = 0.25  # how far below the hip the pocket is
_HARMONICS = 5
_DT_S = 1 / RATE_HZ
# The phone stands on its head, its screen to the front: its axes in those of the thigh, as columns.
_SEAT_33 = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)


@final
@dataclass(frozen=True, kw_only=True)
class Gait:
    """How an activity is done by a person like all others; a cadence of 0: not moving along."""

    cadence: float
    """Steps, as a share of those in walking."""
    rise: float
    """How far the hip rises and falls with each step, as a share of the leg."""
    flexion_rad: float
    """How far the thigh is to the front on the average."""
    swing_rad: float
    """How far it swings to each side of that."""
    impact_g: float
    """What a heel gives when it strikes, in gravities."""
    lead_rad: float = 0.0
    """How far the hip is ahead of the thigh in the stride, over walking."""

    def __post_init__(self) -> None:
        if min(self.cadence, self.rise, self.swing_rad, self.impact_g) < 0:
            raise ConfigError(f"expected no negative size in a gait, got {self}; give its size")


GAITS: dict[str, Gait] = {
    "dws": Gait(
        cadence=1.0, rise=0.032, flexion_rad=0.24, swing_rad=0.24, impact_g=0.70, lead_rad=-0.4
    ),
    "ups": Gait(
        cadence=0.84, rise=0.022, flexion_rad=0.44, swing_rad=0.40, impact_g=0.12, lead_rad=0.3
    ),
    "wlk": Gait(cadence=1.0, rise=0.026, flexion_rad=0.10, swing_rad=0.38, impact_g=0.30),
    "jog": Gait(
        cadence=1.48, rise=0.040, flexion_rad=0.25, swing_rad=0.55, impact_g=1.10, lead_rad=0.25
    ),
    "sit": Gait(cadence=0.0, rise=0.0, flexion_rad=1.40, swing_rad=0.0, impact_g=0.0),
    "std": Gait(cadence=0.0, rise=0.0, flexion_rad=0.0, swing_rad=0.0, impact_g=0.0),
}


@final
class Person(NamedTuple):
    """Who moves: what the table says, and what it does not."""

    code: int
    gender: int
    height_m: float
    weight_kg: float
    age: int
    pace: float
    """Their cadence, as a share of that of others with such legs."""
    sway: float
    """How far the hip goes to the sides, as a share of how far it rises."""
    vigour: float
    """How far the thigh swings, as a share of others'."""
    landing: float
    """How hard they tread, as a share of others'."""
    stoop_rad: float
    """How far to the front the thigh is at rest."""
    seat: Tensor
    """How the phone sits in the pocket: turned about the three axes, (J,) rad."""
    tremor_hz: float
    """How fast they tremble, moving or not."""
    tremor_g: float
    """And how much, in gravities."""
    gains: Tensor
    """The logarithms of what their harmonics are, over others', (J, K)."""
    phases: Tensor
    """The phases of their harmonics, (J, K) rad."""

    @property
    def leg_m(self) -> float:
        """The length of the leg."""
        return _LEG_OF_HEIGHT * self.height_m


def write_motion(
    folder: Path, *, subjects: int = 24, seconds: float = 60.0, generator: torch.Generator
) -> None:
    """Write synthetic people and trials into ``folder``, which must not be there yet.

    Half of the ``subjects`` are women. Each has the 15 trials of MotionSense, long ones of
    ``seconds`` and short ones of half as many. Either everything is written or nothing is.

    Raises:
        ConfigError: something is there, or there would be too few people or too short trials.
        StorageError: the disk is full or refuses to be written.
    """
    if folder.exists():
        raise ConfigError(f"{folder} is there already; remove it, or choose another data root")
    if not FEWEST <= subjects <= MOST:
        raise ConfigError(f"expected {FEWEST} to {MOST} subjects, got {subjects}")
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise ConfigError(f"expected {SHORTEST_S:g} to {LONGEST_S:g} seconds, got {seconds}")
    people = made_up_people(subjects, generator=generator)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            whole = Path(scratch) / folder.name
            _write(whole, people, seconds, generator)
            whole.rename(folder)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}; make room there") from error


def make_up(root: Path) -> None:
    """Write the set that ``eaves data motion --synthetic`` makes under a data root.

    Raises:
        ConfigError: something is there.
        StorageError: the disk is full or refuses to be written.
    """
    write_motion(root / FOLDER, generator=torch.Generator().manual_seed(_SEED))


def made_up_people(subjects: int, *, generator: torch.Generator) -> list[Person]:
    """Return people, half of them women, in no order of gender."""
    order = torch.randperm(subjects, generator=generator).tolist()
    return [
        _person(code, int(place >= subjects / 2), generator)
        for code, place in enumerate(order, start=1)
    ]


def moved(person: Person, activity: str, seconds: float, *, generator: torch.Generator) -> Tensor:
    """Return a trial of a person, float64 (T, C): the channels in the order of ``LIMITS``.

    The phone is taken out and put back before each trial, so its seat is never quite the same.
    """
    moments = round(seconds * RATE_HZ)
    gait, draws = GAITS[activity], _Draws(generator)
    phase_T = _phase(person, gait, moments, draws)
    thigh_TJ = _thigh(person, gait, phase_T, draws)
    hip_T3 = _hip(person, gait, phase_T, draws) + _pendulum(person, thigh_TJ[:, 0])
    heading_T = _heading(gait, moments, draws)
    seat_33 = _turned(0.02 * draws.normal(3) + person.seat) @ _SEAT_33
    world_T33 = _orientation(thigh_TJ, heading_T) @ seat_33
    felt_T3 = _felt(world_T33, hip_T3, heading_T) + 0.004 * draws.normal(moments, 3)
    drift_T3 = torch.stack([draws.wandering(moments, every_s=10) for _ in range(3)], dim=1)
    turning_T3 = _rates(world_T33) + 0.012 * draws.normal(moments, 3) + 0.004 * drift_T3
    return torch.cat([_attitude(world_T33), -world_T33[:, 2], turning_T3, felt_T3], dim=1)


@final
class _Draws:
    """Random numbers from one generator, float64."""

    def __init__(self, generator: torch.Generator):
        self._generator = generator

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)

    def uniform(self) -> float:
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def one(self, spread: float) -> float:
        """Return a normal number of this deviation."""
        return spread * float(self.normal(1))

    def factor(self, spread: float) -> float:
        """Return a factor near 1, whose logarithm has this deviation."""
        return float((spread * self.normal(1)).exp())

    def wandering(self, moments: int, *, every_s: float) -> Tensor:
        """Return (T,) of about unit size that changes within ``every_s``."""
        knots = self.normal(1, 1, 2 + int(moments * _DT_S / every_s) + 1)
        return torch.nn.functional.interpolate(
            knots, size=moments, mode="linear", align_corners=True
        )[0, 0]


def _person(code: int, gender: int, generator: torch.Generator) -> Person:
    draws, woman = _Draws(generator), 1 - gender
    height_m = 1.79 - 0.125 * woman + draws.one(0.055)
    return Person(
        code=code,
        gender=gender,
        height_m=round(height_m, 2),
        weight_kg=round(23.5 * draws.factor(0.12) * height_m**2),
        age=18 + round(abs(draws.one(12))),
        pace=(1 + 0.02 * woman) * draws.factor(0.04),
        sway=(0.5 + 0.5 * woman) * draws.factor(0.18),
        vigour=draws.factor(0.12),
        landing=(1.15 - 0.35 * woman) * draws.factor(0.2),
        stoop_rad=draws.one(0.06),
        seat=torch.tensor([0.0, 0.0, 0.25 + 0.6 * woman], dtype=torch.float64)
        + 0.18 * draws.normal(3),
        tremor_hz=7 + 5 * draws.uniform(),
        tremor_g=0.008 * draws.factor(0.4),
        gains=0.22 * draws.normal(3, _HARMONICS),
        phases=0.3 * draws.normal(3, _HARMONICS),
    )


def _step_hz(person: Person, gait: Gait) -> float:
    """Return the steps in a second; 0 where there are none."""
    return _WALKING_HZ * sqrt(1 / person.leg_m) * person.pace * gait.cadence


def _phase(person: Person, gait: Gait, moments: int, draws: _Draws) -> Tensor:
    """Return how far in its strides (two steps, 2 pi) the leg with the phone is, (T,) rad."""
    hz_T = (
        _step_hz(person, gait)
        / 2
        * draws.factor(0.025)
        * (1 + 0.02 * draws.wandering(moments, every_s=1))
    )
    return 2 * pi * (hz_T.cumsum(0) * _DT_S + draws.uniform())


def _heading(gait: Gait, moments: int, draws: _Draws) -> Tensor:
    """Return where somebody goes, (T,) rad from where the phone was switched on."""
    turning_rad_s = 0.35 if gait.cadence else 0.005
    turned_T = turning_rad_s * draws.wandering(moments, every_s=4).cumsum(0) * _DT_S
    return 2 * pi * draws.uniform() + turned_T


def _thigh(person: Person, gait: Gait, phase_T: Tensor, draws: _Draws) -> Tensor:
    """Return how the thigh is turned: to the front, to the side, about itself; (T, 3) rad."""
    moments = len(phase_T)
    lean = gait.flexion_rad + person.stoop_rad + draws.one(0.03)
    swing = gait.swing_rad * person.vigour * draws.factor(0.05)
    second = 0.3 * torch.sin(2 * phase_T + 0.8 + person.phases[0, 1])
    front_T = lean + swing * (torch.sin(phase_T) + second)
    side_T = 0.25 * swing * person.sway * torch.cos(phase_T + person.phases[1, 0])
    about_T = 0.3 * swing * torch.sin(phase_T + 0.6 + person.phases[2, 0])
    still = [0.01 * draws.wandering(moments, every_s=s) for s in (0.6, 1.1, 1.7)]
    return torch.stack([front_T, side_T, about_T], dim=1) + torch.stack(still, dim=1)


# What harmonics of the stride move the hip forward, left and up, for a rise of 1.
_SHAPE_JK = torch.tensor(
    [[0.10, 0.45, 0.08, 0.12, 0.04], [0.60, 0.10, 0.25, 0.05, 0.06], [0.12, 1.00, 0.10, 0.30, 0.05]]
)
_LAG_JK = torch.tensor(
    [[0.4, 1.6, 0.2, 0.9, 0.0], [1.2, 0.3, 2.0, 0.5, 0.0], [0.0, 0.0, 0.7, 1.1, 0.0]]
)


def _hip(person: Person, gait: Gait, phase_T: Tensor, draws: _Draws) -> Tensor:
    """Return the acceleration of the hip, forward, left and up: (T, 3) in gravities."""
    moments = len(phase_T)
    size = gait.rise * person.leg_m * (2 * pi * _step_hz(person, gait)) ** 2 / _GRAVITY
    order_K = torch.arange(1, _HARMONICS + 1)
    angles_TJK = (phase_T[:, None, None] + gait.lead_rad) * order_K + _LAG_JK + person.phases
    gains_JK = _SHAPE_JK * person.gains.exp()
    gains_JK = gains_JK * torch.tensor([1.0, person.sway, 1.0])[:, None]
    body_T3 = size * draws.factor(0.06) * (gains_JK * angles_TJK.cos()).sum(dim=2)
    tread_T = gait.impact_g * person.landing * (1 + 0.2 * draws.wandering(moments, every_s=0.5))
    own_T, other_T = _strike(phase_T - 0.9), _strike(phase_T - 0.9 - pi)
    struck_T = tread_T * (own_T + 0.45 * other_T)
    heel_T3 = torch.stack([-0.4 * struck_T, 0.15 * tread_T * (own_T - other_T), struck_T], dim=1)
    return body_T3 + heel_T3 + _tremor(person, moments, draws)


def _tremor(person: Person, moments: int, draws: _Draws) -> Tensor:
    """Return how somebody trembles, forward, left and up: (T, 3) in gravities."""
    hz_T = person.tremor_hz + 0.3 * draws.wandering(moments, every_s=1)
    starts_3 = 2 * pi * torch.tensor([draws.uniform() for _ in range(3)])
    angle_T1 = 2 * pi * (hz_T.cumsum(0) * _DT_S)[:, None]
    size_T1 = person.tremor_g * draws.wandering(moments, every_s=0.7).abs()[:, None]
    return size_T1 * (angle_T1 + starts_3).sin()


def _strike(phase_T: Tensor) -> Tensor:
    """Return a short pulse, of 1 where the phase is a multiple of 2 pi."""
    return (40 * (phase_T.cos() - 1)).exp()


def _pendulum(person: Person, front_T: Tensor) -> Tensor:
    """Return what a swinging thigh adds at the pocket, forward, left and up: (T, 3) in gravities.

    The pocket is at ``length (sin, 0, -cos)`` below the hip.
    """
    length_m = _POCKET_OF_LEG * person.leg_m
    (speed_T,) = torch.gradient(front_T, spacing=_DT_S)
    (gain_T,) = torch.gradient(speed_T, spacing=_DT_S)
    sin_T, cos_T = front_T.sin(), front_T.cos()
    forward_T = gain_T * cos_T - speed_T**2 * sin_T
    up_T = gain_T * sin_T + speed_T**2 * cos_T
    sideways_T = torch.zeros_like(front_T)
    return torch.stack([forward_T, sideways_T, up_T], dim=1) * length_m / _GRAVITY


def _orientation(thigh_TJ: Tensor, heading_T: Tensor) -> Tensor:
    """Return the axes of the thigh in those of the world, (T, 3, 3)."""
    front_T, side_T, about_T = thigh_TJ.unbind(1)
    leaning_T33 = _about(1, -front_T) @ _about(0, side_T) @ _about(2, about_T)
    return _about(2, heading_T) @ leaning_T33


def _about(axis: int, angle_T: Tensor) -> Tensor:
    """Return rotations by an angle about one of the three axes, (T, 3, 3)."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn_T33 = torch.eye(3, dtype=angle_T.dtype).repeat(len(angle_T), 1, 1)
    turn_T33[:, first, first] = turn_T33[:, second, second] = angle_T.cos()
    turn_T33[:, second, first] = angle_T.sin()
    turn_T33[:, first, second] = -angle_T.sin()
    return turn_T33


def _turned(angles_J: Tensor) -> Tensor:
    """Return a rotation about the three axes, one after the other, (3, 3)."""
    x_33, y_33, z_33 = (_about(axis, angles_J[axis : axis + 1])[0] for axis in range(3))
    return z_33 @ y_33 @ x_33


def _felt(world_T33: Tensor, moving_T3: Tensor, heading_T: Tensor) -> Tensor:
    """Return an acceleration forward, left and up in the axes of the phone, (T, 3)."""
    in_world_T31 = _about(2, heading_T) @ moving_T3[:, :, None]
    return (world_T33.mT @ in_world_T31)[:, :, 0]


def _attitude(world_T33: Tensor) -> Tensor:
    """Return roll, pitch and yaw, (T, 3) rad, where the orientation is yaw pitch roll (z, x, y).

    So gravity is (sin roll cos pitch, -sin pitch, -cos roll cos pitch), as Core Motion has it.
    """
    roll_T = torch.atan2(-world_T33[:, 2, 0], world_T33[:, 2, 2])
    pitch_T = world_T33[:, 2, 1].clamp(-1, 1).asin()
    yaw_T = torch.atan2(-world_T33[:, 0, 1], world_T33[:, 1, 1])
    return torch.stack([roll_T, pitch_T, yaw_T], dim=1)


def _rates(world_T33: Tensor) -> Tensor:
    """Return the rotation that turns each orientation into the next, (T, 3) rad/s; the last twice.

    It is in the axes of the phone: the logarithm of ``R_t^T R_(t+1)``, over the time between them.
    """
    turn_T33 = world_T33[:-1].mT @ world_T33[1:]
    skew_T33 = (turn_T33 - turn_T33.mT) / 2
    sine_T3 = torch.stack([skew_T33[:, 2, 1], skew_T33[:, 0, 2], skew_T33[:, 1, 0]], dim=1)
    size_T1 = sine_T3.norm(dim=1, keepdim=True)
    cosine_T1 = (turn_T33.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) - 1) / 2
    angle_T1 = torch.atan2(size_T1, cosine_T1)
    rates_T3 = sine_T3 * angle_T1 / size_T1.clamp(min=1e-12) / _DT_S
    return torch.cat([rates_T3, rates_T3[-1:]])


def _write(
    folder: Path, people: Sequence[Person], seconds: float, generator: torch.Generator
) -> None:
    inner = folder / TRIALS_FOLDER / TRIALS_FOLDER
    for trial in TRIALS:
        (inner / trial).mkdir(parents=True)
        activity, _, number = trial.partition("_")
        length_s = seconds if int(number) < LAST_LONG_TRIAL else seconds / 2
        for person in people:
            values_TC = moved(person, activity, length_s, generator=generator)
            _write_trial(inner / trial / f"sub_{person.code}.csv", values_TC)
    rows = [f"{p.code},{p.weight_kg:.0f},{p.height_m * 100:.0f},{p.age},{p.gender}" for p in people]
    table = "\n".join(["code,weight,height,age,gender", *rows, ""])
    (folder / PEOPLE_FILE).write_text(table, encoding="utf-8")
    (folder / SYNTHETIC_FILE).write_text(NOTE, encoding="utf-8")


def _write_trial(path: Path, values_TC: Tensor) -> None:
    form = "%d" + ",%.6f" * len(LIMITS) + "\n"
    rows = [form % (index, *row) for index, row in enumerate(values_TC.tolist())]
    header = "," + ",".join(LIMITS) + "\n"  # the index has no name
    path.write_text(header + "".join(rows), encoding="utf-8")
