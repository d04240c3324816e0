"""`make gpu` without a card: it refuses in a sentence, stops by the clock and goes on, and says what it left. The measuring itself is tried in the smallest size."""
import hashlib, json, os, signal, sys, tarfile, time
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch

sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
import gpu, gpu_speed, parts
from colorization_pix2pix.training.resume import Checkpoint
from colorization_pix2pix.experiments.config import PRESETS, gallery
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.experiments.runner import run_all
from colorization_pix2pix.data.sources import load_photos
from colorization_pix2pix.models.io import build_generator, load_generator, save_generator

SMOKE = PRESETS['smoke']


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv('COLORIZATION_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('IN_TEST', raising=False)
    monkeypatch.setenv('MPLBACKEND', 'agg')


def start(tmp_path, jobs, *args): return gpu.main(['--smoke', 'yes', '--home', str(tmp_path/'home'), *args], jobs)


def about(tmp_path): return json.loads(next((tmp_path/'home').glob('benchmarks/gpu/*/manifest.json')).read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a card')
def test_refuses_without_a_card_in_one_sentence(capsys):
    assert gpu.main(['--data', '/photos']) == 1
    said = capsys.readouterr().err
    assert said.startswith('gpu: No graphics card') and len(said.splitlines()) == 1 and 'SMOKE=yes' in said


def test_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(gpu.NEEDED, 'no_such_module', 'no-such-package')
    assert gpu.main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith('gpu: no-such-package is missing') and len(said.splitlines()) == 1


def test_lists_every_notebook_that_trains(root):
    "A notebook that is added must be run, or left out on purpose."
    names = {p.stem for p in (root/'nbs'/'course').glob('*.ipynb') if '09' <= p.stem[:2] < '19'} - {'16_pretrained_encoder'} # which shows a network and compares nothing
    assert names == {job.name for job in gpu.JOBS if job.name[:2].isdigit()}


def test_third_seeds_come_last(tmp_path, monkeypatch):
    "The least that a verdict needs is done before; a third seed is asked for where two were."
    asked = []
    monkeypatch.setattr('colorization_pix2pix.experiments.cli.run_notebook', lambda path: asked.append((path.stem, os.environ['COLORIZATION_SEEDS'])))
    names = [job.name for job in gpu.JOBS]
    again = [job for job in gpu.JOBS if job.name.startswith('third seed')]
    assert len(set(names)) == len(names) and gpu.JOBS[-3:] == again
    for job in [job for job in gpu.JOBS if job.name in ('12_unet_or_dynamic_unet', '13_cyclegan', '14_several_discriminators')] + again: job.work(gpu.Place(tmp_path, 'photos', False))
    assert {(name, seeds) for name, seeds in asked} == {(name, seeds) for name in ('12_unet_or_dynamic_unet', '13_cyclegan', '14_several_discriminators') for seeds in '23'}


def test_clock_rings_until_it_is_heard(monkeypatch):
    monkeypatch.setattr(gpu, 'AGAIN', .1)
    before, heard = signal.getsignal(signal.SIGINT), 0
    with gpu.stretch(.1) as over:
        while heard < 2:
            try: time.sleep(20)
            except KeyboardInterrupt: heard += 1
    assert len(over) == 2 and signal.getsignal(signal.SIGINT) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_stops_by_the_clock_and_goes_on(tmp_path, monkeypatch, capsys):
    "The clock rings when a training has saved for the first time, between two jobs that must be done once."
    done, save = [], Checkpoint.save
    def ring(self, *args):
        save(self, *args)
        if not done[1:]: done.append('rung'); signal.raise_signal(signal.SIGALRM)
    monkeypatch.setattr(Checkpoint, 'save', ring)
    def training(place): run_all([replace(SMOKE, epochs=3, report=(3,))], load_photos('scenes:24', 64, 72), gallery('scenes:24'), place.home)
    jobs = [gpu.Job('before', lambda place: done.append('before')), gpu.Job('training', training), gpu.Job('after', lambda place: done.append('after'))]
    assert start(tmp_path, jobs) == 0 and 'gpu: 1 of 3 jobs are done; the same command goes on' in capsys.readouterr().out
    assert not about(tmp_path)['jobs']['training']['done'] and list((tmp_path/'home').glob('runs/smoke/*/checkpoint.safetensors'))
    for _ in range(2): assert start(tmp_path, jobs) == 0 and 'gpu: 3 of 3 jobs are done.' in capsys.readouterr().out
    assert done == ['before', 'rung', 'after'] and about(tmp_path)['jobs']['training'].items() >= dict(done=True, stretches=2).items()
    for name, digest in about(tmp_path)['files'].items(): assert hashlib.sha256((tmp_path/'home'/name).read_bytes()).hexdigest() == digest
    assert [n for n in about(tmp_path)['files'] if n.startswith('results/smoke/')]


@pytest.mark.slow
def test_resume_is_measured(tmp_path, monkeypatch):
    "On a CPU nothing differs, though it was stopped in the middle of an epoch; a resumed training that draws other numbers by chance does."
    assert start(tmp_path, [gpu.Job('resume', gpu.resume)]) == 0
    path, = (tmp_path/'home').glob('benchmarks/gpu/*/resume.json')
    found = json.loads(path.read_text())
    assert 'after 1 epochs and 1 batches' in found['interrupted'] and not (tmp_path/'home'/'runs'/'gpu-resume').exists()
    assert {'losses', 'weights', 'ciede2000', 'ciede2000 of a picture'} <= set(found['resumed']) == set(found['twice'])
    if not torch.cuda.is_available(): assert set(found['twice'].values()) == set(found['resumed'].values()) == {0.}
    monkeypatch.setattr('colorization_pix2pix.training.resume.set_rng_state', lambda *_: None)
    with gpu.stretch(600): gpu.resume(gpu.Place(tmp_path/'home', 'scenes:24', True))
    found = json.loads(path.read_text())
    assert found['resumed']['weights'] > 0 < found['resumed']['losses'] and (torch.cuda.is_available() or set(found['twice'].values()) == {0.})


def test_what_it_leaves_travels_in_parts(tmp_path):
    place = gpu.Place(tmp_path/'home', 'scenes:24', True)
    (place.out/'colorizer').mkdir(parents=True)
    for name in ('manifest.json', 'speed.json', 'colorizer/parts.json'): (place.out/name).write_text('{}')
    assert start(tmp_path, [], '--pack', str(tmp_path/'packed')) == 0
    parts.join(tmp_path/'packed', tmp_path/'gpu.tar.gz')
    assert {n.rpartition('/')[2] for n in tarfile.open(tmp_path/'gpu.tar.gz').getnames()} == {'manifest.json', 'speed.json'}


def test_parts_are_checked(tmp_path, capsys):
    whole = tmp_path/'whole'
    whole.write_bytes(content := np.random.default_rng(0).bytes(1000))
    parts.split(whole, tmp_path/'parts', largest=300)
    assert len(list((tmp_path/'parts').iterdir())) == 5
    assert parts.main([str(tmp_path/'parts'), str(tmp_path/'again')]) == 0 and (tmp_path/'again').read_bytes() == content
    (tmp_path/'parts'/'whole.part01').write_bytes(b'x')
    (tmp_path/'parts'/'whole.part03').unlink()
    assert parts.main([str(tmp_path/'parts'), str(tmp_path/'never')]) == 1 and not (tmp_path/'never').exists()
    said = capsys.readouterr().err
    assert 'whole.part01, whole.part03' in said and len(said.splitlines()) == 1
    with pytest.raises(UserError, match='cannot be read'): parts.join(tmp_path, tmp_path/'never')


def test_half_precision_weights_load(tmp_path):
    about = dict(generator='unet', arch='resnet18', space='lab', size=64, ngf=8, dropout=.5)
    save_generator(tmp_path/'whole', net := build_generator('unet', 1, 2, 64, ngf=8), about)
    parts.halved(tmp_path/'whole', tmp_path/'half')
    loaded, experiment = load_generator(tmp_path/'half')
    assert experiment == about and (tmp_path/'half').stat().st_size < .52 * (tmp_path/'whole').stat().st_size
    for a, b in zip(net.state_dict().values(), loaded.state_dict().values()): assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def test_roofline_is_the_longer_of_arithmetic_and_traffic():
    a, b = torch.ones(64, 128), torch.ones(128, 32)
    for limits, seconds in ((dict(float32=2., bytes=1e9), 64 * 128 * 32), (dict(float32=1e12, bytes=4.), a.numel() + b.numel() + 64 * 32)):
        with gpu_speed.Roofline(limits) as found: a @ b
        assert (found.seconds, found.operations) == (seconds, 1)
    with gpu_speed.Roofline(dict(float32=1., bytes=4.)) as found: a.add_(a.T.reshape(64, 128)).zero_() # a copy; two read and one written; one written
    assert (found.seconds, found.operations) == ((2 + 3 + 1) * a.numel(), 3)


def test_table_goes_on_and_a_row_that_fails_says_why(tmp_path, monkeypatch):
    photos, path, tiny = load_photos('scenes:24', 64, 72), tmp_path/'home'/'benchmarks'/'gpu'/'a-card'/'speed.json', replace(SMOKE, name='tiny')
    group = ('unet', 2, [('float32', ''), ('float32', 'default'), ('float32', 'reduce-overhead')])
    fine = gpu_speed.build
    def build(e, photos, precision, mode, steps=None):
        if mode == 'reduce-overhead': raise RuntimeError('no graphs here\nand more')
        return fine(e, photos, precision, mode, steps)
    monkeypatch.setattr(gpu_speed, 'build', build)
    monkeypatch.setattr(gpu_speed, 'limits', lambda rounds: dict(float32=1e11, bytes=1e10))
    found = gpu_speed.table(path, [group], photos, tiny, 1)
    rows = found['groups']['unet, batch 2']
    assert [r['mode'] for r in rows] == ['eager', 'default', 'reduce-overhead'] and rows[2]['failed'] == 'RuntimeError no graphs here'
    assert all(r['images_per_second'][0] > 0 and r['roofline'] > 0 for r in rows[:2])
    monkeypatch.setattr(gpu_speed, 'measure', lambda *_: pytest.fail('measured again'))
    assert gpu_speed.table(path, [group], photos, tiny, 1) == json.loads(path.read_text())
    profile = gpu_speed.profile(photos, gpu_speed.best(found), tiny)
    assert 1 <= len(profile['operations']) <= 15 and 0 < sum(o['share'] for o in profile['operations']) <= 1.001
    (path.parent/'profile.json').write_text(json.dumps(profile))
    page, = gpu_speed.pages(tmp_path/'home')
    assert 'no graphs here' in page and 'convolution' in page and 'unet, batch 2' in page and found['machine']['device'] in page


def test_page_without_a_card(tmp_path): assert 'Not measured on a GPU yet' in gpu_speed.pages(tmp_path)[0]


def test_compiles_where_it_saves_more_than_it_costs():
    row = lambda mode, rate, first: dict(generator='unet', batch=32, precision='bfloat16', mode=mode, images_per_second=[rate], first_seconds=first)
    found = lambda *rows: dict(groups={'unet, batch 32': list(rows)})
    both = found(row('eager', 1000, 1), row('default', 1250, 61))
    assert gpu_speed.faster_mode(both, 100_000) == 'no' and gpu_speed.faster_mode(both, 400_000) == 'yes'
    assert gpu_speed.faster_mode(found(row('eager', 1000, 1), row('default', 1250, 61) | dict(failed='it does not')), 400_000) == 'no'
