"""The Makefile's own logic, tried with a stand-in for Python, so that nothing is downloaded."""
import os, re, shutil, subprocess
from pathlib import Path
import pytest
from colorization_pix2pix.experiments.options import OPTIONS

VARIABLES = {'PYTHON', 'NOTEBOOK', 'WORKERS', 'MINUTES', 'SMOKE', *map(str.upper, OPTIONS)}
PYTEST = ['-m', 'pytest', '--numprocesses', '2', '--dist', 'loadfile']
RUN = 'import sys; from colorization_pix2pix.experiments.cli import main; sys.exit(main())'
# Logs what it was asked for, makes a .venv of copies of itself, and fails where a file named fail holds part of the request.
STAND_IN = """#!/bin/sh
{ printf '%s\\037' "$@"; printf '\\036'; } >> log
echo "$GLIBC_TUNABLES" > allocator
if [ -f fail ] && printf '%s ' "$@" | grep -q -e "$(cat fail)"; then exit 1; fi
if [ "$1 $2" = '-m venv' ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/nbdev-test; fi
"""


@pytest.fixture
def folder(root, tmp_path):
    "A checkout in a folder with a space in its name, holding no more than make needs."
    folder = tmp_path/'a checkout'
    folder.mkdir()
    for name in 'Makefile', 'pyproject.toml': shutil.copy2(root/name, folder/name)
    (folder/'python-stand-in').write_text(STAND_IN)
    (folder/'python-stand-in').chmod(0o755)
    return folder


def make(folder, *arguments, **environment):
    "Run make with the stand-in; return the finished process and, one list per call of Python, what was asked of it."
    (folder/'log').unlink(missing_ok=True)
    # These tests may themselves run under `make test`, whose variables must not reach the make under test.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('MAKE', 'MFLAGS')) and k not in VARIABLES} | environment
    done = subprocess.run(['make', 'PYTHON=./python-stand-in', *arguments], cwd=folder, capture_output=True, text=True, env=clean)
    log = (folder/'log').read_text() if (folder/'log').exists() else ''
    return done, [call.split('\x1f')[:-1] for call in log.split('\x1e')[:-1]]


def installs(calls): return [c for c in calls if c[:3] == ['-m', 'pip', 'install'] and '--help' not in c]


def test_set_up_is_made_once_and_again_when_requirements_change(folder):
    done, calls = make(folder, 'setup')
    assert done.returncode == 0 and installs(calls) == [['-m', 'pip', 'install', '--editable', '.[dev]']]
    assert (folder/'.venv/bin/nbdev_test').readlink().name == 'nbdev-test'
    assert make(folder, 'setup')[1] == []
    os.utime(folder/'.venv/.set-up-in', (0, 0))  # older than pyproject.toml
    calls = make(folder, 'setup')[1]
    assert len(installs(calls)) == 1 and ['-m', 'venv', '--clear', '.venv'] not in calls


def test_interrupted_set_up_goes_on(folder):
    (folder/'fail').write_text('--editable')
    done, _ = make(folder, 'test')
    assert done.returncode == 2 and 'give the same command again' in done.stderr
    (folder/'fail').unlink()
    done, calls = make(folder, 'test')
    assert done.returncode == 0 and len(installs(calls)) == 1 and calls[-1] == PYTEST


def test_moved_checkout_is_set_up_anew(folder):
    make(folder, 'setup')
    assert len(installs(make(folder.rename(folder.with_name('moved')), 'setup')[1])) == 1


def test_old_or_missing_python_is_one_sentence(folder):
    for python in 'no-such-python', 'false':
        done, _ = make(folder, 'setup', f'PYTHON={python}')
        first = done.stderr.splitlines()[0]
        assert done.returncode == 2 and first.startswith(f'Python 3.11 or newer is needed and "{python}" is not') and 'PYTHON=' in first


def handed_on(**given):
    "Every option of the command, in make's order."
    makefile = (Path(__file__).parents[1]/'Makefile').read_text(encoding='utf-8')
    names = re.search('^OPTIONS := (.+)', makefile, re.M)[1].lower().split()
    assert {*names} == {'notebook', *OPTIONS}
    given = dict(notebook='09_lab_baseline') | given
    return [word for name in names for word in ('--' + name.replace('_', '-'), given.get(name, ''))]


def test_reproduce_hands_on_any_path(folder):
    path = '../my "photos" of $HOME, `x` \'y\' $(z)/\u00e9'
    calls = make(folder, 'reproduce', f'DATA={path}', 'PRESET=small', 'NOTEBOOK=10_rgb_vs_lab')[1]
    assert calls[-1] == ['-c', RUN, *handed_on(notebook='10_rgb_vs_lab', data=path, preset='small')]


