"""What a training survives: kills, Ctrl-C, a second start, a full disk, pictures that vanish or change, hostile files; and that nothing but the experiment decides its numbers."""
import ast, hashlib, json, os, pickle, platform, random, re, resource, shutil, signal, stat, subprocess, sys, time, zipfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
import numpy as np, pytest, torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.data.core import DataLoaders
from PIL import Image
import colorization_pix2pix.experiments.runner as room
from colorization_pix2pix.metrics import features; from colorization_pix2pix.experiments import cli as reproduce
from colorization_pix2pix.data.loaders import PhotoLoader
from colorization_pix2pix.training.resume import _VERSION, Checkpoint, EpochSeed, earlier, has_checkpoint, load_checkpoint, save_checkpoint
from colorization_pix2pix.training.callbacks import LossCurves
from colorization_pix2pix.inference.colorizer import Colorizer
from colorization_pix2pix.core.color import LAB
from colorization_pix2pix.data.photos import folder_photos
from colorization_pix2pix.experiments.config import PRESETS, commit, gallery, machine, run_name
from colorization_pix2pix.experiments.figures import outputs, read_results
from colorization_pix2pix.inference.backend import load_network
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.core.storage import write_json
from colorization_pix2pix.data.scenes import draw_scenes
from colorization_pix2pix.data.sources import load_photos
from colorization_pix2pix.training.gan import pix2pix_learner
from colorization_pix2pix.models.io import build_generator, load_generator
from colorization_pix2pix.core.storage import write_whole
from test_pictures import HOSTILE, as_nobody, claimed_png, open_folder # noqa: F401, a fixture

SAMPLES = Path(__file__).parent/'samples'
SMOKE = replace(PRESETS['smoke'], name='robust', average=.9, decay=.5) # what a resumed epoch could get wrong: the count of steps, too
MEASURED = 'epochs', 'curves', 'per_picture', 'realism', 'monitor'


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
    "A cache of pictures of our own."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('COLORIZATION_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='module')
def photos(cache): return load_photos('scenes:24', 64, load_size=72)


@pytest.fixture(scope='module')
def shown(): return gallery('scenes')


@pytest.fixture(scope='module')
def unbroken(photos, shown, tmp_path_factory):
    "What an undisturbed training measures."
    found = room.run(SMOKE, photos, shown, tmp_path_factory.mktemp('unbroken'))
    return {k: found[k] for k in MEASURED}


@pytest.fixture
def saves_often(monkeypatch): monkeypatch.setattr(room, 'SAVE_EVERY', -1)


class Unplug:
    "A progress bar that pulls the plug, or does something else, after some batches."
    disable = True
    def __init__(self, after, act): self.left, self.act = after, act
    def update(self, n=1):
        self.left -= 1
        if self.left == 0: self.act()


def interrupt(): raise KeyboardInterrupt


def folder_of(root, photos, experiment=SMOKE): return root/'runs'/experiment.preset/run_name(experiment, photos)


def interrupted(root, photos, shown, after=4):
    "Leave a training behind that was stopped after its fourth batch, which is the first of its second epoch."
    with pytest.raises(KeyboardInterrupt): room.run(SMOKE, photos, shown, root, Unplug(after, interrupt))
    return folder_of(root, photos)


def contents(folder): return {p.relative_to(folder): (p.read_bytes() if p.is_file() else None, p.lstat().st_mtime_ns) for p in folder.rglob('*')}


def hear_the_key(): signal.signal(signal.SIGINT, signal.default_int_handler) # a job in the background inherits that it is ignored


# Kills and interrupts

OUTCOMES = 'went_on_where_it_was', 'began_where_nothing_was', 'killed_again_before_it_began', 'started_over' # what the start after a kill can come to


@pytest.mark.slow
def test_kills_at_random_moments(root):
    "Three of the fifty of `make test-kills`, from a process of their own: the fork of one that has computed in threads would wait for them for ever."
    done = subprocess.run([sys.executable, '-W', 'ignore', root/'tests'/'kills.py', '3'], env=os.environ | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index('{'):])
    assert found['kills'] == 3 == sum(found[k] for k in OUTCOMES) and not found['started_over'] and found['trainings'] == found['trainings_with_the_same_bits']


def test_the_committed_fifty_kills(root):
    found = json.loads((root/'results'/'robustness'/'kills.json').read_text())
    assert found['kills'] >= 50 and found['kills'] == sum(found[k] for k in OUTCOMES) and found['while_saving'] >= 5 and not found['started_over']
    assert found['went_on_where_it_was'] >= 30, 'too few starts were seen to go on: the others may have begun anew'
    assert found['trainings'] == found['trainings_with_the_same_bits'] and not found['commit'].endswith('+changes')


