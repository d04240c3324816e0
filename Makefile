# The two commands are `make test` and `make reproduce`; each sets up .venv first, which takes seconds when it is there.
# Beside the first stand `make test-all`, for what takes long, and `make test-extras`, for what needs a browser or optional packages.

# What the command of `make reproduce` takes, as --notebook and so on; nbs/reference/experiments/options.ipynb says what they mean.
OPTIONS := NOTEBOOK DATA PRESET GENERATOR ARCH PRETRAINED BATCH SEEDS EPOCHS WEIGHTS CROPS ON_TROUBLE PROCESSES

# What each target uses of the variables that are given on the command line. Any other is refused: a misspelled one would be left out without a word.
USES_test         := WORKERS
USES_test-all     := WORKERS
USES_reproduce    := $(OPTIONS)
USES_weights      := DATA
USES_bench        := ROUNDS
USES_bench-growth := DATA
USES_gpu          := DATA MINUTES SMOKE
USES_check-data   := DATA PRESET
USES_course-times := NOTEBOOK
# These reach the programs by themselves; BIN is another environment in the place of .venv's.
ALWAYS := PYTHON BIN COLORIZATION_% OMP_% CUDA_% PIP_% PYTEST_% GLIBC_%
GOALS  := $(or $(MAKECMDGOALS),help)
GIVEN  := $(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $v)),$v))
UNUSED := $(filter-out $(ALWAYS) $(foreach g,$(GOALS),$(USES_$g)),$(GIVEN))
ifneq ($(UNUSED),)
$(error make $(GOALS) does not use $(UNUSED). It uses $(or $(strip $(foreach g,$(GOALS),$(USES_$g))),none): leave it out or correct it)
endif

PYTHON   ?= python3
NOTEBOOK ?= 09_lab_baseline
DATA     ?=
WORKERS  ?= 2
ROUNDS   ?= 5
MINUTES  ?= 9
SMOKE    ?=

BIN   := .venv/bin
STAMP := .venv/.set-up-in
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# Paths reach the recipe through the environment and unexpanded, so spaces, quotes and dollar signs in them survive.
override DATA := $(value DATA)
override WEIGHTS := $(value WEIGHTS)
export $(OPTIONS) MINUTES SMOKE
# Nobody's own matplotlib or IPython settings change a figure. Outside the checkout only the picture cache is written (~/.cache/colorization_pix2pix).
export MPLCONFIGDIR := $(CURDIR)/.venv/matplotlib
export IPYTHONDIR := $(CURDIR)/.venv/ipython
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.venv/jupyter
# Threads that wait sleep instead of spinning: training no longer crawls when another program wants a core.
export OMP_WAIT_POLICY ?= PASSIVE
# glibc returns large blocks to the system at once and asks for them again in the next step. So set, a training keeps its memory, in huge pages; benchmarks/README.md says what that brings. Other systems ignore it.
ALLOCATOR := glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864
GLIBC_TUNABLES ?= $(ALLOCATOR)
reproduce weights: export GLIBC_TUNABLES := $(GLIBC_TUNABLES)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

REPRODUCE = $(BIN)/python -c 'import sys; from colorization_pix2pix.experiments.cli import main; sys.exit(main())' $(foreach v,$(OPTIONS),--$(shell echo $v | tr A-Z_ a-z-) "$$$v")

KILLS   = CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -W ignore::FutureWarning tests/kills.py
MUTANTS = CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/mutants.py

.DEFAULT_GOAL := help
.PHONY: help setup test test-all extras test-extras test-kills test-mutants reproduce weights bench bench-growth gpu check-data course-times readme clean always

help: ## show this list
	@awk -F':[^#]*## ' '/^[a-z-]+:.*## / {printf "%-13s%s\n", $$1, $$2}' Makefile
	@echo
	@echo 'make reproduce DATA=/path/to/photos PRESET=quick|small|full GENERATOR=unet|dynamic BATCH=16|auto SEEDS=3 EPOCHS=20 WEIGHTS=weights.safetensors|package CROPS=whole ON_TROUBLE=stop|go-on PROCESSES=2 NOTEBOOK=$(NOTEBOOK)'
	@echo 'DATA="one-folder another-folder" trains on both, and so does a .txt file with one folder on each line.'
	@echo 'Without arguments: the quick preset, on scenes the project draws itself.'

setup: $(STAMP) ## make .venv and install the package with its dev extra (Python 3.11 or newer; PYTHON=python3.12 picks one)

# The stamp holds the folder it was made in: a moved checkout is set up anew, because pip writes absolute paths.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): always
endif
$(STAMP): pyproject.toml
	@rm -f $(STAMP)
	@{ $(BIN)/python -c '$(NEW_ENOUGH)' && $(BIN)/python -m pip install --help; } >/dev/null 2>&1 || { \
	  $(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	    echo 'Python 3.11 or newer is needed and "$(PYTHON)" is not: install one, or name it, as in: make setup PYTHON=python3.12' >&2; exit 1; }; \
	  echo 'Setting up .venv: about 6 GB with PyTorch, a few minutes'; \
	  $(PYTHON) -m venv --clear .venv; }
	@$(BIN)/python -m pip install --editable '.[dev]' || { echo 'Set-up stopped: give the same command again, it goes on from here' >&2; exit 1; }
	@ln -sfn nbdev-test $(BIN)/nbdev_test
	@pwd -P > $(STAMP)

