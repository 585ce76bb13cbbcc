"""How a cloud lets edges in, and an edge gets in, by the settings of each.

Where both are on one machine and nothing is said, a private authority is made for it in ``certs``:
trying things out is encrypted, too.
"""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc

from eaves.errors import ConfigError, StorageError
from eaves.experiments.netconfig import AgentConfig, InferConfig, ServeConfig
from eaves.network.accesslog import NAME, AccessLog
from eaves.network.channel import Target, insecure_target, secure_target
from eaves.network.credentials import Gate, server_credentials
from eaves.network.proxies import is_loopback, proxy_for
from eaves.runtime.transaction import locked, unfinished

CERTS: Final = Path("certs")
"""Where credentials are when no folder is named."""
LOCAL_EDGE: Final = "edge-1"
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_log = logging.getLogger(__name__)


def gate_of(config: ServeConfig) -> tuple[Gate, grpc.ServerCredentials | None]:
    """Return who decides on edges, and the server's credentials; None: plaintext.

    Raises:
        ConfigError: no credentials for a network, or some that cannot be used.
        StateError: a list of what is revoked is missing or damaged.
    """
    here, log = is_loopback(config.listen), AccessLog(config.out / NAME)
    if config.insecure:
        if not here:
            _log.warning(
                "INSECURE: %s is open to the network; everyone on the way can read and change what "
                "is sent, and everyone can pretend to be any edge",
                config.listen,
            )
        return Gate(None, log=log), None
    folder = config.credentials or CERTS / "server"
    _finish_changes(folder.parent)
    if config.credentials is None and not folder.exists():
        if not here:
            raise ConfigError(
                f"give --credentials FOLDER for {config.listen}, which `eaves certs init` makes; "
                "or --insecure, to go without encryption and without proof of who is there"
            )
        from eaves.network.certificates import prepare_machine

        if prepare_machine(CERTS, _LOCAL_HOSTS, LOCAL_EDGE):
            _log.info("made credentials for this machine in %s", CERTS)
    credentials = server_credentials(folder, config.auth)  # says best what is not there
    return Gate(folder, config.auth, log=log), credentials


def _finish_changes(folder: Path) -> None:
    """Finish what a killed `eaves certs` has left, where this user may."""
    if unfinished(folder):
        with suppress(FileNotFoundError, StorageError), locked(folder):
            pass  # locked() finishes it


def target_of(config: AgentConfig | InferConfig) -> Target | None:
    """Return the cloud to connect to; None where the settings name none.

    Raises:
        ConfigError: no credentials, or some that cannot be used.
    """
    if config.cloud is None:
        return None
    if (proxy := proxy_for(config.cloud)) is not None:
        _log.warning("the way to %s goes through %s", config.cloud, proxy)
    if config.insecure:
        if not is_loopback(config.cloud):
            _log.warning("INSECURE: everyone on the way to %s can read what is sent", config.cloud)
        return insecure_target(config.cloud, config.name)
    folder = config.credentials or CERTS / "devices" / LOCAL_EDGE
    if config.credentials is None and not folder.exists():
        raise ConfigError(
            f"give --credentials FOLDER for {config.cloud}, which `eaves certs device` makes; or "
            "--insecure, to go without encryption and without proof of who is there. "
            "(`eaves serve` on this machine makes credentials for this machine.)"
        )
    return secure_target(config.cloud, folder)
