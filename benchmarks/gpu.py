"""All that needs a graphics card, by one command: `make gpu DATA=/path/to/photos`. GPU.md says what it does, in which order, and how to run it on a bare machine.

It works in stretches: MINUTES=9 ends by itself before nine minutes are over, at a checkpoint, and the same command goes on."""
import argparse, gc, hashlib, importlib.util, json, os, re, shutil, signal, sys, tarfile, tempfile, time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
MARGIN = 40. # seconds before a stretch's end at which a training is asked to save and stop; the largest checkpoint has about 700 MB
AGAIN = 20. # seconds after which it is asked again, then to stop at once
NEEDED = {'torch': 'torch', 'torchvision': 'torchvision', 'fastai': 'fastai', 'fastcore': 'fastcore', 'fasttransform': 'fasttransform', 'fastprogress': 'fastprogress', 'fastdownload': 'fastdownload',
          'plum': 'plum-dispatch', 'beartype': 'beartype', 'fasthtml': 'python-fasthtml', 'starlette': 'starlette', 'itsdangerous': 'itsdangerous', 'python_multipart': 'python-multipart',
          'IPython': 'ipython', 'traitlets': 'traitlets', 'skimage': 'scikit-image', 'scipy': 'scipy', 'PIL': 'pillow', 'numpy': 'numpy', 'matplotlib': 'matplotlib', 'safetensors': 'safetensors',
          'onnxruntime': 'onnxruntime', 'tqdm': 'tqdm'}


def missing() -> list[str]:
    "What pip would have to install."
    return [pip for module, pip in NEEDED.items() if importlib.util.find_spec(module) is None]


@dataclass(frozen=True)
class Place:
    "Where this session works, and on what."
    home: Path # holds nbs/; runs/, results/ and images/ are written there
    data: str
    smoke: bool # everything in the smallest size, on whatever device there is

    @property
    def out(self) -> Path:
        "What this device's session leaves beside results/ and images/."
        from colorization_pix2pix.core.device import device_name
        from colorization_pix2pix.experiments.config import best_device
        return self.home/'benchmarks'/'gpu'/re.sub(r'[^a-z0-9]+', '-', device_name(best_device()).lower()).strip('-')

    def photos(self, size: int, load_size: int):
        from colorization_pix2pix.data.sources import load_photos
        return load_photos(self.data, size, load_size)


@dataclass(frozen=True)
class Job:
    name: str
    work: Callable[[Place], None]


# The jobs

@contextmanager
def environment(**choices: str) -> Iterator[None]:
    "What `env_option` of the package finds; as it was afterwards, and so is the folder."
    before, here = dict(os.environ), Path.cwd()
    for k in [k for k in os.environ if k == 'IN_TEST' or k.startswith('COLORIZATION_') and k not in ('COLORIZATION_CACHE', 'COLORIZATION_COMMIT')]: del os.environ[k]
    os.environ |= {f'COLORIZATION_{k.upper()}': v for k, v in choices.items()}
    try: yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ |= before


def notebook(name: str, preset: str='full', seeds: int=3, images: int=0, called: str='') -> Job:
    """An experiment notebook as `make reproduce` runs it: its list of experiments stands there and nowhere else. `images` of a long run: then it is compiled if that pays.
    `called`: the job's name where a notebook has two; seeds that are done are not trained again."""
    def work(place: Place):
        import matplotlib.pyplot as plt
        from colorization_pix2pix.experiments.cli import run_notebook
        asked = dict(preset='smoke', seeds='1') if place.smoke else dict(preset=preset, seeds=str(seeds), compile=_compile(place, images))
        with environment(data=place.data, **asked): run_notebook(place.home/'nbs'/'course'/f'{name}.ipynb')
        plt.close('all')
    return Job(called or name, work)


def _compile(place: Place, images: int) -> str:
    "Chosen from the table that this session measured; a checkpoint goes on with the same choice, because the table stays."
    from gpu_speed import faster_mode
    table = place.out/'speed.json'
    return faster_mode(json.loads(table.read_text(encoding='utf-8')), images) if images and table.exists() else 'no'


def first(place: Place):
    "A minute: the smallest training from files to figures, one step of every kind at full size, and what the card has to wait for."
    from colorization_pix2pix.experiments.config import best_device, commit, machine
    from colorization_pix2pix.experiments.runner import fits
    from colorization_pix2pix.core.storage import write_json
    scratch = copy_notebooks(place.home/'runs'/'gpu-first')
    notebook('09_lab_baseline').work(Place(scratch, 'scenes:24', True))
    kinds = full_size(place)
    photos = place.photos(kinds[0].size, kinds[0].load_size)
    found = dict(format=1, machine=machine(best_device()), commit=commit(), fits={f'{e.name}, batch {e.batch}': fits(e, photos) for e in kinds}, waits_for={e.name: waiting(e, photos) for e in kinds})
    write_json(place.out/'first.json', found)


