"""The command ``eaves certs``."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import tyro


@final
@dataclass(frozen=True, kw_only=True)
class Init:
    """Make a private authority and a server's certificate; or renew the latter."""

    host: tuple[str, ...] = ()
    """Names and addresses under which edges reach the server."""
    days: int = 397
    """Until the server's certificate expires."""
    renew: bool = False
    """Make a new certificate for the server, with the same authority."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Make them and say where they are."""
        from eaves.report.certs import show_init

        return show_init(self.folder, self.host, days=self.days, renew=self.renew)


@final
@dataclass(frozen=True, kw_only=True)
class Device:
    """Make a certificate for a device."""

    name: tyro.conf.Positional[str]
    """Name of the device: letters, digits, '.', '_' and '-'."""
    days: int = 397
    """Until it expires."""
    renew: bool = False
    """Make a new one for a device that has one."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Make it and say where it is."""
        from eaves.report.certs import show_device

        return show_device(self.folder, self.name, days=self.days, renew=self.renew)


@final
@dataclass(frozen=True, kw_only=True)
class Token:
    """Make a bearer token for a device, in place of a certificate."""

    name: tyro.conf.Positional[str]
    """Name of the device: letters, digits, '.', '_' and '-'."""
    renew: bool = False
    """Make a new one for a device that has one; the old one is refused from then on."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Make it and say where it is."""
        from eaves.report.certs import show_token

        return show_token(self.folder, self.name, renew=self.renew)


@final
@dataclass(frozen=True, kw_only=True)
class Revoke:
    """Refuse a device from now on, also where it is connected."""

    name: tyro.conf.Positional[str]
    """Name of the device."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Revoke it and say what that did."""
        from eaves.report.certs import show_revoked

        return show_revoked(self.folder, self.name)


@final
@dataclass(frozen=True, kw_only=True)
class List:
    """List all certificates and tokens that were made."""

    json: bool = False
    """Print a line of JSON for each."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.certs import show_list

        return show_list(self.folder, as_json=self.json)


@final
@dataclass(frozen=True, kw_only=True)
class Certs:
    """Make, list and revoke certificates and tokens of edges and clouds."""

    action: Init | Device | Token | Revoke | List

    def run(self) -> int:
        """Do it."""
        return self.action.run()
