"""Write a software bill of materials from lock files, as CycloneDX 1.6 JSON, to standard output.

    python scripts/sbom.py requirements/container.txt requirements/torch-cpu.txt > sbom.json

What is listed is what the files name for Linux and this Python; the hashes are those that pip
accepts, one for each wheel of a release. For an image with PyPI's torch, give torch.txt and
torch-cuda.txt in place of torch-cpu.txt.
"""

import re
import sys
from importlib.metadata import requires
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.markers import default_environment
from packaging.requirements import Requirement

from eaves import __version__

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}


def locked(text: str) -> list[tuple[Requirement, list[str]]]:
    """Return the requirements of a lock file that apply on Linux, each with its hashes."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line.partition(" --hash")[0])
        environment = {**default_environment(), **LINUX}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            found.append((requirement, _HASH.findall(line)))
    return found


def component(requirement: Requirement, hashes: list[str]) -> Component:
    (version,) = (clause.version for clause in requirement.specifier)
    url = PackageURL("pypi", name=requirement.name, version=version)
    return Component(
        type=ComponentType.LIBRARY,
        name=requirement.name,
        version=version,
        purl=url,
        bom_ref=str(url),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in hashes],
    )


def bill(texts: list[str]) -> Bom:
    """Return Eaves with all that the lock files name."""
    own = Component(
        type=ComponentType.APPLICATION, name="eaves", version=__version__, bom_ref="eaves"
    )
    parts = [component(*entry) for text in texts for entry in locked(text)]
    found = Bom(components=parts)
    found.metadata.component = own
    direct = {Requirement(line).name.lower() for line in requires("eaves") or ()}
    found.register_dependency(own, [part for part in parts if part.name.lower() in direct])
    return found


def main(paths: list[str]) -> None:
    texts = [Path(path).read_text(encoding="utf-8") for path in paths]
    print(JsonV1Dot6(bill(texts)).output_as_string(indent=2))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python scripts/sbom.py LOCK-FILE... > sbom.json")
    main(sys.argv[1:])
