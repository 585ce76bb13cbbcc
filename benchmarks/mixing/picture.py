"""What a cloud gets of some inputs, and what the best attack makes of it, as one figure.

    python -m benchmarks.mixing.picture FIGURE.png RUN...

Each RUN is the folder of a run that `eaves audit` has attacked (with its gallery). A block of rows
for each: the inputs; what a decoder makes of the mixtures; of what the best attack took apart; of
the same features without mixing. Never of faces: their pictures are not to be published.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from eaves.report.gallery import mixture_images
from eaves.report.runs import Images, Run, read_runs

COLUMNS = 6


def main() -> None:
    target, *folders = map(Path, sys.argv[1:])
    rows = [row for run in read_runs(folders) for row in rows_of(run)]
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


def rows_of(run: Run) -> list[tuple[str, Images]]:
    """Return the images of a run by what they are; the first is named after the run."""
    title = run.folder.name.replace("-", " ")
    named = mixture_images(run).items()
    return [(f"{title}: {kind}" if kind == "input" else kind, images) for kind, images in named]


if __name__ == "__main__":
    main()
