"""The cloud's checkpoints: written in the background, whole at every moment."""

import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, final

from eaves.core.state import State
from eaves.errors import StateError, StorageError
from eaves.network.history import History
from eaves.network.ledger import Ledger, Run
from eaves.runtime.checkpoint import load_checkpoint, save_checkpoint

_SHARE: Final = 0.1  # of the time that may go into writing checkpoints no edge waits for
# A full disk does not stop the cloud: it learns on, and edges keep what is not durable meanwhile.
_RETRY_S: Final = 2.0  # after a full disk


@final
@dataclass(frozen=True)
class Kept:
    """What a checkpoint of the cloud holds."""

    session: str
    """Random name of this training, given to every edge."""
    total_steps: int
    """Steps that the learning-rate schedule was made for; 0: not known yet."""
    ledger: Ledger
    cloud: State | None = None
    """None before the first step."""
    replies: dict[Run, tuple[int, bytes]] = field(default_factory=dict)
    """The last reply to each run, of two-way methods: an edge may have lost it."""
    contributions: dict[str, Any] = field(default_factory=dict)
    """What :class:`Contributions` goes on from."""


def new_session() -> str:
    """Return a random name."""
    return secrets.token_hex(8)


def expect_session(kept: Kept, session: str) -> None:
    """Raise a :class:`StateError` where a checkpoint is not of the session of a bundle."""
    if session not in ("", kept.session):
        raise StateError(
            f"the checkpoint is of session {kept.session}, the bundle of {session}; "
            "choose another --out, or remove it to start again"
        )


@final
class Keeper:
    """Writes one checkpoint at a time, in a thread of its own; a failed one is tried again.

    Of those that are written, ``history`` keeps some.
    """

    def __init__(self, folder: Path, terms: str, *, every_s: float, history: History | None = None):
        self._folder, self.terms, self._every_s = folder, terms, every_s
        self._history = history
        self.before: Callable[[], None] = lambda: None
        """Called before each checkpoint: what it refers to has to be on the disk first."""
        self._writer = ThreadPoolExecutor(1, "eaves-keeper")
        self._writing: Future[None] | None = None
        self._applied: dict[Run, int] = {}
        self._began_at = self._not_before = monotonic()
        self._due_at = monotonic() + every_s

    def load(self, folder: Path | None = None) -> Kept | None:
        """Return the last checkpoint, or the one in ``folder``; None where there is none.

        Raises:
            StateError: it is damaged, or of another net, cut or method.
        """
        folder = folder or self._folder
        found = load_checkpoint(folder)
        if found is None:
            return None
        states, facts = found
        if not isinstance(facts, dict) or facts.get("terms") != self.terms:
            terms = facts.get("terms") if isinstance(facts, dict) else None
            raise StateError(
                f"the checkpoint in {folder} is of another training ({terms}); "
                "choose another --out, or remove it to start again"
            )
        try:
            replies = {
                Run(*name.split("/")): (int(seq), bytes.fromhex(content))
                for name, (seq, content) in facts["replies"].items()
            }
            return Kept(
                session=str(facts["session"]),
                total_steps=int(facts["total_steps"]),
                ledger=Ledger.from_json(facts["ledger"]),
                cloud=states.get("cloud"),
                replies=replies,
                contributions=facts.get("contributions", {}),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise StateError(f"the checkpoint in {folder} is damaged: {error!r}") from error

    def save(self, kept: Kept) -> None:
        """Write a checkpoint now.

        Raises:
            StorageError: the disk is full or refuses; the last checkpoint is intact.
        """
        facts: dict[str, Any] = {
            "terms": self.terms,
            "saved_at": round(time(), 3),
            "contributions": kept.contributions,
            "session": kept.session,
            "total_steps": kept.total_steps,
            "ledger": kept.ledger.as_json(),
            "replies": {
                "/".join(run): (seq, content.hex()) for run, (seq, content) in kept.replies.items()
            },
        }
        states = {} if kept.cloud is None else {"cloud": kept.cloud}
        self.before()
        save_checkpoint(self._folder, 0, states, facts)
        if self._history is not None:
            self._history.add(self._folder)

    def due(self, *, wanted: bool) -> bool:
        """Return whether to write one now; ``wanted`` where somebody waits for it."""
        now = monotonic()
        return self._writing is None and now >= self._not_before and (wanted or now >= self._due_at)

    def begin(self, kept: Kept) -> "Future[None]":
        """Start to write; ``kept`` belongs to the writer from now on."""
        self._applied = kept.ledger.applied()
        self._began_at = monotonic()
        self._writing = self._writer.submit(self.save, kept)
        return self._writing

    def end(self) -> dict[Run, int] | None:
        """Return what a checkpoint that is done has made durable; None where none is done.

        Raises:
            StorageError: it failed; another is due in a few seconds.
        """
        if self._writing is None or not self._writing.done():
            return None
        writing, self._writing, now = self._writing, None, monotonic()
        if isinstance(error := writing.exception(), StorageError):
            self._not_before = self._due_at = now + _RETRY_S
            raise error
        writing.result()
        self._due_at = now + max(self._every_s, (now - self._began_at) / _SHARE)
        return self._applied

    def join(self) -> None:
        """Wait for what is being written."""
        if self._writing is not None:
            wait([self._writing])

    def close(self) -> None:
        """Wait, and end the thread."""
        self._writer.shutdown()
