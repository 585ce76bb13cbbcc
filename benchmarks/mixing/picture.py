"""What a cloud gets of some inputs, and what the best attack makes of it, as one figure.

    python -m benchmarks.mixing.picture FIGURE.png RUN...

Each RUN is the folder of a run that `eaves audit` has attacked (with its gallery). A block of rows
for each: the inputs; what a decoder makes of the mixtures; of what the best attack took apart; of
the same features without mixing. Never of faces: their pictures are not to be published.
"""

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from safetensors.numpy import load_file

COLUMNS = 6


def main() -> None:
    target, *folders = map(Path, sys.argv[1:])
    blocks = [rows_of(folder) for folder in folders]
    rows = [row for block in blocks for row in block.items()]
    figure = Figure(figsize=(11, 0.72 * len(rows)), layout="constrained")
    for number, (name, images) in enumerate(rows):
        for column, image in enumerate(images[:COLUMNS]):
            axes = figure.add_subplot(len(rows), COLUMNS, number * COLUMNS + column + 1)
            axes.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            if not column:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(target, dpi=80)


def rows_of(folder: Path) -> dict[str, Any]:
    """Return the gallery's images (N, C, H, W) by what they are, the inputs first."""
    start = "mixtures/"
    found = load_file(folder / "audit" / "gallery.safetensors")
    named = {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}
    kinds = ["input", *sorted(kind for kind in named if kind != "input")]
    title = folder.name.replace("-", " ")
    return {f"{title}: {kind}" if kind == "input" else kind: named[kind] for kind in kinds}


if __name__ == "__main__":
    main()
