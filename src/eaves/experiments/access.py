"""How a cloud lets edges in, and an edge gets in, by the settings of each.

Where both are on one machine and nothing is said, a private authority is made for it in ``certs``:
trying things out is encrypted, too.
"""

import ipaddress
import logging
from pathlib import Path
from typing import Final

import grpc

from eaves.errors import ConfigError
from eaves.experiments.netconfig import AgentConfig, InferConfig, ServeConfig, parse_address
from eaves.network.channel import Target, insecure_target, secure_target
from eaves.network.credentials import Gate, server_credentials

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
    here = is_loopback(config.listen)
    if config.insecure:
        if not here:
            _log.warning(
                "INSECURE: %s is open to the network; everyone on the way can read and change what "
                "is sent, and everyone can pretend to be any edge",
                config.listen,
            )
        return Gate(None), None
    folder = config.credentials or CERTS / "server"
    if config.credentials is None and not folder.exists():
        if not here:
            raise ConfigError(
                f"give --credentials FOLDER for {config.listen}, which `eaves certs init` makes; "
                "or --insecure, to go without encryption and without proof of who is there"
            )
        from eaves.network.certificates import initialise, make_device

        initialise(CERTS, _LOCAL_HOSTS)
        make_device(CERTS, LOCAL_EDGE)
        _log.info("made credentials for this machine in %s", CERTS)
    credentials = server_credentials(folder, config.auth)  # says best what is not there
    return Gate(folder, config.auth), credentials


def target_of(config: AgentConfig | InferConfig) -> Target | None:
    """Return the cloud to connect to; None where the settings name none.

    Raises:
        ConfigError: no credentials, or some that cannot be used.
    """
    if config.cloud is None:
        return None
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


def is_loopback(address: str) -> bool:
    """Return whether an address HOST:PORT cannot be reached from another machine.

    >>> is_loopback("localhost:7443"), is_loopback("0.0.0.0:7443")
    (True, False)
    """
    host = parse_address(address)[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
