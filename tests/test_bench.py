"""The benchmarks' page is made from the measured files, and what is compared as equal gives equal numbers. Nothing is timed here."""
import json, os, re, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from fastai.callback.core import TrainEvalCallback
from fastai.data.core import DataLoaders
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
import bench, bench_data, bench_page, bench_steps, bench_timing, gpu_speed, growth
from colorization_pix2pix.experiments.config import PRESETS, learner
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.data.sources import load_photos
from colorization_pix2pix.experiments.speed import Noise, OneByOne
from colorization_pix2pix.training.callbacks import NoValidation

SMOKE, SMALL = PRESETS['smoke'], 'small: 64x64, ngf 32, batch 32'


def committed(root):
    "Skip where `make reproduce` has written results of one's own over those of which the pages speak."
    if subprocess.run(['git', '-C', str(root), 'status', '--porcelain', '--', 'results'], capture_output=True, text=True).stdout: pytest.skip('results/ was regenerated here and is not the committed one')


@pytest.fixture
def files(root):
    "What was measured, by device."
    return {f.stem: json.loads(f.read_text()) for f in (root/'benchmarks').glob('*.json')}


# The pages

def test_page_is_made_from_the_files(root):
    committed(root)
    assert (root/'benchmarks'/'README.md').read_text(encoding='utf-8') == bench_page.readme(), 'make it anew: bench.py --page'


def test_growth_is_made_from_the_files(root):
    for file in (root/'benchmarks').glob('growth-*.json'):
        assert file.with_suffix('.md').read_text(encoding='utf-8') == growth.page(json.loads(file.read_text()), f'../images/{file.stem}.png'), 'make it anew: growth.py --page'


def test_an_estimate_is_called_one_and_made_only_where_nothing_was_measured():
    said = growth.beyond({1000: .3, 4000: 1., 16_000: 4.}, 64_000)
    assert 'Not measured but extrapolated' in said and 'power 1.00' in said and 'about 16 CPU seconds for 64,000' in said
    assert 'about 64 CPU' in growth.beyond({4000: 1., 16_000: 8.}, 64_000)
    for measured in ({4000: 1., 64_000: 9.}, {4000: 1.}, {20: 0., 40: 0.}): assert growth.beyond(measured, 64_000) == ''


def test_what_is_said_about_growth_stands_in_its_tables(root):
    said, = [p for p in bench_page.HEAD.split('\n\n') if p.startswith('How all of it grows')]
    numbers, page = set(re.findall(r'\d,\d{3}|\b[456]\d\d\b', said)) - {'512'}, (root/'benchmarks'/'growth-cpu-2-threads-amd-epyc.md').read_text(encoding='utf-8')
    assert len(numbers) >= 7 and not [n for n in numbers if n not in page]


def everything(files):
    "The committed file with all that may stand in one."
    found = json.loads(json.dumps(files['cpu-2-threads-amd-epyc']))
    found['peak'], found['training'][SMALL], found['costs'][SMALL]['gflop'] = dict(a=[100.]), [50.], 1.
    found['epochs'] = dict(a=dict(train=21, valid=3, rate=[1., 2., 3.], steps=.5))
    found['commands'] = {'make test': 540.}
    found['profiles'] = {name: seen | dict(products=.8) for name, seen in found['profiles'].items()}
    found['colour'] |= dict(cores={'to Lab, ours': 1.8}, versions=dict(kornia='0.9'))
    return found


def test_page_shows_every_part(files):
    page = bench_page.page(everything(files))
    for heading in ('Training', 'A whole epoch', 'One thing changed', 'What keeps a step', 'Where the time', 'From files', 'Color conversion', 'Colorizing', 'The command', 'Whole commands'): assert f'### {heading}' in page
    assert '| a | 21                  | 3        | 2.000' in page and '| `make test` | 540     | 9.0     |' in page and 'to Lab, ours 1.8' in page and 'kornia 0.9' in page
    row, = [line for line in page.split('keeps a step from')[1].splitlines() if line.startswith(f'| {SMALL}')]
    assert [cell.strip() for cell in row.split('|')[2:5]] == ['50%', '80%', '62%']


@pytest.mark.parametrize('part, heading', [('epochs', 'A whole epoch'), ('wins', 'One thing changed'), ('profiles', 'Where the time'), ('data', 'From files'), ('colour', 'Color conversion'),
                                           ('stages', 'Colorizing'), ('start', 'The command'), ('commands', 'Whole commands'), ('training', 'Training'), ('costs', 'Training'), ('peak', 'Training')])
def test_page_leaves_out_what_was_not_measured(files, part, heading):
    page = bench_page.page({k: v for k, v in everything(files).items() if k != part})
    assert f'### {heading}' not in page and page.count('### ') > 5


