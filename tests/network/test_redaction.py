"""Neither a text nor a log record keeps a token or a private key."""

import logging
import traceback

import pytest

from eaves.network.certificates import initialise, make_device, make_token
from eaves.network.redaction import RedactingFilter, redact


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return secrets as they are made, and as they may come into a text."""
    folder = tmp_path_factory.mktemp("certs")
    initialise(folder, ["localhost"])
    token = (make_token(folder, "edge-1") / "token").read_text().strip()
    key = (make_device(folder, "edge-2") / "key.pem").read_text()
    return {
        "token": token,
        "token cut short": token[:-20],
        "header": f"Bearer {token}",
        "header of others": "bearer abcdefghijklmnopqrstuvwxyz0123456789==",
        "metadata": repr((("authorization", f"Bearer {token}"),)),
        "key": key,
        "key in repr": repr(key),
        "key cut short": key[:100],
        "key of others": key.replace("PRIVATE", "RSA PRIVATE"),
    }


def _parts(secret: str) -> list[str]:
    """Return the parts of a secret that a reader could make use of."""
    words = secret.replace("\\n", " ").replace("'", " ").split()
    return [word.rpartition(".")[2][:30] for word in words if len(word) > 20]


def test_secrets_are_taken_out_of_texts(found: dict[str, str]) -> None:
    for name, secret in found.items():
        text = redact(f"before {secret}")
        assert text.startswith("before "), name
        assert "[redacted]" in text, name
        assert len(_parts(secret)) > 0, name
        assert not any(part in text for part in _parts(secret)), name
        assert redact(text) == text, name


@pytest.mark.parametrize(
    "text",
    [
        "the bearer token is missing",
        "eaves.network.server: edge-1 is connected",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "sha256 " + "0123456789abcdef" * 4,
    ],
)
def test_other_texts_are_left_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_what_follows_a_key_is_kept(found: dict[str, str]) -> None:
    key = found["key"]
    assert redact(f"a {key} b {key} c") == "a [redacted]\n b [redacted]\n c"


def test_the_filter_takes_secrets_out_of_all_that_a_record_has(found: dict[str, str]) -> None:
    class Lines(logging.Handler):
        lines: list[str]

        def emit(self, record: logging.LogRecord) -> None:
            anew = traceback.format_exception(*record.exc_info) if record.exc_info else []
            self.lines.append(f"{self.format(record)} {vars(record)} {anew}")

    handler, logger = Lines(), logging.Logger("test")
    handler.lines = []
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)
    for secret in found.values():
        extra = {"why": secret, "call": {"metadata": [secret]}}
        try:
            raise ValueError("damaged") from KeyError(secret)
        except ValueError:
            logger.exception("refused %s after %d s", secret, 3, extra=extra)
        line = handler.lines[-1]
        assert "refused " in line
        assert "KeyError" in line
        assert not any(part in line for part in _parts(secret))
    logger.warning("%d of %s", 3, "7", extra={"n": 5})
    assert handler.lines[-1].startswith("3 of 7 ")
    assert "'n': 5" in handler.lines[-1]