def full_size(place: Place) -> list:
    "One experiment of every kind of training that follows."
    from colorization_pix2pix.experiments.config import PRESETS
    from colorization_pix2pix.experiments.release import LARGE
    base = PRESETS['smoke' if place.smoke else 'full']
    small = {k: getattr(base, k) for k in ('preset', 'size', 'load_size', 'ngf', 'ndf', 'batch')} if place.smoke else dict(load_size=base.load_size)
    return [base, replace(base, name='dynamic', generator='dynamic'), replace(base, name='CycleGAN', method='cyclegan', generator='resnet9', norm='instance', adversarial='lsgan'), replace(LARGE, **small)]


def waiting(experiment, photos) -> str:
    "What PyTorch says when a step makes the processor wait for the card; 'nothing' if it never does. fp16's loss scaler does, by its nature."
    import torch
    from fastai.callback.core import Callback, CancelFitException
    from colorization_pix2pix.experiments.speed import short_learner
    from colorization_pix2pix.training.optimization import leave_autocast
    class Watch(Callback):
        order = 200
        def after_batch(self):
            if self.iter == 1: torch.cuda.set_sync_debug_mode('error') # the first steps send tables and try algorithms
            if self.iter == 4: raise CancelFitException()
    if not torch.cuda.is_available(): return 'not asked: no graphics card'
    learn = short_learner(experiment, photos, 6, [Watch()])
    try:
        with learn.no_logging(): learn.fit(1)
    except RuntimeError as e: return str(e).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode('default')
        leave_autocast(learn)
    return 'nothing'


def speed(place: Place):
    "The speed table, and the profile of its best row."
    from colorization_pix2pix.experiments.config import PRESETS
    from colorization_pix2pix.core.storage import write_json
    import gpu_speed
    base = PRESETS['smoke' if place.smoke else 'full']
    photos = place.photos(base.size, base.load_size)
    found = gpu_speed.table(place.out/'speed.json', gpu_speed.SMOKE if place.smoke else gpu_speed.FIRST, photos, base, 1 if place.smoke else 5)
    write_json(place.out/'profile.json', gpu_speed.profile(photos, gpu_speed.best(found), base))


def speed_rest(place: Place):
    "The rows whose compiling takes longest."
    from colorization_pix2pix.experiments.config import PRESETS
    import gpu_speed
    base = PRESETS['smoke' if place.smoke else 'full']
    gpu_speed.table(place.out/'speed-rest.json', gpu_speed.SMOKE[:1] if place.smoke else gpu_speed.REST, place.photos(base.size, base.load_size), base, 1 if place.smoke else 5)


class Cut:
    "A progress bar that presses Ctrl-C after so many batches."
    disable = True
    def __init__(self, after: int): self.left = after
    def update(self, n: int=1):
        self.left -= 1
        if self.left == 0: signal.raise_signal(signal.SIGINT)