def test_rows_that_were_measured_alone(files):
    "A new row of `training` has no costs and no profile yet."
    found = everything(files)
    found['training']['new'] = [2.]
    found['profiles'] |= dict(other=dict(operations=[], products=.5), card=dict(operations=[], products=None))
    page = bench_page.page(found)
    assert re.search(r'\| new +\| 2.000 +\| 2.000 +\| 2.000 +\| +\| +\| +\|', page) and not [line for line in page.splitlines() if line.startswith(('| other', '| card'))]


def test_ratios_are_round_by_round():
    assert bench_page.against([2., 4., 9.], [1., 2., 3.]) == '2.00 (2.00 to 3.00)'
    *_, last = bench_page.table(dict(a=[1., 1.], b=[2., 2.], c=[6., 6.]), 'x', also=1).splitlines()
    assert [cell.split()[0] for cell in last.split('|')[-3:-1]] == ['6.00', '3.00']


def test_side_by_side_says_times_as_long(tmp_path):
    (tmp_path/'small'/'speed').mkdir(parents=True)
    about = dict(experiments=[dict(size=64, batch=32)], machine=dict(device='a CPU', torch='2'), commit='abc', rounds=2, steps=3)
    (tmp_path/'small'/'speed'/'99-a.json').write_text(json.dumps(about | dict(images_per_second=dict(one=[6., 8.], other=[2., 2.]), memory_mb=dict(one=1., other=2000.))))
    head, section = bench_page.side_by_side(tmp_path)
    assert '### 99-a, preset `small`' in section and '3.50 (3.00 to 4.00)' in section and '2,000' in section and bench_page.side_by_side(tmp_path/'small') == []


# What is measured

def test_parts_are_kept_as_they_come(tmp_path, monkeypatch):
    "A part that fails takes no other with it, and rounds and commits are a part's own."
    def fails(rounds): raise RuntimeError('no')
    monkeypatch.setattr(bench, 'PARTS', dict(a=lambda rounds: dict(x=[rounds]), costs=lambda rounds: {}, b=fails))
    bench.measure(5, ['a'], tmp_path)
    with pytest.raises(RuntimeError): bench.measure(2, ['costs', 'b'], tmp_path)
    found = json.loads(next(tmp_path.glob('*.json')).read_text())
    assert found['a'] == dict(x=[5]) and found['rounds'] == dict(a=5) and set(found['commits']) == {'a', 'costs'}


def test_peak_is_of_the_format_that_training_multiplies_in(monkeypatch):
    assert bench_steps.factors(4)[0].dtype == torch.float32 or torch.cuda.is_available()
    monkeypatch.setattr(bench_steps, 'amp_dtype', lambda device: torch.bfloat16)
    assert [m.dtype for m in bench_steps.factors(4)] == [torch.bfloat16] * 2
    monkeypatch.setattr(bench_steps, 'turns', lambda jobs, rounds: list(jobs))
    assert bench_steps.peak(1)[0].endswith('of bfloat16')


