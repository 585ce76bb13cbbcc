"""Machines: one that was measured, made slower, or a preset that a profile is scaled to.

A preset is a roofline (Williams et al. 2009): an operation takes as long as its arithmetic at the
effective rate or as its memory traffic at the effective bandwidth, whichever is longer, and a fixed
time to be started. It is good to a factor, not to a percent: measure the device where you can.
"""

from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import final

from eaves.errors import ConfigError
from eaves.planner.profile import CodecCost, Profile, Seconds, Stage, StageTimes
from eaves.planner.scenario import Power

_UPDATE_BYTES = 5 * 4  # SGD with momentum reads weight, gradient, momentum and writes two of them


@final
@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A device in figures. ``flops`` are floating point operations per second: two for each MAC."""

    about: str
    peak_flops: float
    """Of fp32 arithmetic, by its data sheet."""
    efficiency: float
    """The share of it that training convolutional nets reaches."""
    bandwidth_bytes_s: float
    """Of the memory, by its data sheet."""
    memory_bytes: float
    start_s: float
    """To start one operation, whatever its size."""
    cpu_slowdown: float
    """How many times longer codecs take than where the profile was taken; a rough guess."""
    power: Power | None
    source: str

    def __post_init__(self) -> None:
        for name in ("peak_flops", "bandwidth_bytes_s", "memory_bytes", "cpu_slowdown"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ConfigError(f"expected {name} above 0, got {value}")
        if not 0 < self.efficiency <= 1:
            raise ConfigError(f"expected an efficiency in (0, 1], got {self.efficiency}")
        if not (isfinite(self.start_s) and self.start_s >= 0):
            raise ConfigError(f"expected start_s of 0 or more, got {self.start_s}")

    @property
    def effective_flops(self) -> float:
        """Floating point operations per second that training reaches."""
        return self.peak_flops * self.efficiency

    def times(self, stage: Stage, batch_size: int) -> StageTimes:
        """Return what a batch takes in ``stage``; going backward moves twice the bytes.

        A stage without weights has no update, and nothing to do for a gradient that ends there.
        """
        moved_bytes = batch_size * stage.moved_bytes
        ahead_s = self._seconds(batch_size * stage.forward_macs, moved_bytes, stage.operations)
        back_s, leaf_s = (
            self._seconds(batch_size * macs, 2 * moved_bytes, 2 * stage.operations)
            for macs in (stage.backward_macs, stage.backward_leaf_macs)
        )
        update_s = self._seconds(0.0, _UPDATE_BYTES * stage.params, stage.operations)
        if not stage.params:
            leaf_s = update_s = 0.0
        times = (ahead_s, back_s, leaf_s, update_s, ahead_s)
        return StageTimes(*map(Seconds, times))

    def _seconds(self, macs: float, moved_bytes: float, operations: int) -> float:
        computing_s = 2 * macs / self.effective_flops
        moving_s = moved_bytes / self.bandwidth_bytes_s
        return max(computing_s, moving_s) + operations * self.start_s


# Peaks and watts are those of data sheets unless a source says otherwise. Efficiency is the rate of
# a measured training or inference over the peak, at 8.2 GFLOP for ResNet-50 forward and 24.6 for a
# step; what has no measurement has the efficiency of its nearest relative ("as"). Bandwidths are
# three quarters of the data sheet's. start_s and cpu_slowdown are guesses of ours.
_BOARD_S, _DESKTOP_S = 50e-6, 10e-6
_REACHED = 0.75

# Not in core/specs.py beside the links, because only the planner uses them.
DEVICES: dict[str, DeviceSpec] = {
    "raspberry-pi-4": DeviceSpec(
        about="Raspberry Pi 4 B: 4 x Cortex-A72, 1.5 GHz",
        peak_flops=48e9,
        efficiency=0.32,
        bandwidth_bytes_s=_REACHED * 12.8e9,
        memory_bytes=4e9,
        start_s=_BOARD_S,
        cpu_slowdown=6.0,
        power=Power(busy_w=6.4, idle_w=2.7),
        source="ResNet-18 in 234 ms: Tencent/ncnn, benchmark; watts: pidramble.com",
    ),
    "raspberry-pi-5": DeviceSpec(
        about="Raspberry Pi 5: 4 x Cortex-A76, 2.4 GHz",
        peak_flops=153.6e9,
        efficiency=0.32,
        bandwidth_bytes_s=_REACHED * 17.1e9,
        memory_bytes=8e9,
        start_s=_BOARD_S / 2,
        cpu_slowdown=3.0,
        power=Power(busy_w=9.0, idle_w=3.1),
        source="as raspberry-pi-4; watts of a Pi 500: geerlingguy/sbc-reviews, issue 60",
    ),
    "jetson-nano": DeviceSpec(
        about="NVIDIA Jetson Nano: 128 Maxwell cores, 922 MHz (472 GFLOP/s are its fp16)",
        peak_flops=235.9e9,
        efficiency=0.55,
        bandwidth_bytes_s=_REACHED * 25.6e9,
        memory_bytes=4e9,
        start_s=_BOARD_S,
        cpu_slowdown=6.0,
        power=Power(busy_w=10.0, idle_w=1.9),
        source="as rtx-2080-ti; ResNet-50 inference reaches 0.57: "
        "kentaroy47/benchmark-FP32-FP16-INT8-with-TensorRT",
    ),
    "jetson-orin-nano": DeviceSpec(
        about="NVIDIA Jetson Orin Nano 8 GB: 1,024 Ampere cores, 625 MHz",
        peak_flops=1.28e12,
        efficiency=0.55,
        bandwidth_bytes_s=_REACHED * 68e9,
        memory_bytes=8e9,
        start_s=_BOARD_S / 2,
        cpu_slowdown=3.0,
        power=Power(busy_w=15.0, idle_w=2.6),
        source="as rtx-2080-ti; watts at rest: forums.developer.nvidia.com/t/348662",
    ),
    "phone": DeviceSpec(
        about="a phone's CPU: Snapdragon 8 Gen 1, 1 + 3 + 4 cores",
        peak_flops=273.6e9,
        efficiency=0.32,
        bandwidth_bytes_s=_REACHED * 51.2e9,
        memory_bytes=8e9,
        start_s=_BOARD_S / 2,
        cpu_slowdown=2.0,
        power=None,
        source="as raspberry-pi-4; clocks: nanoreview.net",
    ),
    "laptop": DeviceSpec(
        about="a laptop's CPU: Core i7-1185G7, 4 cores at 3 GHz",
        peak_flops=384e9,
        efficiency=0.55,
        bandwidth_bytes_s=_REACHED * 51.2e9,
        memory_bytes=16e9,
        start_s=_DESKTOP_S,
        cpu_slowdown=1.0,
        power=None,
        source="efficiency: a guess; one core of an EPYC reaches 0.8 in our own runs",
    ),
    "rtx-2080-ti": DeviceSpec(
        about="NVIDIA RTX 2080 Ti",
        peak_flops=13.45e12,
        efficiency=0.54,
        bandwidth_bytes_s=_REACHED * 616e9,
        memory_bytes=11e9,
        start_s=_DESKTOP_S,
        cpu_slowdown=1.0,
        power=Power(busy_w=250.0, idle_w=15.0),
        source="ResNet-50 training, 294 images/s: lambdalabs.com, 2080 Ti deep learning benchmarks",
    ),
    "a100": DeviceSpec(
        about="NVIDIA A100 SXM 40 GB, convolutions in TF32 as PyTorch has it",
        peak_flops=156e12,
        efficiency=0.15,
        bandwidth_bytes_s=_REACHED * 1.555e12,
        memory_bytes=40e9,
        start_s=_DESKTOP_S,
        cpu_slowdown=1.0,
        power=Power(busy_w=400.0, idle_w=60.0),
        source="ResNet-50 training, 938 images/s: NVIDIA/DeepLearningExamples, resnet50v1.5",
    ),
    "h200": DeviceSpec(
        about="NVIDIA H200 SXM, convolutions in TF32 as PyTorch has it",
        peak_flops=494e12,
        efficiency=0.085,
        bandwidth_bytes_s=_REACHED * 4.8e12,
        memory_bytes=141e9,
        start_s=_DESKTOP_S,
        cpu_slowdown=1.0,
        power=Power(busy_w=700.0, idle_w=75.0),
        source="1.8 times the a100, as an H100 in MLPerf's ResNet-50; watts: MLCommons v4.1",
    ),
}


def preset(profile: Profile, spec: DeviceSpec) -> Profile:
    """Return ``profile`` with the times of a device that was not measured.

    Work, memory and payloads stay those of the profile; contention and fetching are not known.
    """
    batch_size = profile.subject.batch_size

    def timed(stage: Stage) -> Stage:
        return replace(stage, times=spec.times(stage, batch_size))

    found = replace(
        profile,
        stages=tuple(map(timed, profile.stages)),
        exits={cut: timed(stage) for cut, stage in profile.exits.items()},
        fetch=Seconds(0.0),
        contention=1.0,
    )
    return replace(found, codecs=_slower_codecs(found, spec.cpu_slowdown))


def slowed(profile: Profile, factor: float) -> Profile:
    """Return ``profile`` of a machine that takes ``factor`` times as long for everything."""
    if not (isfinite(factor) and factor > 0):
        raise ConfigError(f"expected a slowdown above 0, got {factor}")

    def timed(stage: Stage) -> Stage:
        if stage.times is None:
            return stage
        times = (getattr(stage.times, field.name) for field in fields(StageTimes))
        return replace(stage, times=StageTimes(*(time.times(factor) for time in times)))

    return replace(
        profile,
        stages=tuple(map(timed, profile.stages)),
        exits={cut: timed(stage) for cut, stage in profile.exits.items()},
        fetch=profile.fetch.times(factor),
        codecs=_slower_codecs(profile, factor),
    )


def _slower_codecs(profile: Profile, factor: float) -> dict[str, tuple[CodecCost, ...]]:
    def slower(cost: CodecCost) -> CodecCost:
        encode, decode = cost.encode.times(factor), cost.decode.times(factor)
        return replace(cost, encode=encode, decode=decode)

    return {where: tuple(map(slower, costs)) for where, costs in profile.codecs.items()}
