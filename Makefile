# Every target makes .venv first, when it is missing or older than what it is made from.
PYTHON := .venv/bin/python
STAMP := .venv/.complete
MODERN_STAMP := .venv-modern/.complete

.PHONY: demo test test-modern soak lint lock clean

demo: $(STAMP)
	$(PYTHON) tools/demo.py --output output/demo

test: $(STAMP)
	$(PYTHON) -m pytest -n 2

# The same tests on Python 3.12, torch 2.11, numpy 2, and Detectron2 without compiled operators.
test-modern:
	@if missing=$$(bash tools/make_venv.sh --find modern 2>&1 >/dev/null); then \
	    $(MAKE) --no-print-directory $(MODERN_STAMP) && \
	    .venv-modern/bin/python -m pytest -n 2; \
	else \
	    echo "test-modern: skipped: $${missing#make_venv.sh: }"; \
	fi

# Minutes of kills and fuzzing, beyond what the tests do.
soak: $(STAMP)
	$(PYTHON) -m pytest -n 2 -m soak

lint: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

$(STAMP): requirements.lock pyproject.toml .python-version tools/make_venv.sh
	bash tools/make_venv.sh .venv

$(MODERN_STAMP): requirements-modern.lock requirements.lock pyproject.toml tools/make_venv.sh \
    tools/stack/repack_detectron2.py
	bash tools/make_venv.sh .venv-modern modern

# Written by hand after a change of pyproject.toml; needs uv. A lock names no index address.
LOCK := uv pip compile --quiet --generate-hashes --no-header --extra dev pyproject.toml
lock:
	$(LOCK) --python-version 3.10 --extra detectron2 --output-file requirements.lock
	$(LOCK) --python-version 3.12 --extra modern --output-file requirements-modern.lock

clean:
	rm -rf .venv .venv-modern output