@pytest.fixture
def double():
    """Networks and numbers in double precision, where all that rounding does stays under 1e-12. In single precision Adam, which divides by the size
    of the gradient, makes of a gradient that is nothing but rounding a step of up to the learning rate, a different one on each processor."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize('bias', [True, False])
def test_sub_pixel_convolution_is_the_deconvolution(bias, double):
    layer, x = nn.ConvTranspose2d(8, 2, 4, stride=2, padding=1, bias=bias), torch.rand(2, 8, 5, 7)
    assert (bench_steps.SubPixel(layer)(x) - layer(x)).abs().max() < 1e-12 # sums of 32 products of numbers under 1, at 1e-16 each


@pytest.mark.parametrize('again', [False, True])
def test_plain_step_trains_what_ours_trains(again, double):
    "Without dropout the fakes of both halves are the same, and so is all that follows."
    e = replace(SMOKE, dropout=0.)
    batches = Noise(e, 2)
    plain = bench_steps.Plain(e, batches, 2, again)
    before = [p.clone() for p in plain.generator.parameters()]
    ours = learner(e, DataLoaders(batches, batches), default_cbs=False, cbs=[TrainEvalCallback(), NoValidation()])
    with ours.no_logging(): ours.fit(1)
    assert plain.epoch() == 2 * e.batch
    apart = lambda a, b: max((p - q).abs().max().item() for p, q in zip(a, b))
    assert next(ours.model.parameters()).dtype == before[0].dtype == torch.float64
    for net in ('generator', 'discriminator'): assert apart(getattr(plain, net).parameters(), getattr(ours.model, net).parameters()) < 1e-9 # of any weight; a step of Adam is 2e-4
    assert apart(plain.generator.parameters(), before) > 1e-4


@pytest.mark.slow
def test_every_variant_of_the_step_runs(tmp_path, monkeypatch):
    monkeypatch.setenv('COLORIZATION_CACHE', str(tmp_path/'cache'))
    (tmp_path/'photos').mkdir()
    jobs = bench_steps.variants(replace(SMOKE, ndf=64), 1, bench_steps.as_files(tmp_path/'photos', 8, 64))
    assert {'as it is', 'as tutorials write it', 'as tutorials write it, fakes made twice'} < set(jobs) and all(job() > 0 for job in jobs.values())


def test_allocator_is_set_for_a_process_of_its_own(monkeypatch):
    "Both children run the same code, and only one has the settings."
    seen = []
    monkeypatch.setattr(bench_steps.subprocess, 'run', lambda command, env, **more: seen.append((command, env.get('GLIBC_TUNABLES'))) or subprocess.CompletedProcess(command, 0, 'a line\n7.5\n'))
    monkeypatch.setenv('GLIBC_TUNABLES', 'of the one who asks')
    monkeypatch.setenv('ALLOCATOR', 'a=1')
    assert bench_steps.allocator(1) == {name: {'as it comes': [7.5], 'as `make reproduce` and `make weights` set it': [7.5]} for name in ('small', 'colorizer')}
    assert [tunables for _, tunables in seen[:4]] == [None, 'a=1'] * 2 and seen[0][0] == seen[1][0]
    monkeypatch.delenv('ALLOCATOR')
    assert bench_steps.allocator(1) == {} and bench_page.allocated(dict(allocator={})) == ''


def test_whole_epoch_is_more_than_its_steps():
    row = bench_steps.epoch(SMOKE, load_photos('scenes:24', 64, 72))
    assert row['rate'] > 0 and 0 < row['steps'] < 1


def test_what_multiplies():
    assert all(map(gpu_speed.multiplies, ('aten::convolution_backward', 'aten::_convolution', 'aten::mkldnn_convolution', 'aten::mm', 'aten::addmm', 'aten::bmm')))
    assert not any(map(gpu_speed.multiplies, ('aten::copy_', 'aten::native_batch_norm', 'aten::_fused_adam_', 'aten::mul', 'aten::bernoulli_', 'aten::index')))


def test_other_loader_gives_lab(tmp_path):
    "The comparison row reads what it says it reads."
    path = bench_data.photo(tmp_path/'a.jpg', 96, 128)
    x, y = OneByOne([path], 64)[0]
    assert x.shape == (1, 64, 64) and -1 <= x.min() < x.max() <= 1 and y.abs().max() < .02 # a picture in black and white


def test_cold_row_goes_to_the_last_batch(tmp_path, monkeypatch):
    "Two whole batches of 8 to train on and all that is held back; the cache is another one each time, and gone afterwards."
    monkeypatch.setenv('COLORIZATION_CACHE', before := str(tmp_path/'before'))
    (tmp_path/'photos').mkdir()
    bench_steps.as_files(tmp_path/'photos', 24, 72)
    asked, folders = bench_data.load_photos, []
    def watch(*args):
        folders.append(os.environ['COLORIZATION_CACHE'])
        return asked(*args)
    monkeypatch.setattr(bench_data, 'load_photos', watch)
    arrived = [bench_data.cold(tmp_path/'photos', 64, 8) for _ in range(2)]
    assert arrived == [16 + 24 - len(asked(tmp_path/'photos', 64, 72).train)] * 2
    assert len(set(folders)) == 2 and not any(map(os.path.exists, folders)) and os.environ['COLORIZATION_CACHE'] == before


def test_who_waits_keeps_no_core_busy(): assert bench_timing.cores(lambda: time.sleep(.05)) < .5


def test_whole_commands_are_those_of_make(root):
    "With the environment that is there: no .venv is set up."
    said = subprocess.run([*bench_data.make('test', root), '-n'], capture_output=True, text=True, check=True).stdout
    assert f'{Path(sys.executable).parent}/python -m pytest' in said and 'tests/notebooks_alone.py' in said and 'venv' not in said.replace(str(Path(sys.executable).parent), '')


def test_whole_commands_run_in_a_clone(root, tmp_path):
    if not (root/'.git').exists(): pytest.skip('nothing to clone')
    for name in ('fine', 'bad'): (tmp_path/name).mkdir()
    assert bench_data.commands(tmp_path/'fine', ('help',))['make help'] > 0 and (tmp_path/'fine'/'clone'/'Makefile').exists()
    with pytest.raises(UserError, match='make nothing failed'): bench_data.commands(tmp_path/'bad', ('nothing',))
