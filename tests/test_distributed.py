"""Two processes train what one does: same weights in both, same losses as alone, one writer; a killed one ends all, and the training goes on in two or in one."""
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
pytest.importorskip('accelerate', reason="training in several processes needs accelerate: pip install 'colorization_pix2pix[dist]'")
from test_commands import make_checkout

pytestmark = pytest.mark.slow # every training in several processes

TOLERANCE = dict(instance=5e-4, batch=.02, cycle=.02) # of a loss; with batch normalisation each of the two processes normalises 4 pictures where one normalises 8


@pytest.fixture(scope='module')
def folder(root, tmp_path_factory):
    "All trainings of tests/together.py, from one process that imports fastai once."
    folder = tmp_path_factory.mktemp('together')
    done = subprocess.run([sys.executable, '-W', 'ignore', root/'tests'/'together.py', folder], env=os.environ | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return folder


def result(place):
    "The only result of that name's beginning."
    (path,) = place.parent.glob(place.name + '-*.json')
    return json.loads(path.read_text())


def results(folder, name, run): return result(folder/name/'results'/'smoke'/run)


@pytest.mark.parametrize('run', ['instance', 'batch', 'cycle', 'killed'])
def test_both_processes_end_with_the_same_bits(folder, run):
    "Networks, running mean, running statistics and the optimizer's moments."
    first, other = (load_file(folder/'two'/f'{run}-{i}.safetensors') for i in (0, 1))
    assert len(first) > 50 and first.keys() == other.keys() and all(torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize('run', TOLERANCE)
def test_losses_are_those_of_one_process_at_the_same_batch(folder, run):
    "Six batches, the same pictures in each; the sums differ in their last bits, and Adam and a game of two networks make more of it with each step."
    one, two = (results(folder, name, run)['curves'] for name in ('one', 'two'))
    assert one.keys() == two.keys() and all(len(values) == 6 for values in two.values())
    apart = max(abs(a - b) for k in one for a, b in zip(one[k], two[k]))
    at_first = max(abs(one[k][0] - two[k][0]) for k in one)
    print(f'{run}: at most {apart:.1e} apart, at the first batch {at_first:.1e}') # pytest -rP shows it
    assert apart < TOLERANCE[run] and (run == 'batch' or at_first < 5e-5)


def test_the_promises_say_how_far_apart(root):
    "The bounds that are tested here, that of the default first."
    cells = json.loads((root/'nbs'/'reference'/'experiments'/'promises.ipynb').read_text(encoding='utf-8'))['cells']
    said, = [line for c in cells for line in ''.join(c['source']).splitlines() if line.startswith('On two CPU processes')]
    assert [float(n) for n in re.findall(r'within ([\d.e-]*\d)', said)] == [TOLERANCE[run] for run in ('batch', 'instance', 'cycle')]


def test_a_result_says_how_many_and_what_each_did(folder):
    said = results(folder, 'two', 'batch')['machine']
    assert (said['processes'], said['batch'], said['batch_of_each']) == (2, 8, 4) and said['device'].startswith('2 x ') and 'each part' in said['batch_norm']
    assert 'processes' not in results(folder, 'one', 'batch')['machine']


def test_one_writes(folder):
    "As many files as with one process, none of them half written."
    names = {name: sorted(p.relative_to(folder/name).as_posix() for p in (folder/name).rglob('*') if p.is_file() and 'killed' not in p.as_posix() and p.suffix != '.safetensors') for name in ('one', 'two')}
    assert names['one'] == names['two'] and not list(folder.rglob('.*')) and not list(folder.rglob('checkpoint*'))


def test_a_process_that_is_killed_ends_all_and_the_rest_comes_later(folder):
    "In two processes with the bits of an unbroken run, dropout and running mean included; in one it says that it moved."
    told = json.loads((folder/'told.json').read_text())
    assert told['killed'] == 'failed' and told['seconds to the end'] < 60
    assert told['goes on in two'] == told['goes on in one'] == 'done'
    whole, later = (load_file(folder/name/'killed-0.safetensors') for name in ('two', 'after'))
    assert all(torch.equal(whole[k], later[k]) for k in whole)
    assert results(folder, 'two', 'killed')['curves'] == results(folder, 'after', 'killed')['curves']
    assert [m.get('processes', 1) for m in results(folder, 'alone', 'killed')['machines']] == [2, 1]


PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.data.sources import load_photos
from colorization_pix2pix.experiments.config import PRESETS, gallery
from colorization_pix2pix.experiments.runner import run_all
from colorization_pix2pix.training.distributed import joined, rank
try:
    with joined():
        if sys.argv[1] == 'bug' and rank(): raise ValueError('A bug in the second process')
        photos = load_photos('scenes:32' if sys.argv[1] == 'other' and rank() else 'scenes:24', 64, 72)
        run_all([replace(PRESETS['smoke'], name='x')], photos, gallery('scenes'), Path('out'))
except UserError as e: sys.exit(f'SENTENCE {e}')
"""


@pytest.mark.parametrize('wrong, said', [('other', 'SENTENCE A process beside the first has other pictures'), ('bug', 'ValueError: A bug in the second process')])
def test_an_error_in_any_process_ends_all_and_is_said_once(tmp_path, wrong, said):
    "A program that torchrun starts: each process runs the whole of it, and what goes wrong in the second one ends the first, too."
    (tmp_path/'program.py').write_text(PROGRAM)
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'COLORIZATION_CACHE': str(tmp_path/'cache'), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone', 'program.py', wrong], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and done.stderr.count(said) == 1 and done.stderr.count('SENTENCE') == (wrong == 'other') and 'has ended' not in done.stderr
    assert not list(tmp_path.glob('out/results/**/*.json'))


def test_the_command_refuses_in_one_sentence(tmp_path):
    "A batch that cannot be shared: one of the processes says so, the other ends without a word, and nothing is left behind."
    checkout = make_checkout(tmp_path/'checkout')
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'COLORIZATION_CACHE': str(tmp_path/'cache')}
    command = [sys.executable, '-W', 'ignore', '-m', 'colorization_pix2pix.experiments.cli', '--preset', 'smoke', '--data', 'scenes:24', '--batch', '5', '--processes', '2']
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert [line for line in done.stderr.splitlines() if 'reproduce:' in line] == ['reproduce: A batch of 5 has no 2 equal parts of two pictures or more, one for each process: choose BATCH=4.']
    assert not (checkout/'results').exists() or not list((checkout/'results').rglob('*.json'))
