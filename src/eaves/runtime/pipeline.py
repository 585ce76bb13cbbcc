"""Edge, link and cloud of one process as concurrent stages with bounded queues between them."""

import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from time import perf_counter
from typing import final

from eaves.core.roles import Batch, CloudLearner, EdgeLearner
from eaves.core.switching import quick_switching
from eaves.runtime.meters import Totals
from eaves.runtime.stages import CloudStage, EdgeStage, Lanes, LinkStage
from eaves.runtime.traffic import Progress, Snapshot, Wire

_POLL_S = 0.2


@final
class Pipeline:
    """Run ``edge`` and, unless it is None, ``cloud`` on batches, with ``wire`` between them."""

    def __init__(
        self,
        edge: EdgeLearner,
        cloud: CloudLearner | None,
        wire: Wire,
        totals: Totals,
        *,
        keep: Callable[[bytes], None] | None = None,
    ):
        """``keep`` is given every payload as it arrives, before the cloud learns from it."""
        self._lanes, self._totals = Lanes(wire, totals), totals
        self._edge = EdgeStage(edge, self._lanes, sends=cloud is not None)
        self._link = LinkStage(self._lanes)
        self._cloud = None if cloud is None else CloudStage(cloud, self._lanes, keep=keep)

    def run(
        self,
        batches: Iterator[Batch],
        *,
        stop: threading.Event,
        first_step: int = 0,
        checkpoint_s: float = 60.0,
    ) -> Iterator[Progress | Snapshot]:
        """Yield progress several times a second, a snapshot every ``checkpoint_s`` and at the end.

        When ``stop`` is set, the edge ends after its current step, what is on the way is delivered
        at once, and the last snapshot is that of the last step.

        Raises:
            EavesError: whatever a learner or a codec raised, after both sides have stopped.
        """
        started, before = perf_counter(), self._totals.wall_s
        threads = self._threads(lambda: self._edge.run(batches, stop, first_step, checkpoint_s))
        running: list[threading.Thread] = []
        with quick_switching():
            try:
                for thread in threads:
                    thread.start()
                    running.append(thread)
                mark = None
                while mark is None or not mark.last:
                    if stop.is_set():
                        self._lanes.hurry.set()
                    mark = self._lanes.next_mark(_POLL_S)
                    self._totals.wall_s = before + perf_counter() - started
                    if mark is not None:
                        mark.snapshot.totals.wall_s = self._totals.wall_s
                    yield mark.snapshot if mark else self._progress()
            finally:
                self._lanes.close()
                for thread in running:  # to join one that could not start hides why it could not
                    thread.join()

    def _threads(self, edge: Callable[[], None]) -> list[threading.Thread]:
        bodies = {"edge": edge}
        if self._cloud is not None:
            bodies |= {"link": self._link.run, "cloud": self._cloud.run}
        return [self._lanes.thread(name, body) for name, body in bodies.items()]

    def _progress(self) -> Progress:
        edge, cloud = self._edge.figures, self._cloud.figures if self._cloud else None
        return Progress(
            edge.steps,
            cloud.steps if cloud else 0,
            dict(edge.means),
            dict(cloud.means) if cloud else {},
            len(self._lanes.up) + len(self._lanes.arrived),
            deepcopy(self._totals),
        )
