"""Train a cloud half on uploads that it already holds: no edge and no link take part."""

import threading
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from time import perf_counter

from eaves.core.roles import CloudLearner, Upload
from eaves.runtime.meters import Smoothed, Totals
from eaves.runtime.traffic import Progress, Snapshot

_REPORT_S = 0.2


def replay(
    cloud: CloudLearner,
    uploads: Iterator[Upload],
    totals: Totals,
    *,
    stop: threading.Event,
    first_step: int = 0,
    checkpoint_s: float = 60.0,
) -> Iterator[Progress | Snapshot]:
    """Yield progress several times a second, a snapshot every ``checkpoint_s`` and at the end.

    When ``stop`` is set, the last snapshot is that of the step then at work.
    """
    figures, steps = Smoothed(), first_step
    started = reported_at = marked_at = perf_counter()
    wall_before_s = totals.wall_s
    while not stop.is_set():
        step_at = perf_counter()
        upload = next(uploads, None)
        if upload is None:
            break
        _, peak_bytes = figures.step(cloud, partial(cloud.step, upload), upload.features.nbytes)
        totals.cloud_peak_bytes = max(totals.cloud_peak_bytes, peak_bytes)
        steps += 1
        now = perf_counter()
        totals.cloud.busy_s += now - step_at
        totals.wall_s = wall_before_s + now - started
        if now - marked_at >= checkpoint_s:
            yield Snapshot(steps, None, cloud.state(), deepcopy(totals))
            marked_at = now
        if now - reported_at >= _REPORT_S:
            yield Progress(0, steps - first_step, {}, dict(figures.means), 0, deepcopy(totals))
            reported_at = now
    yield Snapshot(steps, None, cloud.state(), deepcopy(totals))
