"""The command ``eaves``: find the command that is meant, parse its flags, run it.

A command's module is imported when it is asked for. So ``eaves --help`` takes a fraction of the
time that importing torch takes, and a device without torch has the commands that need none.
"""

import sys
from abc import abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Final, Protocol, cast

import tyro

from eaves import __version__
from eaves.commands.flags import accumulated
from eaves.errors import ConfigError, EavesError
from eaves.report.missing import explained
from eaves.report.printable import printable_line
from eaves.report.signals import exit_code_of, unwinding
from eaves.report.streams import PIPE_CLOSED, Guarded, OutputLostError, guarded_streams

GROUPS: Final = {
    "train and run": {
        "train": "Train one net divided between edge and cloud, over an emulated link.",
        "serve": "Run the cloud half as a service.",
        "agent": "Train the edge half on this device and send to the cloud.",
        "bundle": "Make an untrained bundle where the data is.",
        "infer": "Answer the test examples of this device, by the early exit or the cloud.",
        "calibrate": "Choose when the early exit of a bundle answers alone.",
        "export": "Write the edge half of a bundle as ONNX, for devices without torch.",
        "light": "Answer a file of inputs without torch.",
    },
    "privacy and credentials": {
        "audit": "Attack a bundle: what could the cloud read in what is sent?",
        "report": "Write one HTML page about runs and their audits.",
        "certs": "Make, list and revoke certificates and tokens.",
        "verify": "Read everything in a folder and compare its checksums.",
    },
    "choose": {
        "plan": "Say where to cut, with which method and codec, and what that will cost.",
        "profile": "Measure what each stage of a net costs on this machine.",
        "nets": "List the nets and what they need.",
        "cuts": "List where a net can be cut, and what crosses there.",
        "devices": "List the preset devices that a plan can be made for.",
        "data": "List the data sets; download one, or make a synthetic one.",
    },
}
"""The commands as ``eaves --help`` shows them: ``eaves NAME`` is the class ``Name`` in NAME.py."""
COMMANDS: Final = {name: text for group in GROUPS.values() for name, text in group.items()}
KEEPING = frozenset(
    {"train", "serve", "agent", "audit", "report", "export", "calibrate", "bundle", "certs"}
)
"""Commands that leave their results on disk: what they print is a copy, or says where it is."""


class Command(Protocol):
    """What a command's class has: fields that are its flags, and what it does.

    A class method ``given(argv)`` returns what the flags are added to, where that is not the
    defaults: a file, the environment.
    """

    @abstractmethod
    def run(self) -> int:
        """Do it, print, and return the exit code."""


def parse(argv: Sequence[str]) -> Command:
    """Return the command that ``argv`` asks for; exits with code 2 where it asks for none."""
    for word in argv:
        if not _is_utf8(word):  # neither a record nor a message could name such a file
            raise ConfigError(f"expected words in UTF-8, got {word!r}: rename the file or folder")
    name, *words = accumulated(argv) or [""]
    if name in ("-h", "--help"):
        print(overview())  # noqa: T201  # the place that prints
        raise SystemExit(0)
    if name == "--version":
        print(f"eaves {__version__}")  # noqa: T201  # the same
        raise SystemExit(0)
    if name not in COMMANDS:
        raise ConfigError(_no_command(name))
    kind = getattr(import_module(f"eaves.commands.{name}"), name.capitalize())
    given = getattr(kind, "given", None)
    command = tyro.cli(
        kind,
        args=words,
        prog=f"eaves {name}",
        default=None if given is None else given(words),
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return cast(Command, command)


def overview() -> str:
    """Return what ``eaves --help`` prints."""
    lines = [
        "usage: eaves COMMAND [flags], eaves COMMAND --help, eaves --version",
        "",
        "Train and run one neural network divided between an edge device and a cloud (split",
        "learning, early exits, split inference), and give the cloud only what the task needs.",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<10} {text}" for name, text in commands.items())]
    return "\n".join([*lines, "", "Begin with: eaves train"])


def _no_command(name: str) -> str:
    known = f"the commands are {', '.join(COMMANDS)}; eaves --help says what they do"
    if not name:
        return f"expected a command, as in `eaves train`: {known}"
    near = get_close_matches(name, COMMANDS, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"expected a command, got {name!r}: {meant}{known}"


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done. 1: a runtime error (a damaged file, a full disk, a diverged run). 2: a usage error. 3
    and 4: see `eaves audit --help`. 130, 143, 129: ended by Ctrl-C, SIGTERM, SIGHUP. 141: the
    reader of its output has gone, and the output is all there is. What cannot be printed changes no
    other exit code of a command that leaves its results on disk.
    """
    with guarded_streams() as (out, err):
        try:
            code = _ended(sys.argv[1:] if argv is None else list(argv), out, err)
        except SystemExit:  # of the parser, which has said why
            if _written(out):
                raise
            code = 0
        return code if _written(out) else _unprinted(code, out)


def _written(out: Guarded) -> bool:
    out.ends = False
    out.flush()
    return out.lost is None


def _ended(argv: Sequence[str], out: Guarded, err: Guarded) -> int:
    name = argv[0] if argv else ""
    out.ends = out.had_to_be_read = True  # as of --help
    try:
        with unwinding():
            out.escapes = err.escapes = True  # what is wrong with a word is said with that word
            command = parse(argv)
            out.escapes = err.escapes = False
            out.ends = out.had_to_be_read = name not in KEEPING
            return command.run()
    except OutputLostError:
        return 0  # _unprinted says what that comes to
    except EavesError as error:
        _say(error)
        return 2 if isinstance(error, ConfigError) else 1
    except ModuleNotFoundError as error:
        if (missing := explained(error, name)) is None:
            raise
        _say(missing)
        return 2
    except KeyboardInterrupt as error:
        return exit_code_of(error)


def _unprinted(code: int, out: Guarded) -> int:
    """Return the exit code of a command whose output is lost; say why, if it was no reader."""
    if isinstance(out.lost, BrokenPipeError):
        return PIPE_CLOSED if code == 0 and out.had_to_be_read else code
    why = out.lost.strerror if out.lost else ""
    _say(f"cannot write to the standard output: {why}")
    return 1 if code == 0 and out.had_to_be_read else code


def _say(what: object) -> None:
    # Further lines are indented: what a name or a peer has put there looks like no message of ours.
    first, *others = map(printable_line, str(what).split("\n"))
    lines = [first, *(line if line.startswith("  ") else f"  {line}" for line in others)]
    print("eaves: " + "\n".join(lines), file=sys.stderr)  # noqa: T201  # the place that prints
