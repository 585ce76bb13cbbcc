"""The export of a bundle in the terminal."""

import json
from pathlib import Path

from eaves.core.units import bytes_text
from eaves.experiments.exporting import export
from eaves.report.stdout import console


def show_export(source: Path, out: Path, *, net: str | None = None, as_json: bool) -> int:
    """Export, and print what was written."""
    exported, printed = export(source, out, net=net), console()
    if as_json:
        printed.out(json.dumps(exported.as_json()), highlight=False)
        return 0
    facts = exported.facts
    noise = "no noise"
    if facts.noising is not None and facts.noising.scale > 0:
        noise = f"{facts.noising.law} noise of scale {facts.noising.scale:.4g}"
    printed.out(
        f"{out}: {bytes_text(exported.model_bytes)} of models, "
        f"{'with' if facts.early else 'without'} an exit, {noise}; ONNX Runtime is within "
        f"{facts.verified['tolerance']:g} of torch ({facts.verified['of_tolerance']:.2g} of it)",
        highlight=False,
    )
    return 0