CHILD = """
import json, sys, warnings; warnings.simplefilter('ignore')
from pathlib import Path
from dataclasses import asdict, replace
from colorization_pix2pix.experiments.config import PRESETS, gallery
from colorization_pix2pix.experiments.runner import run
from colorization_pix2pix.data.sources import load_photos
report = tuple(map(int, sys.argv[2].split(',')))
found = run(replace(PRESETS['smoke'], name='robust', average=.9, decay=.5, epochs=report[-1], report=report), load_photos('scenes:24', 64, 72), gallery('scenes'), Path(sys.argv[1]))
print(json.dumps({k: found[k] for k in ('machine', 'epochs')}))
"""


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_saves_and_a_second_start_is_refused(tmp_path, photos, shown):
    "A process of its own: while it trains no other may; Ctrl-C saves within a batch; afterwards the folder is free and the place is known."
    long = replace(SMOKE, epochs=400, report=(400,))
    child = subprocess.Popen([sys.executable, '-c', CHILD, str(tmp_path), '400'], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=hear_the_key)
    checkpoint = folder_of(tmp_path, photos, long)/'checkpoint.safetensors'
    end = time.monotonic() + 200
    while not checkpoint.exists(): assert time.monotonic() < end and child.poll() is None, child.communicate(); time.sleep(.02)
    with pytest.raises(UserError, match=f'Process {child.pid} is at work in'): room.run(long, photos, shown, tmp_path, Unplug(2, lambda: pytest.fail('two at once')))
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode in (1, -signal.SIGINT) and 'Saving at the end of this batch' in err and 'and saved: start the same again' in err.splitlines()[-1]
    with pytest.raises(KeyboardInterrupt): room.run(long, photos, shown, tmp_path, Unplug(1, interrupt)) # free again


# The disk

@contextmanager
def full_disk(free):
    "No file may grow beyond so many bytes."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('write', [lambda path: write_whole(path, [b'{}']), lambda path: write_json(path, {})], ids=['checkpoint', 'result'])
def test_a_power_cut_undoes_no_rename(tmp_path, monkeypatch, write):
    "First the file's content is on the disk, under another name, then the folder with the new name; without the second a machine that loses its power may find the old file, or none."
    path, flushed, flush = tmp_path/'new', [], os.fsync
    def noting(handle):
        flushed.append(('folder' if stat.S_ISDIR(os.fstat(handle).st_mode) else 'file', path.exists()))
        flush(handle)
    monkeypatch.setattr(os, 'fsync', noting)
    write(path)
    assert flushed == [('file', False), ('folder', True)]


@pytest.mark.parametrize('free', [0, 5000, 200_000])
def test_full_disk_leaves_the_earlier_checkpoint(tmp_path, photos, shown, unbroken, saves_often, free):
    folder = interrupted(tmp_path, photos, shown)
    before = (folder/'checkpoint.safetensors').read_bytes()
    with full_disk(free), pytest.raises(UserError, match='written .*File too large') as why: room.run(SMOKE, photos, shown, tmp_path)
    assert '\n' not in str(why.value) and (folder/'checkpoint.safetensors').read_bytes() == before and not list(folder.glob('.*part'))
    found = room.run(SMOKE, photos, shown, tmp_path)
    assert {k: found[k] for k in MEASURED} == unbroken


@pytest.mark.parametrize('what', ['folder', 'lock'])
def test_read_only_place_is_one_sentence_and_no_harm(open_folder, photos, shown, unbroken, what):
    "A run is stopped; the folder, or only its lock, then belongs to somebody else; given back, the run goes on."
    folder = interrupted(open_folder, photos, shown)
    before = (folder/'checkpoint.safetensors').read_bytes()
    places = [p for p in open_folder.rglob('*') if p.is_dir()]
    (folder/'lock').chmod(0o444)
    for place in places: place.chmod(0o777 if what == 'lock' else 0o555)
    with as_nobody(), pytest.raises(UserError, match='cannot be written .Permission denied') as why: room.run(SMOKE, photos, shown, open_folder)
    assert '\n' not in str(why.value) and what in str(why.value).replace(str(folder), 'folder') and (folder/'checkpoint.safetensors').read_bytes() == before
    for place in [*places, folder/'lock']: place.chmod(0o755)
    assert {k: v for k, v in room.run(SMOKE, photos, shown, open_folder).items() if k in MEASURED} == unbroken


def test_disk_that_refuses_is_one_sentence_and_no_harm(tmp_path, photos, shown, unbroken, saves_often, monkeypatch):
    "A file system that turns read-only while training, also for the superuser, whom permissions do not stop."
    folder = interrupted(tmp_path, photos, shown)
    before = (folder/'checkpoint.safetensors').read_bytes()
    def refuse(*args): raise OSError(30, 'Read-only file system')
    with monkeypatch.context() as patch:
        patch.setattr('colorization_pix2pix.core.storage.os.fsync', refuse)
        with pytest.raises(UserError, match='could not be written .Read-only file system'): room.run(SMOKE, photos, shown, tmp_path)
    assert (folder/'checkpoint.safetensors').read_bytes() == before
    assert {k: v for k, v in room.run(SMOKE, photos, shown, tmp_path).items() if k in MEASURED} == unbroken