def resume(place: Place):
    """What an interruption changes: the same training twice whole, and once cut in the middle of its second epoch and gone on with. Where two whole ones differ, as they
    may on a card, that is what the third is to be measured by. From the beginning each time: a clock that rings in between costs no more than a minute."""
    from colorization_pix2pix.experiments.config import PRESETS, best_device, commit, gallery, machine
    from colorization_pix2pix.experiments.runner import run
    from colorization_pix2pix.core.storage import write_json
    from colorization_pix2pix.data.sources import load_photos
    e, data = replace(PRESETS['smoke' if place.smoke else 'full'], name='resume', epochs=2, report=(1, 2)), 'scenes:24' if place.smoke else 'scenes:256'
    photos, shown, root = load_photos(data, e.size, e.load_size), gallery(data), place.home/'runs'/'gpu-resume'
    shutil.rmtree(root, ignore_errors=True)
    bar, interrupted = Cut(len(photos.train) // e.batch * 3 // 2), ''
    with environment():
        whole, again = (run(e, photos, shown, root/name) for name in ('whole', 'again'))
        try: run(e, photos, shown, root/'cut', bar)
        except KeyboardInterrupt as why:
            if bar.left > 0: raise # that was the clock
            interrupted = str(why)
        cut = run(e, photos, shown, root/'cut')
    weights = {name: root/name/'runs'/e.preset/whole['name']/'weights.safetensors' for name in ('whole', 'again', 'cut')}
    compared = lambda name, found: differences(whole, found, weights['whole'], weights[name])
    write_json(place.out/'resume.json', dict(format=1, machine=machine(best_device()), commit=commit(), data=photos.source, experiment=asdict(e), interrupted=interrupted,
                                             twice=compared('again', again), resumed=compared('cut', cut)))
    shutil.rmtree(root)


def differences(a: dict, b: dict, weights_a: Path, weights_b: Path) -> dict[str, float]: # all 0. where the bits are the same
    "The largest distance of two results of one experiment: of the losses' curves, of each measure after any epoch and for any picture, and of the weights."
    from colorization_pix2pix.models.io import load_generator
    import numpy as np
    apart = lambda p, q: float(np.abs(np.subtract(p, q)).max())
    found = dict(losses=max(apart(a['curves'][k], b['curves'][k]) for k in a['curves']))
    found |= {k: max(apart(row[k], b['epochs'][epoch][k]) for epoch, row in a['epochs'].items()) for k in a['epochs']['1']}
    found |= {f'{k} of a picture': apart(v, b['per_picture'][k]) for k, v in a['per_picture'].items()}
    nets = [load_generator(path)[0].state_dict() for path in (weights_a, weights_b)]
    return found | dict(weights=max(apart(t.numpy(), nets[1][k].numpy()) for k, t in nets[0].items()))


def colorizer(place: Place):
    "The large colorizer: trained, studied, its weights in half precision and in parts."
    from colorization_pix2pix.experiments.config import gallery
    from colorization_pix2pix.experiments.release import LARGE
    from colorization_pix2pix.experiments.runner import run_all
    from colorization_pix2pix.experiments.saturation import studies_of
    from parts import halved, split
    e = replace(full_size(place)[-1], epochs=2, report=(1, 2)) if place.smoke else LARGE
    photos = place.photos(e.size, e.load_size)
    with environment(compile='no' if place.smoke else _compile(place, e.epochs * len(photos.train))):
        (result,) = run_all([e], photos, gallery(place.data), place.home)
        studies_of([result], photos, place.home)
    with tempfile.TemporaryDirectory() as folder:
        halved(place.home/'runs'/e.preset/result['name']/'weights.safetensors', Path(folder)/'weights.safetensors')
        split(Path(folder)/'weights.safetensors', place.out/'colorizer')


# In the order of value. CycleGAN comes late because it takes longer than most of the others together; third seeds come last, where a card can be had for longer than the rest takes.
JOBS = [Job('first', first), Job('resume', resume), Job('speed', speed), notebook('09_lab_baseline'), notebook('10_rgb_vs_lab'), notebook('11_losses_compared'),
        notebook('12_unet_or_dynamic_unet', seeds=2), notebook('14_several_discriminators', seeds=2), notebook('17_better_colors'), notebook('18_time_to_quality'), Job('colorizer', colorizer),
        notebook('15_150_epochs', preset='seed001', seeds=1, images=150 * 2750), notebook('13_cyclegan', seeds=2), Job('speed-rest', speed_rest),
        *(notebook(name, called=f'third seed, {name}') for name in ('12_unet_or_dynamic_unet', '14_several_discriminators', '13_cyclegan'))]


# Stretches

def copy_notebooks(folder: Path) -> Path:
    "A folder in which notebooks may leave results; what is there already stays."
    shutil.copytree(CHECKOUT/'nbs', folder/'nbs', dirs_exist_ok=True, ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    return folder


@contextmanager
def stretch(seconds: float) -> Iterator[list]: # empty as long as there is time
    "Ctrl-C by the clock: a training saves and stops, everything else stops at once. Then again, in case that was at an end which takes no notice."
    over = []
    def ring(*_):
        over.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)
    before = signal.signal(signal.SIGALRM, ring), signal.signal(signal.SIGINT, signal.default_int_handler) # which a shell may have switched off
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try: yield over
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGINT, before[1])


def manifest(place: Place) -> dict:
    "What this device's session says about itself so far."
    from colorization_pix2pix.experiments.config import best_device, commit, machine
    path = place.out/'manifest.json'
    if path.exists(): return json.loads(path.read_text(encoding='utf-8'))
    return dict(format=1, machine=machine(best_device()), commit=commit(), data=place.data if place.data.startswith('scenes') else 'photographs', smoke=place.smoke, jobs={}, files={})


