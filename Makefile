# Every target makes .venv first, when it is missing or older than what it is made from.
PYTHON := .venv/bin/python
STAMP := .venv/.complete

.PHONY: demo test soak lint lock clean

demo: $(STAMP)
	$(PYTHON) tools/demo.py --output output/demo

test: $(STAMP)
	$(PYTHON) -m pytest -n 2

# Minutes of kills and fuzzing, beyond what the tests do.
soak: $(STAMP)
	$(PYTHON) -m pytest -n 2 -m soak

lint: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

$(STAMP): requirements.lock pyproject.toml .python-version tools/make_venv.sh
	bash tools/make_venv.sh .venv

# Written by hand after a change of pyproject.toml; needs uv. A lock names no index address.
lock:
	uv pip compile --quiet --generate-hashes --no-header --python-version 3.10 \
	    --extra detectron2 --extra dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv output
