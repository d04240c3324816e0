"""Run every notebook alone, as Colab does: in an empty folder, with google.colab, with no more than its install cell installs.

`python tests/notebooks_alone.py` runs all of them with nbdev_test, in the smoke preset; `python tests/notebooks_alone.py 29 30` those whose names begin so.
`python tests/notebooks_alone.py --times` runs those of the course one by one as a reader's Run all does, and writes how long each takes, and how much memory."""
import argparse, os, re, shutil, signal, subprocess, sys, tempfile, time, tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from threading import Timer
from fastcore.nbio import read_nb
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
STAND_INS = ROOT/'tests'/'alone'
INSTALL = re.compile(r'pip install -q "colorization_pix2pix\[([\w,]+)\]==(\d+\.\d+\.\d+)"')
HAS = 'nbdev', 'jupyter' # what runs a notebook, there or here
TIMES = ROOT/'results'/'course'/'run_all.json'
HOW = ('Every cell in turn, in a process of its own, in an empty folder without a cache, with what the install cell installs (the installation itself is left out). Nothing is chosen, so what a '
       'notebook trains is the preset quick on drawn scenes. Memory: the largest resident set of the process. Load: the larger one of the load averages (1 minute) before and after, so how many threads wanted a processor.')
LIMIT, THREADS = 10, 2 # minutes; what takes longer is stopped and not measured


def extras(path: Path) -> tuple:
    "What the install cell names between brackets."
    first = next(c.source for c in read_nb(path).cells if c.cell_type == 'code')
    return tuple(sorted(INSTALL.search(first)[1].split(',')))


def brought_by(lines: list, seen: set) -> set:
    "Names of the distributions that these requirements bring, and those that they bring, added to `seen` with their extras."
    for r in map(Requirement, lines):
        for extra in ('', *r.extras):
            key = canonicalize_name(r.name), extra
            if key in seen or r.marker and not r.marker.evaluate({'extra': ''}): continue
            seen.add(key)
            try: wanted = requires(r.name) or []
            except PackageNotFoundError: continue
            fits = [q for q in map(Requirement, wanted) if (q.marker.evaluate({'extra': extra}) if q.marker else not extra)]
            for q in fits: q.marker = None
            brought_by([str(q) for q in fits], seen)
    return {name for name, _ in seen}


def missing(named: tuple) -> set:
    "Modules that are installed here, but not by an install cell that names these extras."
    project = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']
    optional = project['optional-dependencies']
    there = brought_by([*project['dependencies'], *(r for e in named for r in optional[e]), *HAS], set())
    absent = brought_by([r for lines in optional.values() for r in lines], set()) - there - {canonicalize_name(project['name'])} # dev names the package itself
    of = {module: set(map(canonicalize_name, owners)) for module, owners in packages_distributions().items()}
    return {module for module, owners in of.items() if owners <= absent} - {'google'}


def environment(named: tuple) -> dict:
    "The environment variables that put a Python into the stand-in for Colab."
    return os.environ | dict(PATH=f"{STAND_INS/'bin'}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=os.pathsep.join(map(str, (STAND_INS, ROOT))), PYTHONDONTWRITEBYTECODE='1', IN_TEST='1', # nbdev sets it for the first notebook of each worker only
                             ALONE_MISSING=' '.join(missing(named)), ALONE_GIT=shutil.which('git') or 'git', ALONE_CHECKOUT=str(ROOT))


def run(paths: list, named: tuple, folder: Path, workers: int) -> int:
    "nbdev_test on a copy of each, alone in a folder of its own; its exit status."
    for path in paths:
        (folder/path.stem).mkdir(parents=True)
        shutil.copy2(path, folder/path.stem)
    shutil.copy2(ROOT/'pyproject.toml', folder) # for nbdev, which looks for its settings upward
    return subprocess.run([sys.executable, Path(sys.executable).parent/'nbdev-test', folder, '--n-workers', str(workers), '--do-print', '--timing'], cwd=folder, env=environment(named)).returncode


def run_all(path: Path) -> dict:
    "Run all cells as a reader in Colab does; what it took, or that it was stopped. RuntimeError if a cell fails."
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy2(path, folder)
        given = {k: v for k, v in environment(extras(path)).items() if k != 'IN_TEST' and not k.startswith('COLORIZATION_')}
        given |= dict(COLORIZATION_CACHE=f'{folder}/cache', OMP_NUM_THREADS=str(THREADS), CUDA_VISIBLE_DEVICES='')
        start, load = time.monotonic(), os.getloadavg()[0]
        process = subprocess.Popen([sys.executable, Path(sys.executable).parent/'exec_nb', path.name, '--exc-stop'], cwd=folder, env=given, start_new_session=True)
        late = Timer(LIMIT * 60, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        _, process.returncode, used = os.wait4(process.pid, 0)
        late.cancel()
    minutes, load = (time.monotonic() - start) / 60, round(max(load, os.getloadavg()[0]), 1)
    if process.returncode and minutes < LIMIT: raise RuntimeError(f'{path.name} does not run')
    if process.returncode: return dict(stopped_after_minutes=LIMIT, load=load)
    return dict(minutes=round(minutes, 2), processor_minutes=round((used.ru_utime + used.ru_stime) / 60, 2), memory_mb=round(used.ru_maxrss / 1024), load=load)


def measure(paths: list):
    "`run_all` of each, into the file, which keeps what it has of others."
    from colorization_pix2pix.core.storage import read_json, write_json
    from colorization_pix2pix.experiments.config import best_device, commit, machine
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    here = dict(device=machine(best_device())['device'], torch=machine(best_device())['torch'], threads=THREADS, commit=commit())
    for path in paths:
        found = (read_json(TIMES) if TIMES.exists() else {}) | {path.stem: run_all(path) | here}
        TIMES.parent.mkdir(exist_ok=True)
        write_json(TIMES, dict(sorted(found.items())) | dict(format=1, how=HOW))
        print(path.stem, found[path.stem], flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('begins', nargs='*', default=[''], help='beginnings of the names of notebooks; all if none is given')
    parser.add_argument('--n-workers', type=int, default=2)
    parser.add_argument('--times', action='store_true', help=f'measure those of the course, into {TIMES.relative_to(ROOT)}')
    asked = parser.parse_args()
    if asked.times: return measure([p for p in sorted((ROOT/'nbs'/'course').glob('*.ipynb')) if p.name.startswith(tuple(asked.begins))]) or 0
    groups, failed = {}, False
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if path.name.startswith(tuple(asked.begins)): groups.setdefault(extras(path), []).append(path)
    with tempfile.TemporaryDirectory() as folder:
        for named, paths in groups.items(): failed |= bool(run(paths, named, Path(folder)/'-'.join(named), asked.n_workers))
    return int(failed)


if __name__ == '__main__': sys.exit(main())
