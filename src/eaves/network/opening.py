"""Uploads decoded, the next one while the trainer learns from the last."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import final

from eaves.codecs.upload import unpack_upload
from eaves.core.roles import Upload
from eaves.network.half import Accepts
from eaves.network.workqueue import UploadWork


@final
class Opener:
    """Decodes and checks uploads, one ahead at most: what waits stays small."""

    def __init__(self, accepts: Accepts):
        self._accepts = accepts
        self._thread = ThreadPoolExecutor(1, "eaves-opener")
        self._ahead: tuple[UploadWork, Future[Upload]] | None = None

    def look_ahead(self, work: UploadWork | None) -> None:
        """Begin with the upload that will be asked for next."""
        if work is not None and (self._ahead is None or self._ahead[0] is not work):
            self._ahead = work, self._thread.submit(self._decoded, work)

    def open(self, work: UploadWork) -> Upload:
        """Return what an upload holds.

        Raises:
            PayloadError: it is damaged, or not what the cloud half takes.
        """
        if self._ahead is not None and self._ahead[0] is work:
            (_, found), self._ahead = self._ahead, None
            return found.result()
        return self._decoded(work)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _decoded(self, work: UploadWork) -> Upload:
        accepts = self._accepts
        features, labels_B = unpack_upload(work.payload, limit_bytes=accepts.limit_bytes)
        accepts.check(features, labels_B)
        return Upload(features, labels_B)
