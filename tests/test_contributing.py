"""What CONTRIBUTING.md promises: a loss and a generator of one's own, in one cell, have their rows in the table."""
import json, os
from pathlib import Path
import pytest, torch
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.experiments.cli import run_notebook
from colorization_pix2pix.experiments.runner import code_hash
from colorization_pix2pix.models.io import GENERATORS, build_generator, load_generator
from colorization_pix2pix.training.losses import LOSSES

CELL = '''
import torch
from dataclasses import replace
from torch import nn
from colorization_pix2pix.data.sources import load_photos
from colorization_pix2pix.experiments.config import PRESETS, gallery
from colorization_pix2pix.experiments.figures import metrics_table
from colorization_pix2pix.experiments.runner import project_folder, run_all
from colorization_pix2pix.models.io import register_generator
from colorization_pix2pix.training.losses import register_loss

@register_loss('chroma')
def chroma_loss(pred, y): # generated and true colors, (B,C,H,W) in -1..1
    return (pred.norm(dim=1) - y.norm(dim=1)).abs().mean()

@register_generator('pixels')
def pixels(n_in, n_out, ngf): # and any other argument of build_generator that you need
    return nn.Sequential(nn.Conv2d(n_in, ngf, 1), nn.ReLU(), nn.Conv2d(ngf, n_out, 1), nn.Tanh())

preset, data = PRESETS['smoke'], 'scenes:24'
rows = [replace(preset, name='L1+cGAN'), replace(preset, name='chroma', losses={'chroma': 10.}), replace(preset, name='pixels', generator='pixels')]
results = run_all(rows, load_photos(data, preset.size, preset.load_size), gallery(data), project_folder())
table = metrics_table(results)
'''


@pytest.fixture(scope='module')
def names(tmp_path_factory):
    "What the cell leaves behind, run as `make reproduce` runs a notebook; and where."
    folder, here, was = tmp_path_factory.mktemp('checkout'), Path.cwd(), os.environ.pop('IN_TEST', None)
    (folder/'nbs'/'course').mkdir(parents=True)
    notebook = folder/'nbs'/'course'/'30_mine.ipynb'
    notebook.write_text(json.dumps({'cells': [{'cell_type': 'code', 'source': CELL.splitlines(True)}]}))
    try: yield run_notebook(notebook) | dict(root=folder)
    finally:
        os.chdir(here)
        if was is not None: os.environ['IN_TEST'] = was
        for registry, name in ((LOSSES, 'chroma'), (GENERATORS, 'pixels')): registry.pop(name, None), registry.sources.pop(name, None)


def test_a_loss_and_a_generator_of_ones_own_have_rows(names):
    rows = [line.split('|')[1].strip().split(' (')[0] for line in names['table'].splitlines() if line.startswith('|')]
    assert [rows.count(name) for name in ('L1+cGAN', 'chroma', 'pixels')] == [2, 2, 2]  # epochs 1 and 2; a finding may stand behind the name
    plain, chroma, pixels = names['results']
    assert set(chroma['curves']) - set(plain['curves']) == {'g_chroma'} and all(v > 0 for v in chroma['curves']['g_chroma'])
    assert len({json.dumps(r['epochs']) for r in (plain, chroma, pixels)}) == 3


def test_its_weights_come_back(names):
    net, experiment = load_generator(names['root']/'runs'/'smoke'/names['results'][2]['name']/'weights.safetensors')
    assert experiment['generator'] == 'pixels' and net(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 8, 8)
    made = GENERATORS.pop('pixels')
    try:
        with pytest.raises(UserError, match="No generator is called 'pixels'.*register"): load_generator(names['root']/'runs'/'smoke'/names['results'][2]['name']/'weights.safetensors')
    finally: GENERATORS['pixels'] = made


def test_a_result_knows_the_code_of_what_was_registered(names):
    plain, chroma, pixels = (r['code'] for r in names['results'])
    assert plain == code_hash() and plain not in (chroma, pixels)  # which share a cell, so that each counts for both
    experiment, was = names['results'][1]['experiment'], LOSSES.sources['chroma']
    assert chroma == code_hash(experiment) and 'run_all(' not in was
    try:
        LOSSES.sources['chroma'] = was.replace('mean()', 'sum()')
        assert code_hash(experiment) != chroma and code_hash() == plain
    finally: LOSSES.sources['chroma'] = was


def test_the_packages_own_generators_cannot_be_replaced():
    with pytest.raises(ValueError, match="'unet' is the package's own"): GENERATORS.register('unet')
    assert 'unet' not in GENERATORS.sources and build_generator('unet', 1, 2, 64, ngf=8)(torch.zeros(2, 1, 64, 64)).shape == (2, 2, 64, 64)


@pytest.mark.skipif(not (Path(__file__).parents[1]/'CONTRIBUTING.md').exists(), reason='there is no CONTRIBUTING.md yet')
def test_contributing_shows_this_very_cell(root): assert CELL.strip() in (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
