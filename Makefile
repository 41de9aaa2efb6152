# make demo    install without PyTorch and transcribe the recordings in demo/
# make test    run all checks, with all extras installed
# make quick   run lint, types and the quick tests of the folders that differ from main
# make docs    build the documentation into site/; a broken link is an error
# make clean   remove everything that the other targets create

PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test

.PHONY: demo test quick docs lint clean

# A normal install, not an editable one: the demo runs exactly what users get. Modules are compiled on first use.
demo: $(DEMO)/bin/python
	$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt .
	$(DEMO)/bin/python demo/run.py

# One thread for each of the two processes: more threads than cores would wait for each other.
test: lint docs
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m 'not alone'
	$(TEST)/bin/python -m pytest -m alone tests/serving

# tests/changed.py maps src/unichoir/X and tests/X to tests/X, and names a smoke selection when nothing has tests of its own.
quick: lint
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest -q -n 2 --dist loadfile -m 'not (alone or slow)' \
	    $$($(PYTHON) tests/changed.py main)

lint: $(TEST)/.installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports

# The variable silences an announcement of the theme's makers.
docs: $(TEST)/.installed
	NO_MKDOCS_2_WARNING=1 $(TEST)/bin/mkdocs build --quiet --strict

KERNELS := hatch_build.py src/unichoir/native/build.py $(wildcard src/unichoir/native/*.cpp src/unichoir/native/*.h)

$(TEST)/.installed: $(TEST)/bin/python pyproject.toml constraints.txt $(KERNELS)
	$(TEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

%/bin/python:
	$(PYTHON) -m venv $*

clean:
	rm -rf $(DEMO) $(TEST) build dist site src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f src/unichoir/native/kernels.bin
	find src tests demo -name __pycache__ -type d -prune -exec rm -rf {} +
