"""What each codec makes of features after a ReLU: size, and speed on one core.

By default the features are synthetic and seeded, see :func:`synthetic`. With ``--data-root DIR``
they are those of a small net trained for a few seconds on the first 10 000 images of CIFAR-10 (the
binary version: ``DIR/cifar-10-batches-bin/data_batch_1.bin``), see :func:`of_cifar`.

    python benchmarks/codecs.py --out codecs.json

Speeds are those of the best of ``--repeats``, in MB (10^6 bytes) of float32 features per second.

Dimension key:  B batch   C channels   H, W height and width
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import zstandard
from torch import Tensor, nn

from eaves.codecs.base import parse_codec

SHAPES = ((128, 256, 2, 2), (128, 128, 4, 4))
CODECS = (
    "fp32",
    "fp32+zstd",
    "fp16+zstd",
    "bf16+zstd",
    "int8",
    "int8:channel",
    "int8+zstd",
    "int8:channel+zstd",
    "int8+zstd:1",
    "int8+zstd:3",
    "int8+range",
    "int8:channel+range",
    "int4",
    "int4:channel",
    "int4+zstd",
    "int4:channel+zstd",
    "int4+range",
    "int4:channel+range",
    "int2+zstd",
    "int2+range",
    "int1+zstd",
    "int1+range",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One codec on one tensor; ``vs_uint8`` compares with one byte for each element."""

    features: str
    order: str
    zeros: float
    codec: str
    bytes_per_example: float
    vs_fp32: float
    vs_uint8: float
    encode_mb_per_s: float
    decode_mb_per_s: float


def synthetic(shape: tuple[int, int, int, int]) -> Tensor:
    """Return relu(a_c * (u + v) + b_c): u shared by the positions of a channel, v not, seeded.

    Channels differ in scale (log-normal) and in bias, so that some are dense and some nearly dead;
    about 60 % of the elements are zero.
    """
    generator = torch.Generator().manual_seed(0)
    batch, channels = shape[:2]
    a_C = torch.randn(channels, 1, 1, generator=generator).mul(0.5).exp()
    b_C = torch.randn(channels, 1, 1, generator=generator).mul(0.6).sub(0.4)
    u_BC = torch.randn(batch, channels, 1, 1, generator=generator)
    v_BCHW = torch.randn(shape, generator=generator)
    return (a_C * (0.7 * u_BC + 0.7 * v_BCHW + b_C)).relu()


def of_cifar(root: Path) -> dict[tuple[int, ...], Tensor]:
    """Return the features of 128 images at two cuts of a briefly trained convolutional net."""
    rows = np.fromfile(root / "cifar-10-batches-bin" / "data_batch_1.bin", np.uint8)
    rows = rows.reshape(-1, 3073)
    labels = torch.split(torch.from_numpy(rows[:, 0].astype(np.int64)), 128)
    images = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32)).float().div(64).sub(2)
    batches = torch.split(images, 128)
    torch.manual_seed(0)
    widths = (3, 32, 64, 128, 256)
    blocks = [_block(i, o) for i, o in pairwise(widths)]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(1024, 10))
    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, nesterov=True)
    for _ in range(4):
        for images_BCHW, labels_B in zip(batches, labels, strict=True):
            loss = nn.functional.cross_entropy(net(images_BCHW), labels_B)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        cuts = [net[:4](images[:128]), net[:3](images[:128])]
    return {tuple(cut.shape): cut.contiguous() for cut in cuts}


def _block(c_in: int, c_out: int) -> nn.Module:
    conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


def best_s(run: Callable[[], object], repeats: int) -> float:
    """Return the shortest of ``repeats`` times: others may use the machine too."""
    times_s = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - start)
    return min(times_s)


def measure(name: str, x_BCHW: Tensor, codec: str, repeats: int) -> Row:
    """Encode and decode ``x_BCHW`` with one codec."""
    coder = parse_codec(codec)
    payload = coder.encode(x_BCHW)
    fp32_bytes = 4 * x_BCHW.numel()
    return Row(
        features=name,
        order="contiguous" if x_BCHW.is_contiguous() else "channels_last",
        zeros=(x_BCHW == 0).float().mean().item(),
        codec=codec,
        bytes_per_example=len(payload) / len(x_BCHW),
        vs_fp32=fp32_bytes / len(payload),
        vs_uint8=x_BCHW.numel() / len(payload),
        encode_mb_per_s=fp32_bytes / 1e6 / best_s(lambda: coder.encode(x_BCHW), repeats),
        decode_mb_per_s=fp32_bytes / 1e6 / best_s(lambda: coder.decode(payload), repeats),
    )


def zstd_alone_mb_per_s(x_BCHW: Tensor, repeats: int) -> float:
    """Return the speed of plain zstd level 1 on the int8 bytes, in the same unit."""
    levels = x_BCHW.mul(255 / x_BCHW.amax()).round().to(torch.uint8).numpy().tobytes()
    compressor = zstandard.ZstdCompressor(level=1)
    return 4 * len(levels) / 1e6 / best_s(lambda: compressor.compress(levels), repeats)


def machine() -> dict[str, str]:
    """Return what the figures depend on besides the code."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "commit": commit,
        "machine": f"{platform.machine()} {platform.processor()}".strip(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "zstandard": zstandard.__version__,
    }


def main() -> None:
    """Print a table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-root", type=Path, help="where cifar-10-batches-bin is")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--codecs", nargs="+", default=CODECS)
    args = parser.parse_args()
    real = of_cifar(args.data_root) if args.data_root else {}
    torch.set_num_threads(1)
    rows, alone = [], {}
    for shape in SHAPES:
        name = f"{'cifar' if real else 'synthetic'} {'x'.join(map(str, shape))}"
        x_BCHW = real[shape] if real else synthetic(shape)
        alone[name] = zstd_alone_mb_per_s(x_BCHW, args.repeats)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = x_BCHW.contiguous(memory_format=memory_format)
            found = [measure(name, x, codec, args.repeats) for codec in args.codecs]
            report(found, alone[name])
            rows += found
    if args.out:
        result = {**machine(), "zstd_alone_mb_per_s": alone, "rows": [asdict(row) for row in rows]}
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def report(rows: list[Row], alone_mb_per_s: float) -> None:
    """Print the rows of one tensor."""
    first = rows[0]
    print(f"\n{first.features}, {first.order}, {first.zeros:.0%} zeros; ", end="")
    print(f"zstd level 1 alone on its int8 bytes: {alone_mb_per_s:.0f} MB/s of fp32")
    columns = ("B/example", "vs fp32", "vs uint8", "enc MB/s", "dec MB/s")
    print(f"{'codec':20}" + "".join(f"{column:>10}" for column in columns))
    for row in rows:
        print(
            f"{row.codec:20}{row.bytes_per_example:10.0f}{row.vs_fp32:10.2f}{row.vs_uint8:10.2f}"
            f"{row.encode_mb_per_s:10.0f}{row.decode_mb_per_s:10.0f}"
        )


if __name__ == "__main__":
    main()