def test_flipped_bit_costs_one_checkpoint(tmp_path, photos, shown, unbroken, saves_often, capfd):
    "The newest checkpoint is damaged: the one before is taken, it is said, and the end is the same."
    folder = interrupted(tmp_path, photos, shown, after=6)
    path = folder/'checkpoint.safetensors'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert {k: v for k, v in room.run(SMOKE, photos, shown, tmp_path).items() if k in MEASURED} == unbroken
    assert 'its checksum differs' in (said := capfd.readouterr().err) and 'the run goes on from the one before' in said


# Pictures that vanish or change

@pytest.fixture
def folder(tmp_path):
    "A folder of 24 pictures."
    (tmp_path/'photos').mkdir()
    for i, scene in enumerate(draw_scenes(24, 80, seed=3)): Image.fromarray(scene).save(tmp_path/'photos'/f'{i}.png')
    return tmp_path/'photos'


@pytest.mark.parametrize('harm', ['vanish', 'change'])
def test_pictures_that_vanish_or_change_during_a_training_do_not_touch_it(tmp_path, folder, shown, harm):
    "It reads the cache, which is its own; the next start sees what happened, refuses in a sentence, and the checkpoint survives."
    def act():
        if harm == 'vanish': shutil.rmtree(folder)
        else: Image.fromarray(draw_scenes(1, 80, seed=99)[0]).save(folder/'0.png')
        raise KeyboardInterrupt
    photos = load_photos(folder, 64, 72)
    whole = room.run(SMOKE, photos, shown, tmp_path/'whole')
    kept = shutil.copytree(folder, tmp_path/'kept')
    with pytest.raises(KeyboardInterrupt): room.run(SMOKE, photos, shown, tmp_path, Unplug(4, act))
    checkpoint = folder_of(tmp_path, photos)/'checkpoint.safetensors'
    before = checkpoint.read_bytes()
    with pytest.raises(UserError, match='There is no folder' if harm == 'vanish' else 'have changed since .* was interrupted'):
        room.run(SMOKE, load_photos(folder, 64, 72), shown, tmp_path)
    assert checkpoint.read_bytes() == before
    shutil.rmtree(folder, ignore_errors=True)
    kept.rename(folder)
    found = room.run(SMOKE, load_photos(folder, 64, 72), shown, tmp_path)
    assert {k: found[k] for k in MEASURED} == {k: whole[k] for k in MEASURED}


