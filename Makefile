# Everything from nothing: each target makes .venv first, once, with pip from the usual index, and
# only with files that have the hashes in requirements/.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

# tests/test_examples.py holds these to their accuracy over several seeds (make slow).
# A digit is 64 bytes, fewer than most features: hence the late cut and the bottleneck. The link has
# the rate of 3G without its delay, which would have split learning wait for a minute.
DEMO_FLAGS := --cut conv3 --bottleneck 24 --codec int4+zstd --link 1.1 --epochs 15 --batch-size 64
DEMO_COMPARE := full-cloud,full-cloud:once,split,full-edge,hierarchical:once

# With PyPI's torch: make sbom TORCH="requirements/torch.txt requirements/torch-cuda.txt"
TORCH := requirements/torch-cpu.txt
SBOM_OF := requirements/container.txt $(TORCH)

.PHONY: help demo test check slow sbom clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## train a small net in six ways over an emulated wifi link, and compare them
	$(VENV)/bin/eaves train $(DEMO_FLAGS) --compare $(DEMO_COMPARE) --overwrite --out runs/demo

test: $(INSTALLED)  ## format, lint, types, layers, tests with doctests
	scripts/check

check:  ## the same with what is installed already (.venv, else the PATH)
	scripts/check

sbom: $(INSTALLED)  ## write what the container holds as CycloneDX JSON, into runs/sbom.json
	mkdir -p runs
	$(VENV)/bin/python scripts/sbom.py $(SBOM_OF) > runs/sbom.json

slow: $(INSTALLED)  ## the tests that train to a threshold
	$(VENV)/bin/python -m pytest -m slow

clean:  ## remove .venv, caches and runs
	rm -rf $(VENV) runs .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# With exactly what requirements/ names, each file by its hash (CONTRIBUTING.md, "The lock files").
$(INSTALLED): pyproject.toml scripts/install $(wildcard requirements/*.txt)
	$(PYTHON) -m venv $(VENV)
	scripts/install $(VENV)/bin/python requirements/dev.txt --editable
	@touch $@