def test_reproduce_without_arguments(folder):
    calls = make(folder, 'reproduce')[1]
    assert calls[-1] == ['-c', RUN, *handed_on()]


@pytest.mark.parametrize('failing', ['notebooks_alone', 'pytest'])
def test_both_halves_of_the_tests_run_and_either_fails_the_target(folder, failing):
    make(folder, 'setup')
    (folder/'fail').write_text(failing)
    done, calls = make(folder, 'test')
    assert done.returncode == 2 and calls[-2][0] == 'tests/notebooks_alone.py' and calls[-1] == PYTEST


@pytest.mark.parametrize('failing', ['notebooks_alone', 'pytest', 'tests/kills.py', 'tests/mutants.py'])
def test_all_tests_include_the_slow_ones_and_any_part_fails_them(folder, failing):
    make(folder, 'setup')
    done, calls = make(folder, 'test-all')
    assert done.returncode == 0 and calls[1] == [*PYTEST, '-m', '', '--cov'] and [c[-1] for c in calls[2:]] == ['tests/kills.py', 'tests/mutants.py']
    (folder/'fail').write_text(failing)
    assert make(folder, 'test-all')[0].returncode == 2


def test_extras_that_cannot_be_installed_are_told_from_tests_that_fail(folder):
    "`make extras` is the machine's; where npm and Chromium are missing it says so and goes on."
    (folder/'tools').mkdir()
    for tool in 'sh', 'make', 'grep', 'cat', 'pwd', 'env': (folder/'tools'/tool).symlink_to(shutil.which(tool))
    make(folder, 'setup')
    done, calls = make(folder, 'extras', PATH=str(folder/'tools'))
    assert done.returncode == 0 and len(installs(calls)) == 1 and 'axe-core is missing: ' in done.stderr and 'Chromium is missing: ' in done.stderr
    (folder/'fail').write_text('playwright')
    done, calls = make(folder, 'test-extras', PATH=str(folder/'tools'))
    assert done.returncode == 2 and 'could not be installed' in done.stderr and not [c for c in calls if 'pytest' in c]
    (folder/'fail').write_text('tests/test_web.py')
    done, calls = make(folder, 'test-extras', PATH=str(folder/'tools'))
    assert done.returncode == 2 and 'could not be installed' not in done.stderr and [c for c in calls if 'pytest' in c]


def test_course_times_of_all_notebooks_or_of_some(folder):
    assert make(folder, 'course-times')[1][-1] == ['tests/notebooks_alone.py', '--times']
    assert make(folder, 'course-times', 'NOTEBOOK=01 02')[1][-1] == ['tests/notebooks_alone.py', '--times', '01', '02']


def test_seeds_epochs_and_weights_reach_the_recipe(folder):
    calls = make(folder, 'reproduce', 'SEEDS=1', 'EPOCHS=20', 'WEIGHTS=my $(x) weights')[1]
    assert calls[-1] == ['-c', RUN, *handed_on(seeds='1', epochs='20', weights='my $(x) weights')]


@pytest.mark.parametrize('given', ['reproduce EPOCH=20', 'test DATA=/photos', 'weights SEEDS=1', 'clean BATCH=2', 'bench NOTEBOOK=28', 'check-data SEEDS=2', 'PRESETS=small'])
def test_a_variable_that_is_not_used_is_refused_before_anything_is_done(folder, given):
    done, calls = make(folder, *given.split())
    name = given.split()[-1].split('=')[0]
    assert done.returncode == 2 and calls == [] and f'does not use {name}. ' in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('given', ['test WORKERS=1', 'bench ROUNDS=1', 'gpu MINUTES=1', 'check-data PRESET=small', 'setup OMP_NUM_THREADS=1', 'reproduce check-data NOTEBOOK=22', 'test BIN=.venv/bin'])
def test_a_variable_that_is_used_is_not(folder, given): assert make(folder, *given.split())[0].returncode == 0


def test_only_trainings_set_the_allocator(folder):
    "A test measures memory as a user has it, and one who has settings keeps them."
    def seen(*arguments, **environment):
        assert make(folder, *arguments, **environment)[0].returncode == 0
        return (folder/'allocator').read_text().strip()
    for target in 'reproduce', 'weights': assert 'mmap_max=0' in seen(target) and seen(target, 'GLIBC_TUNABLES=a=1') == seen(target, GLIBC_TUNABLES='a=1') == 'a=1'
    for target in 'test', 'bench', 'check-data': assert seen(target) == ''


def test_help_names_every_variable_of_reproduce(folder):
    out = make(folder)[0].stdout
    assert {*map(str.upper, OPTIONS)} - {'ARCH', 'PRETRAINED'} <= set(w.split('=')[0] for w in out.split() if '=' in w)
