# Everything runs in a virtual environment of its own, made from pinned versions.
PYTHON ?= python3.11
SEED ?= 0
PY := .venv/bin/python
# Tests that share a server stay together in one process.
PARALLEL := -n 2 --dist loadfile
SERVED := $(PY) -m tasks.local_server --

.PHONY: env run run-photos ui test test-full check controls clean

env: .venv/.installed

.venv/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip setuptools wheel
	$(PY) -m pip install --quiet --constraint constraints.txt torch
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

run: env  ## the whole of HP-Edit in miniature, minutes on two cores
	@$(SERVED) $(PY) -m flows.hp_edit --seed $(SEED)

run-photos: env  ## the data side on photographs: make run-photos COCO=<folder with images/ and annotations/instances.json>
	@test -n "$(COCO)" || { echo "usage: make run-photos COCO=<folder with images/ and annotations/instances.json>"; exit 2; }
	@$(SERVED) $(PY) -m flows.nightly_rebuild --photographs "$(COCO)" --seed $(SEED)

controls: env  ## permuted rewards must gain nothing; unfiltered against hard cases, three seeds
	@$(SERVED) $(PY) -m flows.controls --seed $(SEED)

ui: env  ## the Prefect UI over the runs of this folder
	@$(PY) -m tasks.local_server

test: env  ## offline, under ten minutes
	$(PY) -m pytest -m "not slow" $(PARALLEL)

test-full: env  ## with everything that is slow
	$(PY) -m pytest $(PARALLEL)

check: env  ## lint and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf runs
