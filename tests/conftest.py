"""What several test files need: where the checkout is, what settings.ini says, and a copy that may be written to."""
import configparser, os, shutil, subprocess, sys
from pathlib import Path
import hypothesis, pytest

ROOT = Path(__file__).resolve().parents[1]
# The same examples each time, so that `make test` says the same twice; `pytest --hypothesis-profile=search` looks for new ones.
hypothesis.settings.register_profile('repeatable', max_examples=100, derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile('search', max_examples=2000, deadline=None, database=None)
hypothesis.settings.load_profile('repeatable')
COPIED = 'pyproject.toml settings.ini README.md LICENSE Makefile colorization_pix2pix nbs tests results'.split()


@pytest.fixture(scope='session')
def root(): return ROOT


@pytest.fixture(scope='session')
def settings():
    "settings.ini as nbdev 2 reads it."
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return dict(ini['DEFAULT'])


@pytest.fixture(scope='session')
def copy_checkout():
    "Copy the checkout without .venv, .git, runs and pictures: commands under test may write into the copy."
    def _copy(to: Path):
        to.mkdir()
        for name in COPIED:
            here = ROOT/name
            if here.is_dir(): shutil.copytree(here, to/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
            elif here.exists(): shutil.copy2(here, to/name)
        return to
    return _copy


@pytest.fixture(scope='session')
def run():
    "Run a command to its end and return its standard output; a failing command fails the test with all it printed."
    def _run(*command, cwd, timeout=300, **kwargs):
        done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=timeout, **kwargs)
        assert done.returncode == 0, f'{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}'
        return done.stdout
    return _run


@pytest.fixture(scope='session')
def nbdev(run):
    "Run one of nbdev's commands from this environment, whatever PATH says."
    def _nbdev(name, cwd): return run(sys.executable, Path(sys.executable).parent/name, cwd=cwd)
    return _nbdev