def files(place: Place) -> dict[str, str]: # path: sha256
    "What is worth carrying away: small files of this session's presets."
    presets = ['smoke'] if place.smoke else ['full', 'seed001', 'large']
    paths = [p for preset in presets for p in (*place.home.glob(f'results/{preset}/**/*.json'), *place.home.glob(f'images/*-{preset}-*.jpg'))]
    paths += [p for p in place.out.rglob('*') if p.is_file() and p.name != 'manifest.json']
    return {p.relative_to(place.home).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


def work_through(place: Place, jobs: list[Job], over: list) -> dict: # the manifest
    "Do what is not done; note each job's seconds, added up over the stretches it took."
    import torch
    from colorization_pix2pix.core.storage import write_json
    about = manifest(place)
    for job in jobs:
        noted = about['jobs'].setdefault(job.name, dict(done=False, seconds=0., stretches=0))
        if noted['done']: continue
        start = time.monotonic()
        print(f'gpu: {job.name}', flush=True)
        try:
            job.work(place)
            noted['done'] = True
        finally:
            noted |= dict(seconds=round(noted['seconds'] + time.monotonic() - start, 1), stretches=noted['stretches'] + 1)
            write_json(place.out/'manifest.json', about | dict(files=files(place)))
        gc.collect()
        if torch.cuda.is_available(): torch.cuda.empty_cache()
        if over: raise KeyboardInterrupt
    return about


def pack(place: Place, folder: Path):
    "All small files in one archive, in parts; the colorizer's weights, which are in parts already, stay beside it."
    from parts import split
    small = [name for name in files(place) if '/colorizer/' not in name] + [(place.out/'manifest.json').relative_to(place.home).as_posix()]
    with tempfile.TemporaryDirectory() as there:
        with tarfile.open(archive := Path(there)/'gpu.tar.gz', 'w:gz') as tar:
            for name in small: tar.add(place.home/name, name)
        split(archive, folder)


def settle(asked: argparse.Namespace) -> Place:
    "UserError where there is nothing to work on or with."
    import torch
    from colorization_pix2pix.core.errors import UserError
    if asked.smoke == 'yes': return Place(copy_notebooks(Path(asked.home) if asked.home else CHECKOUT/'runs'/'gpu-smoke'), 'scenes:24', True)
    if not torch.cuda.is_available(): raise UserError('No graphics card was found, and this command measures one: SMOKE=yes tries everything in the smallest size on the CPU.')
    if not asked.data: raise UserError('It trains on photographs: name a folder with DATA=/path/to/photos.')
    folder = Path(asked.data).expanduser()
    return Place(Path(asked.home).resolve() if asked.home else CHECKOUT, str(folder.resolve()) if folder.is_dir() else asked.data, False)


def main(args: list[str] | None=None, jobs: list[Job]=JOBS) -> int: # 0, also when there is more to do; 1 after a sentence about bad input; 130 if interrupted
    parser = argparse.ArgumentParser('gpu', description=__doc__.splitlines()[0])
    parser.add_argument('--data', default='', help='a folder with photographs')
    parser.add_argument('--minutes', type=float, default=9., help='length of this stretch (default: %(default)s)')
    parser.add_argument('--smoke', default='', help='yes: everything in the smallest size, in runs/gpu-smoke, on a CPU too')
    parser.add_argument('--home', default='', help='where nbs/ lies and results are written (default: this checkout)')
    parser.add_argument('--pack', default='', help='only put the small files that are there into this folder, as parts of one archive')
    asked = parser.parse_args(args)
    if lacks := missing(): print(f"gpu: {', '.join(lacks)} {'is' if len(lacks) == 1 else 'are'} missing here: install as benchmarks/GPU.md says.", file=sys.stderr); return 1
    os.environ['MPLBACKEND'] = 'agg'
    from colorization_pix2pix.core.errors import UserError
    over = []
    try:
        place = settle(asked)
        if asked.pack: pack(place, Path(asked.pack)); return 0
        with stretch(max(1., 60 * asked.minutes - MARGIN)) as over: about = work_through(place, jobs, over)
    except UserError as e: print(f'gpu: {e}', file=sys.stderr); return 1
    except ModuleNotFoundError as e: print(f'gpu: {e.name} is missing here: install as benchmarks/GPU.md says.', file=sys.stderr); return 1
    except KeyboardInterrupt as e:
        if not over: print(f'\ngpu: {e or "interrupted"}; the same command goes on.', file=sys.stderr); return 130
        about = manifest(place)
    done = [job.name for job in jobs if about['jobs'].get(job.name, {}).get('done')]
    print(f"gpu: {len(done)} of {len(jobs)} jobs are done" + ('.' if len(done) == len(jobs) else '; the same command goes on.'))
    return 0


if __name__ == '__main__':
    sys.path[:0] = [str(CHECKOUT)] # where the package is not installed
    sys.exit(main())