# Every notebook alone, then pytest, both in a temporary folder that is gone afterwards. The status is 1 where notebooks failed, 2 more where pytest did.
TESTS = export TMPDIR=$$(mktemp -d) CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1; chmod 755 "$$TMPDIR"; trap 'rm -rf "$$TMPDIR"' EXIT; status=0; \
	$(BIN)/python tests/notebooks_alone.py --n-workers $(WORKERS) || status=1; \
	COVERAGE_FILE="$$TMPDIR/coverage" $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
SAY_AND_EXIT = case $$status in 1|3|5|7) echo 'Notebooks failed: see above which' >&2;; esac; exit $$status

test: setup ## run every notebook alone in an empty folder (nbdev_test), then pytest without what is marked slow (WORKERS=2)
	@$(TESTS) || status=$$((status + 2)); $(SAY_AND_EXIT)

test-all: setup ## what test runs and what is marked slow, with coverage, then test-kills and test-mutants: more than an hour
	@$(TESTS) -m '' --cov || status=$$((status + 2)); \
	{ $(KILLS) && $(MUTANTS); } || status=$$((status + 4)); $(SAY_AND_EXIT)

extras: setup ## install what test-extras needs: optional packages, Playwright and axe-core; tells what it cannot install
	@$(BIN)/python -m pip install --editable '.[demo,heic,jxl,raw,metrics,ray]' playwright || { echo 'The optional packages could not be installed: see above why' >&2; exit 1; }
	@npm install --prefix . --no-save --no-package-lock --no-audit --no-fund axe-core || echo 'axe-core is missing: install Node.js with npm, or the page is not searched for barriers' >&2
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  echo 'Chromium is missing: install it (Debian: sudo apt-get install chromium; macOS: brew install --cask chromium), or the page is not tried in a browser' >&2

test-extras: extras ## test what test leaves out without them: the page in Chromium and with axe, HEIC, JPEG XL, raw, Ray, torchmetrics
	@export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1; status=0; \
	$(BIN)/python -m pytest tests/test_web.py tests/test_compare.py tests/test_pictures.py tests/test_colorize.py tests/test_variants.py \
	  -k 'test_web or test_compare or heic or jpeg_xl or test_raw or _ray' || status=1; \
	$(BIN)/nbdev-test nbs/reference/metrics/perceptual.ipynb || status=1; exit $$status

test-kills: setup ## kill a small training 50 times at random moments; writes results/robustness/kills.json
	@$(KILLS)

test-mutants: setup ## break the rooms of color and metrics in 250 ways, see whether a test notices; writes results/robustness/mutants.json
	@$(MUTANTS)

reproduce: setup ## train, then print the metrics table and where the figures lie
	@$(REPRODUCE)

weights: setup ## train the colorizer that the package carries on DATA, measure it, write its model card
	@$(BIN)/python -W ignore::FutureWarning -c 'import sys; from colorization_pix2pix.experiments.release import main; sys.exit(main())' --data "$$DATA"

bench: setup ## measure how fast each part is on this machine, into benchmarks/ (ROUNDS=5)
	@ALLOCATOR='$(ALLOCATOR)' $(BIN)/python -W ignore::FutureWarning benchmarks/bench.py --rounds $(ROUNDS)

bench-growth: setup ## measure how speed and memory grow with pictures' size, batch, number and processes
	@$(BIN)/python -W ignore::FutureWarning benchmarks/growth.py --photos "$$DATA"

gpu: setup ## measure and train on DATA all that needs a graphics card, MINUTES=9 at a time (SMOKE=yes: try it on a CPU)
	@$(BIN)/python -W ignore::FutureWarning benchmarks/gpu.py --data "$$DATA" --minutes "$$MINUTES" --smoke "$$SMOKE"

check-data: setup ## list the pictures of DATA that are left out of a training, and why
	@$(REPRODUCE) --check-data

course-times: setup ## measure minutes and memory of Run all for each notebook of the course, into results/course/ (NOTEBOOK="01 02": only these)
	@$(BIN)/python tests/notebooks_alone.py --times $(if $(filter-out file,$(origin NOTEBOOK)),$(NOTEBOOK))

readme: setup ## write the tables and times in README.md, README.ko.md, the index and the notebooks anew, from results/; and the site's sidebar
	@$(BIN)/python -W ignore::FutureWarning -c 'from colorization_pix2pix.experiments.readme import main; main()'
	@$(BIN)/nbdev-sidebar

clean: ## remove what builds and tests leave behind (keeps .venv and runs/)
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .coverage .coverage.*
	find . \( -path ./.venv -o -path ./.git \) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