@pytest.mark.slow
def test_changed_pictures_end_the_command_with_code_1(tmp_path, folder):
    "As a user meets it: the command, interrupted; a picture more; the command again."
    (tmp_path/'checkout'/'nbs'/'course').mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1]/'nbs'/'course'/'09_lab_baseline.ipynb', tmp_path/'checkout'/'nbs'/'course')
    command = [sys.executable, '-W', 'ignore', '-c', 'import sys; from colorization_pix2pix.experiments.cli import main; sys.exit(main())', '--preset', 'smoke', '--data', str(folder)]
    options = dict(cwd=tmp_path/'checkout', stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child = subprocess.Popen(command, **options, preexec_fn=hear_the_key)
    end = time.monotonic() + 200
    while not (found := list((tmp_path/'checkout').glob('runs/smoke/*/checkpoint.safetensors'))): assert time.monotonic() < end and child.poll() is None, child.communicate(); time.sleep(.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=100)
    assert child.returncode == 130 and 'start the same again' in err.splitlines()[-1]
    Image.fromarray(draw_scenes(1, 80, seed=99)[0]).save(folder/'more.png')
    again = subprocess.run(command, **options, timeout=200)
    assert again.returncode == 1 and 'have changed since' in again.stderr and 'Traceback' not in again.stderr and found[0].exists()


# Trouble

def test_the_last_good_checkpoint_survives_a_training_that_diverges(tmp_path, photos, shown, saves_often, monkeypatch):
    "Weights turn to no numbers in the second epoch; what is left is from before that, and all of it finite."
    real = room.learner
    class Poison(TrainEvalCallback):
        order = 1
        def before_fit(self): pass
        def before_train(self): pass
        def before_validate(self): pass
        def after_batch(self):
            if self.training and self.epoch == 1 and self.iter == 1: next(self.model.generator.parameters()).data.fill_(float('nan'))
    with monkeypatch.context() as patch:
        patch.setattr(room, 'learner', lambda *args, **kwargs: real(*args, **kwargs).add_cb(Poison()))
        with pytest.raises(UserError, match='has diverged|not a number any more') as why: room.run(SMOKE, photos, shown, tmp_path)
    assert '\n' not in str(why.value)
    from safetensors.torch import load_file
    tensors = load_file(folder_of(tmp_path, photos)/'checkpoint.safetensors')
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    assert room.run(SMOKE, photos, shown, tmp_path)['epochs']['2']['ciede2000'] > 0 # without the poison it goes on


def test_on_trouble_knows_its_words(monkeypatch):
    monkeypatch.setenv('COLORIZATION_ON_TROUBLE', 'panic')
    with pytest.raises(UserError, match='neither stop nor go-on'): room.on_trouble()


# Memory

SCARCE = """
import resource, sys, warnings; warnings.simplefilter('ignore')
from dataclasses import replace
from pathlib import Path
from colorization_pix2pix.experiments.config import PRESETS, gallery
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.experiments.runner import fits, run
from colorization_pix2pix.data.sources import load_photos
smoke, photos, shown = replace(PRESETS['smoke'], ngf=32, ndf=32, epochs=1, report=(1,)), load_photos('scenes:512', 64, 72), gallery('scenes')
assert fits(smoke, photos) # what a first step loads is there from here on
pages = int(Path('/proc/self/statm').read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 700_000_000, resource.RLIM_INFINITY))
try: print('done', run(replace(smoke, batch=int(sys.argv[2])), photos, shown, Path(sys.argv[1]))['experiment']['batch'])
except UserError as e: print(e)
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available() or not Path('/proc/self/statm').exists(), reason='limits the memory of a CPU, on Linux')
def test_too_little_memory_names_a_batch_that_does_fit(tmp_path):
    "700 MB are left, and no more is given: the sentence names size, batch and way out, and the way out is one."
    def said(batch): return subprocess.run([sys.executable, '-c', SCARCE, str(tmp_path), batch], env=os.environ | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=500).stdout.splitlines()
    sentence, = said('512')
    assert sentence.startswith('A batch of 512 pictures of 64x64 does not fit into the memory of CPU, 1 threads')
    fitting = re.search(r'one of (\d+) does: start again with BATCH=(\d+), or', sentence)
    assert fitting and fitting[1] == fitting[2] and said(fitting[1]) == [f'done {fitting[1]}']


# Old files

class Judge(torch.nn.Conv2d):
    "The smallest discriminator."
    def forward(self, x, y): return super().forward(torch.cat([x, y], 1))


class Batches(list):
    "Batches in the place of a loader."
    device, rng = torch.device('cpu'), random.Random(0)
    def to(self, device): pass


def sample_learner(ngf=1): return pix2pix_learner(DataLoaders(Batches(), Batches()), build_generator('unet', 1, 2, 16, ngf=ngf), Judge(3, 1, 4), default_cbs=False, cbs=[TrainEvalCallback()])


def bits(learn):
    "A digest of all weights and of all that the optimizer knows of them."
    moments = {f'{i} {k}': v for i, row in learn.opt.opt.state_dict()['state'].items() for k, v in row.items()}
    return hashlib.sha256(b''.join(k.encode() + v.detach().contiguous().numpy().tobytes() for k, v in sorted((learn.model.state_dict() | moments).items()))).hexdigest()[:16]


formats = pytest.mark.parametrize('version', range(1, _VERSION + 1)) # a new format demands a sample of the old one, and of itself
BITS = {1: 'ec528fd0919dbbc4', 2: '00c2cce5a4eb6a59'}


@formats
def test_checkpoints_of_every_format_still_load(version, tmp_path):
    "Files written by the program of their time: one epoch of two batches."
    path = Path(shutil.copy(SAMPLES/f'checkpoint-{version}.safetensors', tmp_path))
    learn = sample_learner(ngf=2 if version == 1 else 1)
    record = load_checkpoint(path, learn)
    assert record['epochs_done'] == 1 and len(record['curves']['g_l1']) == 2
    assert next(iter(learn.opt.opt.state.values()))['step'] == 2 and path.exists() and bits(learn) == BITS[version]


class Noting(PhotoLoader):
    "Notes which pictures come, and a digest of the windows cut from them."
    def create_batch(self, items):
        squares = super().create_batch(items)
        self.came.append([items, hashlib.sha256(squares.numpy().tobytes()).hexdigest()[:8]])
        return squares


class Halfway(Callback):
    "Draws before each batch, as a step might; saves after the third of the six of the second epoch, where there is a path to save to, and notes what the fourth one meets."
    def __init__(self, path=None): self.path, self.met = path, None
    def after_batch(self):
        if self.path and self.training and (self.epoch, self.iter) == (1, 2): save_checkpoint(self.path, self.learn, dict(epochs_done=1, batches_done=3), dict(data=dict(content='sample')))
    def before_batch(self):
        met = [random.random(), np.random.rand(), *torch.rand(2).tolist(), round(self.pct_train, 6), self.train_iter]
        if self.training and (self.epoch, self.iter) == (1, 3): self.met = met


def halfway_learner():
    "Twelve pictures in batches of two, the smallest networks."
    cpu, pixels = torch.device('cpu'), (torch.arange(12 * 20 * 20 * 3) * 7 % 251).to(torch.uint8).reshape(12, 20, 20, 3)
    train, valid = Noting(pixels, LAB, 16, augment=True, bs=2, shuffle=True, drop_last=True, device=cpu), PhotoLoader(pixels[:2], LAB, 16, augment=False, bs=2, device=cpu)
    train.came = []
    return pix2pix_learner(DataLoaders(train, valid, device=cpu), build_generator('unet', 1, 2, 16, ngf=1), Judge(3, 1, 4), default_cbs=False, cbs=[TrainEvalCallback(), EpochSeed(5)])


def second_half(learn, halfway, start):
    "The batches of a training of two epochs that come after its ninth, or after its `start`, and the chance that the tenth met."
    with learn.no_logging(), learn.no_bar(): learn.fit(2, start_epoch=start, cbs=halfway)
    return learn.dls.train.came[0 if start else 9:], halfway.met


def halfway_sample(path):
    "Writes a sample of today's format, as `checkpoint-N-halfway.safetensors` is one; gives what comes after it in a training that goes on without a break."
    return second_half(halfway_learner(), Halfway(path), 0)


COMES = [[[6, 1], 'c3e0b9e5'], [[4, 2], 'a9b68f2c'], [[9, 5], '63136d75']], [0.6716543386853666, 0.112071302167428, 0.6855869889259338, 0.48818641901016235, 0.75, 9]
HALFWAY_BITS = {2: '6fb54fa6d9fe941e'}


@pytest.mark.parametrize('version', range(2, _VERSION + 1)) # 1 was saved after whole epochs only
def test_checkpoints_in_the_middle_of_an_epoch_of_every_format_still_go_on(version, tmp_path):
    "The networks to the bit, the pictures that are left and their windows, and the next random numbers."
    learn = halfway_learner()
    record = load_checkpoint(Path(shutil.copy(SAMPLES/f'checkpoint-{version}-halfway.safetensors', tmp_path)), learn)
    assert (record['epochs_done'], record['batches_done'], bits(learn)) == (1, 3, HALFWAY_BITS[version])
    assert second_half(learn, Halfway(), 1) == COMES


def test_what_today_s_program_writes_in_the_middle_goes_on_like_the_sample(tmp_path):
    assert halfway_sample(tmp_path/'checkpoint.safetensors') == COMES
    load_checkpoint(tmp_path/'checkpoint.safetensors', learn := halfway_learner())
    assert second_half(learn, Halfway(), 1) == COMES


class Cut(Callback):
    "Asks for an end after so many batches; an epoch has six."
    def __init__(self, after): self.after = after
    def after_batch(self):
        if self.training and self.epoch * 6 + self.iter + 1 == self.after: self.learn.checkpoint.asked = True


def two_epochs(path, after=None):
    "Begun, or gone on with where there is a checkpoint, up to the end or the cut: the bits and the record."
    torch.manual_seed(0) # the same networks each time
    learn, record = halfway_learner(), {}
    if has_checkpoint(path): record |= load_checkpoint(path, learn)
    learn.add_cbs([LossCurves(record.setdefault('curves', {})), Checkpoint(path, record, every=1e9), Cut(after)])
    with learn.no_logging(), learn.no_bar(), suppress(KeyboardInterrupt): learn.fit(2, start_epoch=record.get('epochs_done', 0))
    return bits(learn), record


def test_cut_after_any_batch_a_training_ends_with_the_same_bits(tmp_path):
    "The notebook of checkpoints does it with larger networks, after every second batch."
    whole = two_epochs(tmp_path/'whole')
    for after in range(1, 13):
        cut, record = two_epochs(tmp_path/str(after), after)
        assert record['epochs_done'] * 6 + record['batches_done'] == after and (cut != whole[0] or after == 12)
        random.random(), torch.rand(9), np.random.rand()
        assert two_epochs(tmp_path/str(after)) == whole, after


def test_weights_of_every_format_still_load():
    net, experiment = load_generator(SAMPLES/'generator-1.safetensors')
    assert experiment['space'] == 'lab' and net(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)


def test_samples_are_small(): assert sum(p.stat().st_size for p in SAMPLES.iterdir()) < 250_000 and max(p.stat().st_size for p in SAMPLES.iterdir()) < 100_000


# Hostile files

class Planted:
    "A pickle that makes a folder when it is loaded."
    def __init__(self, where): self.where = str(where)
    def __reduce__(self): return os.mkdir, (self.where,)


def plant(kind, path, planted):
    "A file with planted code under a name of ours."
    if kind == 'pickle': path.write_bytes(pickle.dumps(planted))
    elif kind == 'torch zip': torch.save(planted, path)
    elif kind == 'old torch': torch.save(planted, path, _use_new_zipfile_serialization=False)
    elif kind == 'npz': np.savez(open(path, 'wb'), y=np.array([planted], dtype=object), **{'1': np.array([planted], dtype=object)})
    else:
        with zipfile.ZipFile(path, 'w') as z:
            for name in ('y.npy', '1.npy', 'data.pkl'): z.writestr(name, pickle.dumps(planted))


@pytest.fixture(params=['pickle', 'torch zip', 'old torch', 'npz', 'zip'])
def planted(request, tmp_path):
    "Copies a file with planted code to any name; at the end nothing of it may have run."
    bad, ran = tmp_path/'bad', tmp_path/'planted-code-ran'
    plant(request.param, bad, Planted(ran))
    yield lambda path: Path(shutil.copy(bad, path))
    assert not ran.exists()


def test_the_planted_code_would_run(tmp_path):
    "Who unpickles does run it: else the tests below would see nothing."
    plant('torch zip', tmp_path/'bad', Planted(tmp_path/'ran'))
    torch.load(tmp_path/'bad', weights_only=False)
    assert (tmp_path/'ran').exists()


def test_no_planted_code_runs_under_any_name_of_ours(tmp_path, shown, planted, monkeypatch):
    "Weights, ONNX, checkpoints, results and their samples, what BATCH=auto has kept: refused in a sentence."
    for name, load in (('weights.safetensors', load_generator), ('weights.safetensors', Colorizer.load), ('model.onnx', load_network), ('checkpoint.safetensors', lambda p: load_checkpoint(p, sample_learner()))):
        with pytest.raises(UserError): load(planted(tmp_path/name))
    planted(tmp_path/'a.npz')
    with pytest.raises(UserError, match='a.npz is not as it was written'): outputs(dict(name='a', experiment=dict(space='lab'), epochs={'1': {}}), tmp_path, shown)
    planted(tmp_path/'a.json')
    with pytest.raises(UserError, match='a.json is not as it was written'): read_results(tmp_path)
    (kept := tmp_path/'runs'/'smoke').mkdir(parents=True)
    planted(kept/'batch.json')
    monkeypatch.setattr(room, 'project_folder', lambda: tmp_path)
    monkeypatch.setenv('COLORIZATION_PRESET', 'smoke')
    with pytest.raises(UserError, match='batch.json is not as it was written .*: delete it'): reproduce.auto_batch()


def test_no_planted_code_runs_in_the_cache(tmp_path, planted, monkeypatch):
    "The picture cache and the feature network beside it are made anew."
    monkeypatch.setenv('COLORIZATION_CACHE', str(tmp_path/'cache'))
    whole = load_photos('scenes:24', 64, 72)
    for file in ('index.json', 'train.bin', 'valid.bin'):
        home, = {p.parent for p in (tmp_path/'cache').rglob('index.json')}
        planted(home/file)
        again = load_photos('scenes:24', 64, 72)
        assert again.content == whole.content and torch.equal(again.train, whole.train) and (home/file).read_bytes() != (tmp_path/'bad').read_bytes(), file
    trained = []
    monkeypatch.setattr(features, 'train_features', lambda *args, **kwargs: (trained.append(features.SmallFeatures()) or trained[-1], (0., 0.)))
    planted(tmp_path/f'features-{whole.content}-64.safetensors')
    one, two = (features.small_features(whole, tmp_path) for _ in range(2))
    assert len(trained) == 1 and one[0] is trained[0] and one[1] == two[1]


def test_no_planted_code_runs_in_the_folder_of_a_training(tmp_path, photos, shown, unbroken, planted):
    "Under the names of what an interrupted training goes on from, and of what one that is over has left."
    folder = interrupted(tmp_path, photos, shown) # in its second epoch: the first one's sample is not written again
    for name in ('sample-1.npz', 'weights.safetensors', 'lock'): planted(folder/name)
    with pytest.raises(UserError, match='sample-1.npz is not as it was written .*: delete the folder'): room.run(SMOKE, photos, shown, tmp_path)
    for name in ('checkpoint.safetensors', 'checkpoint-before.safetensors'): planted(folder/name)
    with pytest.raises(UserError, match='delete it to start this run'): room.run(SMOKE, photos, shown, tmp_path)
    for name in ('checkpoint.safetensors', 'checkpoint-before.safetensors'): (folder/name).unlink()
    found = room.run(SMOKE, photos, shown, tmp_path)
    assert {k: found[k] for k in MEASURED} == unbroken
    planted(tmp_path/'results'/'smoke'/f"{found['name']}.json")
    again = room.run(SMOKE, photos, shown, tmp_path) # done, but its result cannot be read: trained and written anew
    assert {k: again[k] for k in MEASURED} == unbroken and read_results(tmp_path/'results'/'smoke') == [json.loads(json.dumps(again))]


def calls(source, name):
    "The keyword arguments of each call of what has this name, whatever stands before its dot, as source text."
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [{k.arg: ast.unparse(k.value) for k in node.keywords} for node in found if getattr(node.func, 'attr', getattr(node.func, 'id', '')) == name]


def test_no_room_can_unpickle():
    "Who loads weights from the net or from a package that carries them asks for tensors alone, numpy is never allowed pickles, and pickle itself is only known by its error."
    downloads, published = 0, []
    for path in (Path(__file__).parents[1]/'colorization_pix2pix').rglob('*.py'):
        source = path.read_text(encoding='utf-8')
        assert not [word for word in ('load_learner', 'import pickle', 'pickle.load', 'allow_pickle=True', 'weights_only=False', 'joblib', 'yaml.load', 'from torch import load') if word in source], path.name
        assert set(re.findall(r'from pickle import (.*)', source)) <= {'UnpicklingError'}, path.name
        assert all(call.get('weights_only') == 'True' for call in calls(source, 'load_state_dict_from_url')), path.name
        assert all(call.get('allow_pickle') == 'False' for call in calls(source, 'load') if 'np.load(' in source), path.name
        downloads += len(calls(source, 'load_state_dict_from_url'))
        if 'torch.load(' not in source: continue
        assert all(call.get('weights_only') == 'True' for call in calls(source, 'load')), path.name
        published.append(path.name)
    assert downloads # else the rule above speaks of nothing
    assert published == ['encoders.py'] # which opens a .pth file only after its SHA-256 was compared; its notebook tries another


def test_a_hostile_folder_trains_on_what_is_good(tmp_path, folder, shown, monkeypatch):
    "Broken, huge, looping, unreadable and foreign files among 24 pictures: the good ones are used, the rest is listed, and nothing in the folder changes."
    for kind, make in HOSTILE.items():
        if kind in ('missing', 'socket'): continue # nothing to find; a socket's path may be too long here
        (place := folder/kind).mkdir()
        make(place/'photo.jpg')
    (folder/'loop').symlink_to(folder)
    (folder/'closed').mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder/'tiny.png')
    (folder/'notes.txt').write_text('no picture')
    Image.new('RGB', (1, 1)).save(folder/'one pixel.tif')
    claimed_png(folder/'huge.png', 40_000, 40_000)
    scan = os.scandir
    def guarded(path='.'):
        if str(path).endswith('closed'): raise PermissionError(13, 'Permission denied', str(path))
        return scan(path)
    monkeypatch.setattr(os, 'scandir', guarded) # permissions do not stop the superuser
    before = {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob('*')}
    photos = folder_photos(folder, 64, 72)
    assert len(photos.train) + len(photos.valid) == 24
    left_out = dict(photos.left_out)
    assert 'max_megapixels' in left_out['huge.png'] and 'notes.txt' not in left_out # what has no picture's ending is not looked at
    assert 'cannot be listed' in left_out['a folder'] and left_out['tiny.png'] == left_out['one pixel.tif'] == 'tiny'
    listed = {name.split('/')[0] for name in left_out}
    assert not set(HOSTILE) - {'missing', 'socket', 'folder'} - listed, 'a hostile file is not listed'
    assert all('\n' not in reason for reason in left_out.values()) and not any('loop/' in name and name.startswith('loop') for name in left_out)
    room.run(SMOKE, photos, shown, tmp_path)
    assert {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob('*')} == before


def test_what_one_may_not_read_is_left_out(open_folder, monkeypatch):
    "A picture and a folder that belong to somebody else, asked for with an ordinary user's rights."
    (open_folder/'cache').mkdir()
    (open_folder/'cache').chmod(0o777)
    monkeypatch.setenv('COLORIZATION_CACHE', str(open_folder/'cache'))
    (photos := open_folder/'photos').mkdir()
    for i, scene in enumerate(draw_scenes(10, 64, seed=4)): Image.fromarray(scene).save(photos/f'{i}.png')
    shutil.copytree(photos, photos/'secret')
    (photos/'3.png').chmod(0)
    (photos/'secret').chmod(0)
    with as_nobody(): found = folder_photos(photos, 64)
    (photos/'secret').chmod(0o755) # so that it can be removed
    left_out = dict(found.left_out)
    assert len(found.train) + len(found.valid) == 9 and set(left_out) == {'3.png', 'a folder'}
    assert 'ermission denied' in left_out['3.png'] and f"{photos/'secret'} cannot be listed" in left_out['a folder']


# Determinism

TOLERANCE = dict(psnr=.01, ssim=1e-4, ciede2000=.01, colourfulness=.1) # after six steps; a longer game of two networks drifts further apart


def with_threads(n, root, photos, shown):
    "What a training with so many threads measures, and its weights."
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try: found = room.run(SMOKE, photos, shown, root)
    finally: torch.set_num_threads(before)
    assert f'{n} threads' in found['machine']['device']
    return {k: found[k] for k in MEASURED}, load_generator(folder_of(root, photos)/'weights.safetensors')[0].state_dict()


@pytest.mark.slow
def test_same_bits_with_the_same_threads_and_near_with_others(tmp_path, photos, shown):
    (one, weights), (again, same), (two, _) = (with_threads(n, tmp_path/str(i), photos, shown) for i, n in enumerate((1, 1, 2)))
    assert one == again and all(torch.equal(w, same[k]) for k, w in weights.items())
    near(one['epochs'], two['epochs'], 'one and two threads')


def near(one, two, what):
    "The measures after each epoch lie within the limits."
    apart = {m: max(abs(one[e][m] - two[e][m]) for e in one) for m in TOLERANCE}
    print(f'{what} are {apart} apart') # pytest -rP shows it
    assert all(apart[m] < limit for m, limit in TOLERANCE.items()), apart


def test_near_what_another_machine_measured(tmp_path, photos, shown):
    "It is named in the sample, which this test's own machine may have written."
    sample = json.loads((SAMPLES/'six-steps.json').read_text())
    assert sample['content'] == photos.content, 'the drawn scenes are others'
    near(sample['epochs'], with_threads(1, tmp_path, photos, shown)[0]['epochs'], f"{sample['machine']} and this machine")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != 'x86_64', reason='the names of instructions are those of x86')
@pytest.mark.parametrize('torch_s, onednn_s', [('default', 'SSE41'), ('avx2', 'AVX2')])
def test_near_with_a_processor_s_older_instructions(tmp_path, torch_s, onednn_s):
    "As an older processor would compute it."
    done = subprocess.run([sys.executable, '-c', CHILD, str(tmp_path), '1,2'], env=os.environ | dict(OMP_NUM_THREADS='1', ATEN_CPU_CAPABILITY=torch_s, ONEDNN_MAX_CPU_ISA=onednn_s), capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['machine']['cpu_capability'] == torch_s.upper()
    near(json.loads((SAMPLES/'six-steps.json').read_text())['epochs'], found['epochs'], f'{torch_s} and the sample')


def test_a_result_names_what_could_change_it(tmp_path, photos, shown, saves_often):
    "Every circumstance, in the file that is left; that of a run that was interrupted and stayed where it was is no other."
    interrupted(tmp_path, photos, shown)
    room.run(SMOKE, photos, shown, tmp_path)
    found = json.loads((tmp_path/'results'/'smoke'/f'{run_name(SMOKE, photos)}.json').read_text())
    here = found['machine']
    assert here == machine(room.best_device()) and here['device'] and (here['device'] != 'CPU' or 'threads' in here['device'])
    assert (here['torch'], here['numpy'], here['python']) == (torch.__version__, np.__version__, platform.python_version()) and here['fastai'] and here['cpu_capability'] == torch.backends.cpu.get_cpu_capability()
    assert found['commit'] == commit() and found['data'] == dict(source=photos.source, content=photos.content, train=24, valid=8, split=photos.split)
    assert found['experiment'] == json.loads(json.dumps(asdict(SMOKE))) and 'machines' not in found


@pytest.mark.parametrize('what', ['machine', 'commit', 'old'])
def test_a_run_that_moved_names_all_its_machines_and_commits(tmp_path, photos, shown, saves_often, monkeypatch, what):
    "To another machine, to another commit, or to this program from one that noted less: both parts stand in the result."
    here = machine(room.best_device()) | dict(commit=commit())
    first = dict(machine=here | dict(device='another'), commit=here | dict(commit='another'), old=dict(device=here['device'], torch='2.6.0'))[what]
    with monkeypatch.context() as patch:
        if what == 'machine': patch.setattr(room, 'machine', lambda device: first)
        elif what == 'commit': patch.setattr(room, 'commit', lambda: 'another')
        else: patch.setattr(room, 'note_machine', lambda record, e: record.setdefault('machines', [first]))
        interrupted(tmp_path, photos, shown)
    found = room.run(SMOKE, photos, shown, tmp_path)
    assert found['machines'] == [first, here] and found['commit'] == here['commit']
