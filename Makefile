# Two commands do everything on a machine that has git, make and Python 3.11 or newer:
#   make book    set up, execute the notebooks, build the site
#   make test    set up, run every check
# `make help` lists the rest.

.DEFAULT_GOAL := help
# Under -j the site would be built while pages are being executed; each target uses all cores by itself.
.NOTPARALLEL:
.PHONY: help setup book site pages pdf lecture test nightly faults lint format wobble run results queue paper pause resume again lab \
  serve bench lock clean

# What is given reaches the programs through the environment, as it was typed: quotes in P survive, and what looks like a
# function of make or a command of the shell is text.
GIVEN := PAGE P EXPERIMENT PROFILE ROW SEED SEEDS QUEUE WORKERS SHOW DASK HOURS TOGETHER TORCH PORT NOTEBOOKS JOBS FAULTS
$(foreach name,PYTHON $(GIVEN),$(eval override $(name) := $$(value $(name))))
export BOOT $(GIVEN)

# PYTHON=… names the interpreter of a new .venv; otherwise an existing .venv keeps its own.
BOOT := $(or $(PYTHON),$(if $(wildcard .venv/bin/python),.venv/bin/python,python3))
VENV := .venv/bin

# One thread a process: two threads that fight over a busy core are many times slower.
export OMP_NUM_THREADS ?= 1
# Where this is set, every one of hundreds of processes compiles torch's Python again: 9.5 s instead of 4.0 s.
unexport PYTHONDONTWRITEBYTECODE
# Files of tests go to all cores, four at most; what times pages in the browser has the machine to itself.
SPREAD := -n logical --maxprocesses=4 --dist=loadfile
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600
# Importing nbval costs each process of pytest 1.8 s: a library below it builds parsers of addresses.
NO_NBVAL := -p no:nbval
ALONE := tests/site/test_site_browser.py

help:  ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12
	@echo "Set-up switches: PYTHON=python3.12 (another Python), TORCH=cpu (torch without CUDA, 2.5 GB instead of 7)."

setup:  ## .venv as requirements.lock says; at once when nothing changed
	@command -v "$$BOOT" >/dev/null || { echo "set-up stopped: no $$BOOT on this machine; \
	install Python 3.11 or newer, or name one: make PYTHON=… book" >&2; exit 1; }
	@"$$BOOT" .ci/setup.py $${TORCH:+--torch "$$TORCH"}

book: pages site  ## execute the notebooks at the book's parameters and build the site

pages: setup
	@$(VENV)/python notebooks/run.py

site: setup
	@$(VENV)/python .ci/site.py
	@echo "The book: file://$(CURDIR)/_build/html/index.html   (or: make serve)"

pdf: pages  ## the whole book in one file, printed by Chromium
	@$(VENV)/python .ci/browser.py
	@$(VENV)/jupyter-book build book --quiet -W --keep-going --all --builder singlehtml >/dev/null
	@$(VENV)/python tests/browser.py _build/singlehtml/index.html _build/conflicting_gradients.pdf

lecture: pages site  ## the lecture kit as PDF, printed by Chromium: slides with notes, a handout for each paper
	@$(VENV)/python .ci/browser.py
	@html=_build/html/lecture pdf=_build/lecture; $(VENV)/python tests/browser.py "$$html/index.html?plain" $$pdf/slides.pdf \
	  $$html/recon.html $$pdf/recon.pdf $$html/rotograd.html $$pdf/rotograd.pdf $$html/sam_gs.html $$pdf/sam_gs.pdf

# lint and site use one core each: they run beside what uses all.
test: setup  ## lint, unit tests, nbval on the notebooks, the site and its checks
	@$(VENV)/python .ci/browser.py
	@$(MAKE) --no-print-directory lint & lint=$$!; $(MAKE) --no-print-directory pages && wait $$lint
	@$(MAKE) --no-print-directory site & site=$$!; $(VENV)/pytest tests/core tests/lab $(SPREAD) $(NO_NBVAL); status=$$?; \
	wait $$site && exit $$status
	@$(VENV)/pytest tests/site tests/notebooks notebooks --ignore=$(ALONE) $(SPREAD) $(NBVAL)
	@$(VENV)/pytest $(ALONE) -n logical --maxprocesses=4 $(NO_NBVAL)

