"""What `eaves certs` does and prints."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from eaves.network.certificates import (
    Issued,
    initialise,
    listed,
    make_device,
    make_server,
    make_token,
    revoke,
)
from eaves.report.stdout import console, plain_table, print_lines


def show_init(folder: Path, hosts: Sequence[str], *, days: int, renew: bool) -> int:
    """Make an authority and a server's certificate, or renew the latter; say what is where."""
    if renew:
        make_server(folder, hosts or _hosts_until_now(folder), days=days, renew=True)
    else:
        initialise(folder, hosts, days=days)
        _say(
            f"authority: {folder / 'authority'}. Who has its ca.key can make devices: keep it "
            "apart from the server"
        )
    server = _latest(folder, "server")
    _say(f"server: {folder / 'server'}, for {server.name}, until {_day(server.expires)}")
    if renew:
        _say(
            "a cloud that runs with that folder shows it to new connections within seconds; to "
            "another, copy the folder"
        )
    else:
        _say(f"next: eaves certs device NAME --folder {folder}")
    return 0


def show_device(folder: Path, name: str, *, days: int, renew: bool) -> int:
    """Make a device's certificate and say what to do with it."""
    home = make_device(folder, name, days=days, renew=renew)
    _say(f"device: {home}, until {_day(_latest(folder, 'device').expires)}")
    _say("copy the folder to the device and remove it here: eaves agent --credentials FOLDER")
    return 0


def show_token(folder: Path, name: str, *, renew: bool) -> int:
    """Make a device's token and say what to do with it; the token itself is not printed."""
    home = make_token(folder, name, renew=renew)
    _say(f"device: {home}, until it is revoked")
    _say("copy the folder to the device and remove it here: eaves agent --credentials FOLDER")
    _say(f"the cloud needs --auth tokens, and tokens.json of {folder / 'server'} as it is now")
    return 0


def show_revoked(folder: Path, name: str) -> int:
    """Revoke a device and say what that did."""
    revoked = revoke(folder, name)
    for entry in revoked:
        kind = "token" if entry.kind == "token" else "certificate"
        _say(f"revoked: {kind} of {name}, made {_day(entry.made)}")
    if not revoked:
        _say(f"{name} was revoked before")
    _say(
        f"a cloud that runs with {folder / 'server'} refuses it from now on; to another, copy "
        "revoked.json and tokens.json"
    )
    return 0


def show_list(folder: Path, *, as_json: bool) -> int:
    """Print all that was made in ``folder``."""
    issued = listed(folder)
    if as_json:
        return print_lines([_row(entry) for entry in issued])
    table = plain_table("name", "kind", "state", "made", "expires", "SHA-256")
    for entry in issued:
        days = (_day(entry.made), _day(entry.expires))
        table.add_row(entry.name, entry.kind, entry.state, *days, entry.sha256[:16])
    console().print(table)
    return 0


def _row(entry: Issued) -> dict[str, str | None]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "state": entry.state,
        "made": _iso(entry.made),
        "expires": _iso(entry.expires),
        "revoked": _iso(entry.revoked),
        "sha256": entry.sha256,
    }


def _latest(folder: Path, kind: str) -> Issued:
    return next(entry for entry in reversed(listed(folder)) if entry.kind == kind)


def _hosts_until_now(folder: Path) -> list[str]:
    servers = [entry for entry in listed(folder) if entry.kind == "server"]
    return servers[-1].name.split() if servers else []


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d}"


def _say(text: str) -> None:
    console().out(text, highlight=False)