nightly: setup  ## nbval from an empty store of runs, a test for every statement of every method, the recipes: hours
	@store=$$(mktemp -d) && MTL_RUNS=$$store $(VENV)/pytest notebooks $(SPREAD) $(NBVAL); \
	status=$$?; rm -rf "$$store"; exit $$status
	@$(VENV)/uv pip install --quiet --python $(VENV)/python --no-deps --require-hashes --target .venv/recipes -r tests/recipes.lock
	@$(VENV)/pytest tests/lab/test_recipes.py
	@MTL_NIGHTLY=1 $(VENV)/pytest tests/notebooks/test_pages_of_brought_sets.py $(NO_NBVAL)
	@$(VENV)/pytest tests/rehearse_pages.py
	@$(VENV)/python tests/mutate.py
	@$(MAKE) --no-print-directory faults

faults: setup  ## faults drawn anew: kills, full disks, damaged files, hostile input: make faults [FAULTS=0.1]
	@PYTHONPATH=.:tests $(VENV)/python -m faults --share "$${FAULTS:-1}"

lint: setup  ## ruff, mypy on the core, the arrows between the rooms
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy --no-error-summary
	@$(VENV)/lint-imports --no-logo >/dev/null || $(VENV)/lint-imports --no-logo

format: setup  ## let ruff put the sources into shape
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

wobble: setup  ## checked cells that rounding decides, half an hour: make wobble [NOTEBOOKS="name name"] [JOBS=2]
	@set -f; $(VENV)/python notebooks/wobble.py $$NOTEBOOKS --jobs "$${JOBS:-2}"

run: setup  ## one page with your parameters: make run PAGE=name P="seeds=2 epochs=1"
	@$(VENV)/python notebooks/run.py --page "$$PAGE" --parameters "$$P"
	@$(VENV)/python notebooks/run.py --absent
	@$(MAKE) --no-print-directory site
	@echo "Your page: file://$(CURDIR)/$$(ls _build/html/notebooks/*/"$$PAGE".html)"

results: setup  ## reference results: make results EXPERIMENT=name PROFILE=tiny|small|paper [SEEDS=10]
	@$(VENV)/python -m mtl_lab results "$$EXPERIMENT" --profile "$$PROFILE" $${SEEDS:+--seeds "$$SEEDS"} \
	  $${DASK:+--dask "$$DASK"}

queue: setup  ## several results: make queue QUEUE="qm9:small …" [WORKERS=2] [SHOW=1]; without QUEUE, go on
	@set -f; $(VENV)/python -m mtl_lab queue $$QUEUE $${WORKERS:+--workers "$$WORKERS"} $${SHOW:+--show} \
	  $${DASK:+--dask "$$DASK"}

paper: setup  ## what the profile paper lacks, most told for an hour first: make paper HOURS=8 [TOGETHER=4] [SHOW=1]
	@$(VENV)/python -m mtl_lab paper $${HOURS:+--hours "$$HOURS"} $${TOGETHER:+--together "$$TOGETHER"} $${SHOW:+--show}

pause: setup  ## results and queue wait from their next step on
	@$(VENV)/python -m mtl_lab pause

resume: setup  ## results and queue go on
	@$(VENV)/python -m mtl_lab resume

again: setup  ## one committed run once more, against its record: make again EXPERIMENT=qm9 ROW=equal [SEED=0]
	@$(VENV)/python -m mtl_lab again "$$EXPERIMENT" --row "$$ROW" $${SEED:+--seed "$$SEED"} $${PROFILE:+--profile "$$PROFILE"}

lab: setup  ## JupyterLab in notebooks/
	@IPYTHONDIR=$(CURDIR)/notebooks/.ipython $(VENV)/jupyter lab --notebook-dir=notebooks

serve: setup  ## serve the built site on this machine; PORT=8000
	@test -f _build/html/index.html || { echo "no site yet: run make book first" >&2; exit 1; }
	@echo "http://127.0.0.1:$${PORT:-8000}/   (Ctrl-C stops)"
	@$(VENV)/python -m http.server --bind 127.0.0.1 --directory _build/html "$${PORT:-8000}" || test $$? = 130

bench: setup  ## a training step of ours and of the peers, case by case, recorded: make bench [P="--cases qm9"]
	@$(VENV)/uv pip install --quiet --python $(VENV)/python --no-deps --require-hashes --target .venv/peers \
	  -r benchmarks/peers.lock
	@set -f; PYTHONPATH=. $(VENV)/python benchmarks/bench.py $${P:---record}

lock: setup  ## renew requirements.lock within the ranges of pyproject.toml
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/uv pip compile pyproject.toml --all-extras --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --upgrade --quiet -o requirements.lock

clean:  ## remove the built site and caches; .venv, .runs and results stay
	@rm -rf _build book/notebooks .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
