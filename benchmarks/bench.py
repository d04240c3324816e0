"""How fast each part is on this machine: `make bench`.

What is compared is measured in turns, so that a busy minute hits all of it; one round that is not counted comes first. The pictures are drawn here, so anybody can repeat it.
Writes benchmarks/<device>.json, and benchmarks/README.md from all such files."""
import argparse, json, os, re, statistics, subprocess, sys, tempfile, time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fastai.callback.core import TrainEvalCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from colorization_pix2pix.batches import dataloaders
from colorization_pix2pix.colorizer import Colorizer
from colorization_pix2pix.colorspace import LAB, lab_to_srgb, srgb_to_lab
from colorization_pix2pix.data import Photos
from colorization_pix2pix.experiment import PRESETS, Experiment, best_device, commit, gallery, learner, machine
from colorization_pix2pix.figures import markdown_table
from colorization_pix2pix.fullsize import put_colour
from colorization_pix2pix.pictures import open_picture, write_picture
from colorization_pix2pix.release import COLORIZER
from colorization_pix2pix.run import train
from colorization_pix2pix.safekeeping import write_json
from colorization_pix2pix.scenes import draw_scenes
from colorization_pix2pix.sources import load_photos
from colorization_pix2pix.speed import Noise, OneByOne, images_per_second, in_turns, peak_memory, short_learner
from colorization_pix2pix.training import ADAM
from colorization_pix2pix.watching import NoValidation
from gpu_speed import pages, profile, profile_table

HOME = Path(__file__).parent
DEVICE = best_device()


def turns(jobs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    "A value of each job for each round."
    found = {name: [] for name in jobs}
    for i in range(rounds + 1):
        for name, job in jobs.items():
            value = job()
            if i: found[name].append(value)
    return found


def rate(work: Callable, amount: float) -> Callable[[], float]:
    "`amount` for each second of `work`."
    def job():
        start = time.perf_counter()
        work()
        if DEVICE.type == 'cuda': torch.cuda.synchronize()
        return amount / (time.perf_counter() - start)
    return job


def seconds(work: Callable) -> Callable[[], float]:
    "How long `work` takes."
    def job():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    return job


# Training

def peak(rounds: int) -> dict:
    "What the processor multiplies at best, with which the training is compared: products of 32-bit matrices."
    n = 4096 if DEVICE.type == 'cuda' else 2048
    a, b = torch.rand(n, n, device=DEVICE), torch.rand(n, n, device=DEVICE)
    return turns({f'product of two {n}x{n} matrices': rate(lambda: [a @ b for _ in range(8)], 8 * 2 * n ** 3 / 1e9)}, rounds)


def flop(e: Experiment) -> float:
    "GFLOP of a training step for each picture, counted."
    batches = Noise(replace(e, batch=2), 1)
    learn = learner(replace(e, batch=2), DataLoaders(batches, batches, device=DEVICE), default_cbs=False, cbs=[TrainEvalCallback(), NoValidation()])
    with FlopCounterMode(display=False) as counter, learn.no_logging(): learn.fit(1)
    return counter.get_total_flops() / 2 / 1e9


def arms() -> dict[int, list[Experiment]]:
    "What is trained, by picture size. On a processor the pictures of 256x256 come in batches of 4."
    few = dict(batch=4) if DEVICE.type == 'cpu' else {}
    small, full = PRESETS['small'], replace(PRESETS['full'], **few)
    dynamic = lambda e, name: replace(e, name=name, generator='dynamic')
    return {64: [replace(PRESETS['quick'], name='quick: 64x64, ngf 32, batch 16'), replace(small, name='small: 64x64, ngf 32, batch 32'),
                 replace(small, name='small, L1 alone', adversarial_weight=0.), dynamic(small, 'small, dynamic U-Net')],
            128: [replace(COLORIZER, name='colorizer: 128x128, ngf 32, batch 16')],
            256: [replace(full, name=f'full: 256x256, ngf 64, batch {full.batch}'), dynamic(full, 'full, dynamic U-Net')]}


def training(rounds: int) -> dict:
    "Pictures a second, loader included."
    found = {}
    for size, experiments in arms().items():
        photos = load_photos('scenes:128', size, size * 9 // 8)
        found |= images_per_second(experiments, photos, rounds, steps=2 if size == 64 else 1)
    return found


EPOCH = {64: 1200, 128: 640, 256: 64} # pictures of an epoch that is timed whole; for the dynamic U-Net an eighth, at 256x256 a quarter


def epoch(e: Experiment, photos: Photos) -> dict:
    "Pictures a second of a run's only epoch, from its first line to its saved checkpoint, and which part of that time its steps take."
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        _, record = train(replace(e, epochs=1, report=(1,)), photos, gallery(photos.source), Path(folder), tqdm(disable=True))
        took = time.perf_counter() - start
    return dict(rate=len(photos.train) / took, steps=record['seconds'] / took)


def epochs(rounds: int) -> dict:
    "Whole epochs of each arm in turns: pictures trained on and measured, pictures a second, share of the steps."
    found = {}
    for size, experiments in arms().items():
        for e in experiments:
            wanted = EPOCH[size] // (1 if e.generator != 'dynamic' else 8 if size == 64 else 4)
            photos = load_photos(f'scenes:{wanted}', size, size * 9 // 8)
            found[e.name] = dict(train=len(photos.train), valid=len(photos.valid), seen=[], of=(e, photos))
    for _ in range(rounds):
        for row in found.values(): row['seen'].append(epoch(*row['of']))
    return {name: dict(train=row['train'], valid=row['valid'], rate=[r['rate'] for r in row['seen']], steps=statistics.median(r['steps'] for r in row['seen'])) for name, row in found.items()}


def costs() -> dict:
    "GFLOP a picture and step, and megabytes that a training adds at its peak."
    return {e.name: dict(gflop=round(flop(e), 2), megabytes=peak_memory(e)) for experiments in arms().values() for e in experiments}


class SubPixel(nn.Module):
    "What a 4x4 deconvolution of stride 2 and padding 1 gives, exactly: one 2x2 convolution to four times its channels, whose answers are put beside each other."
    def __init__(self, layer: nn.ConvTranspose2d):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w, (n, m) = self.layer.weight, self.layer.weight.shape[:2]
        w = w.view(n, m, 2, 2, 2, 2).flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(4 * m, n, 2, 2)
        bias = None if self.layer.bias is None else self.layer.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, w, bias, padding=1), 2)[..., 1:-1, 1:-1]


def sub_pixel(learn: Learner):
    "Exchange the generator's last deconvolution, which has two output channels."
    net = learn.model.generator
    name, layer = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.ConvTranspose2d) and m.out_channels == 2)
    net.set_submodule(name, SubPixel(layer))


def unfused(learn: Learner): learn.opt_func = partial(ADAM, fused=False)


def wins(rounds: int) -> dict:
    "Pictures a second with one thing changed in the training step."
    found = {}
    for size, steps in ((64, 3), (256, 1)):
        e, photos = arms()[size][1 if size == 64 else 0], load_photos('scenes:128', size, size * 9 // 8)
        variants = {'as it is': (e, None), 'Adam not fused': (e, unfused), 'last deconvolution as sub-pixel convolution': (e, sub_pixel)}
        if size == 64: variants['ndf 64 in the place of 32'] = replace(e, ndf=64), None
        learners = {name: short_learner(changed, photos, steps) for name, (changed, _) in variants.items()}
        for name, (_, change) in variants.items():
            if change: change(learners[name])
        found[e.name] = in_turns(learners, rounds)
    return found


def profiles() -> dict:
    "Which operations take the time of a step, by preset."
    row = dict(precision='float32' if DEVICE.type == 'cpu' else 'half', mode='eager')
    return {e.name: profile(load_photos('scenes:128', e.size, e.size * 9 // 8), row | dict(generator=e.generator, batch=e.batch), e, top=8) for e in (arms()[64][1], arms()[128][0], arms()[256][0])}


# Data

def data(rounds: int, folder: Path) -> dict:
    "Pictures a second of 256x256 from files to batches of Lab, without any training."
    files = []
    for i, scene in enumerate(draw_scenes(192, 256)):
        files.append(folder/f'{i}.jpg')
        Image.fromarray(scene).save(files[-1], quality=90)
    os.environ['COLORIZATION_CACHE'] = str(folder/'cache')
    def cold():
        os.environ['COLORIZATION_CACHE'] = tempfile.mkdtemp(dir=folder)
        load_photos(folder_of_files, 256, 286)
    folder_of_files = folder/'photos'
    folder_of_files.mkdir()
    for f in files: f.rename(folder_of_files/f.name)
    photos = load_photos(folder_of_files, 256, 286)
    loader = dataloaders(photos, LAB, 256, 32, DEVICE).train
    slow = lambda workers: DataLoader(OneByOne(sorted(folder_of_files.glob('*.jpg')), 256), 32, num_workers=workers)
    n = len(loader) * 32
    return turns({'picture by picture with scikit-image, as tutorials do': rate(lambda: list(slow(0)), len(files)), 'the same, 2 workers': rate(lambda: list(slow(2)), len(files)),
                  'ours, cold: decode, check, fill the cache': rate(cold, len(files)), 'ours, from the cache': rate(lambda: [None for _ in loader], n)}, rounds)


def colour(rounds: int) -> dict:
    "Pictures of 256x256 a second, there and back."
    from skimage.color import lab2rgb, rgb2lab
    pictures = torch.from_numpy(draw_scenes(8, 256)).permute(0, 3, 1, 2).contiguous()
    arrays, lab = [p.permute(1, 2, 0).numpy() for p in pictures], srgb_to_lab(pictures)
    labs = [p.permute(1, 2, 0).numpy() for p in lab]
    there = {'to Lab, scikit-image': lambda: [rgb2lab(a) for a in arrays], 'to Lab, ours': lambda: srgb_to_lab(pictures)}
    back = {'from Lab, scikit-image': lambda: [lab2rgb(a) for a in labs], 'from Lab, ours': lambda: lab_to_srgb(lab)}
    try:
        from kornia.color import lab_to_rgb, rgb_to_lab
        there['to Lab, kornia'], back['from Lab, kornia'] = lambda: rgb_to_lab(pictures / 255), lambda: lab_to_rgb(lab)
    except ImportError: pass
    return {'there': turns({n: rate(f, 8) for n, f in there.items()}, rounds), 'back': turns({n: rate(f, 8) for n, f in back.items()}, rounds)}


# Colorizing

def photo(path: Path, height: int, width: int) -> Path:
    "A photograph of that size, drawn, as a JPEG in black and white."
    Image.fromarray(draw_scenes(1, 512)[0]).resize((width, height), Image.Resampling.BICUBIC).convert('L').save(path, quality=90)
    return path


def stages(rounds: int, folder: Path) -> dict:
    "Seconds of each stage of `colorize`, by size of the photograph."
    colorizer, found = Colorizer.load(), {}
    for name, height, width in (('256x256', 256, 256), ('12 megapixels', 3000, 4000)):
        path, result = photo(folder/f'{name}.jpg', height, width), folder/f'{name} out.jpg'
        picture = open_picture(path)
        ab = colorizer.ab(picture.pixels)
        def write():
            result.unlink(missing_ok=True)
            write_picture(picture, result)
        found[name] = turns({'read': seconds(lambda: open_picture(path)), 'network, with its small input': seconds(lambda: colorizer.ab(picture.pixels)),
                             'paint': seconds(lambda: put_colour(picture.pixels, ab)), 'write': seconds(write)}, rounds)
    return found


def start(rounds: int, folder: Path) -> dict:
    "Seconds from nothing to a finished process."
    small, large = photo(folder/'small.jpg', 256, 256), photo(folder/'large.jpg', 3000, 4000)
    command = lambda path: lambda: subprocess.run([Path(sys.executable).parent/'colorize', path], check=True, capture_output=True)
    return turns({'colorize a photo of 256x256': seconds(command(small)), 'colorize a photo of 12 megapixels': seconds(command(large)),
                  'for comparison: python -c "import torch"': seconds(lambda: subprocess.run([sys.executable, '-c', 'import torch'], check=True))}, rounds)


# The page

def spread(values: list[float]) -> list[str]:
    "Median, smallest and largest."
    digits = 0 if min(values) >= 100 else 1 if min(values) >= 10 else 3
    return [f'{v:,.{digits}f}' for v in (statistics.median(values), min(values), max(values))]


def against(values: list[float], first: list[float]) -> str:
    "Median, smallest and largest of the ratios, round by round."
    ratios = sorted(v / f for v, f in zip(values, first))
    return f'{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})'


def table(rows: dict[str, list[float]], unit: str) -> str:
    "Each row with its ratio to the first."
    first = next(iter(rows.values()))
    return markdown_table([['', unit, 'smallest', 'largest', 'against the first'], *([name, *spread(v), against(v, first)] for name, v in rows.items())])


def trained(found: dict) -> str:
    "The training rows with what they cost and their share of the peak."
    top = statistics.median(next(iter(found['peak'].values())))
    rows = [['', 'images/s', 'smallest', 'largest', 'GFLOP an image', 'share of the peak', 'MB added']]
    for name, values in found['training'].items():
        cost = found['costs'][name]
        rows.append([name, *spread(values), f"{cost['gflop']:.2f}", f"{statistics.median(values) * cost['gflop'] / top:.0%}", f"{cost['megabytes']:.0f}"])
    return markdown_table(rows)


def whole_epochs(found: dict) -> str:
    "The rows of `epochs`."
    rows = [['', 'pictures trained on', 'measured', 'images/s', 'smallest', 'largest', 'of that time in steps']]
    return markdown_table(rows + [[name, f"{row['train']}", f"{row['valid']}", *spread(row['rate']), f"{row['steps']:.0%}"] for name, row in found.items()])


def page(found: dict) -> str:
    "What one device's file says."
    about, top = found['machine'], next(iter(found['peak'].items()))
    parts = [f"## {about['device']}\n\ntorch {about['torch']}, python {about['python']}, commit {' and '.join(sorted(set(found['commits'].values())))}, {found['rounds']} rounds. {top[0]}: {spread(top[1])[0]} GFLOP/s ({spread(top[1])[1]} to {spread(top[1])[2]}); the share of the peak is of its median.",
             '### Training, loader included\n\n' + trained(found),
             *(['### A whole epoch: loader, steps, validation, checkpoint\n\n' + whole_epochs(found['epochs'])] if 'epochs' in found else []),
             *(f'### One thing changed: {name}\n\n' + table(rows, 'images/s') for name, rows in found['wins'].items()),
             *(f'### Where the time of a step goes: {name}\n\n' + profile_table(seen) for name, seen in found['profiles'].items()),
             '### From files to batches, 256x256\n\n' + table(found['data'], 'images/s'),
             '### Colour conversion, 256x256\n\n' + table(found['colour']['there'], 'images/s') + '\n\n' + table(found['colour']['back'], 'images/s')]
    for name, rows in found.get('stages', {}).items(): parts.append(f'### Colorizing, {name}\n\n' + markdown_table([['', 'seconds', 'smallest', 'largest'], *([n, *spread(v)] for n, v in rows.items())]))
    if 'start' in found: parts.append('### The command, cold\n\n' + markdown_table([['', 'seconds', 'smallest', 'largest'], *([n, *spread(v)] for n, v in found['start'].items())]))
    return '\n\n'.join(parts)


HEAD = '''# Speed

Made by `make bench` from the files in this folder. Each number is the median of some rounds; rows of one table were measured in turns, and a ratio between .9 and 1.1 is no difference on a machine like these.

What others reach, for orientation, measured once on two cores of the first machine's kind, at another time and with their own programs: a reference implementation of pix2pix 1.3 images/s at 256x256 and batch 8, 3.3 images/s when it colours; a tutorial's dynamic U-Net step 4.7 seconds of one core for an image, its plain U-Net 1.8. The protocol of the project's document 001 took about 15 hours for 150 epochs of 7,129 pictures: 20 images/s on its graphics card.

What was read from the first machine's tables below. At 256x256 the step is at the processor's limit. At 64x64 and 128x128 it stays under 80 % of it, and the profile says why: about a fifth of the time at 64x64, and more than a quarter at 128x128, goes into everything that multiplies no matrices (normalisation, copies, Adam, dropout; at 128x128 the distribution over colours and the drawn hints), and small
convolutions with few channels fill a processor less well than the square matrices that it is measured against. Of the known small wins, the fused Adam and discriminators whose width follows the generator's are taken; the last deconvolution written as a sub-pixel convolution, exact and faster by itself, makes no difference to a step and is left out. How all of it grows with size, batch, number and processes: [growth](growth-cpu-2-threads-amd-epyc.md), made by `make bench-growth`. Nothing grows worse than linearly: pixels a second rise up to
256x256 and are a tenth fewer at 512x512, which is within what this machine scatters by; memory does not grow with the number of pictures, apart from the part of the cache file that the operating system keeps mapped and takes back; two processes on two cores are as fast as one with two threads.
'''


def main(args: list[str] | None=None) -> int:
    parser = argparse.ArgumentParser('bench', description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--page', action='store_true', help='measure nothing: only write README.md anew')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='measure only these anew (default: all)')
    asked = parser.parse_args(args)
    if not asked.page: measure(asked.rounds, asked.parts)
    (HOME/'README.md').write_text(readme())
    return 0


def readme() -> str:
    "The page of all devices, from the files."
    files = sorted(f for f in HOME.glob('*.json') if not f.name.startswith('growth-'))
    return HEAD + '\n' + '\n\n'.join([*(page(json.loads(f.read_text())) for f in files), *pages(HOME.parent)]) + '\n'


def in_folder(part: Callable[[int, Path], dict]) -> Callable[[int], dict]:
    "The same in a folder of its own, which is gone afterwards."
    def job(rounds):
        with tempfile.TemporaryDirectory() as folder: return part(rounds, Path(folder))
    return job


PARTS = dict(peak=peak, training=training, epochs=epochs, costs=lambda rounds: costs(), wins=wins, profiles=lambda rounds: profiles(), colour=colour,
             data=in_folder(data), stages=in_folder(stages), start=in_folder(start))


def measure(rounds: int, parts: list[str]):
    "These parts, into this device's file; the other parts in it stay as they are."
    about = machine(DEVICE)
    path = HOME/f"{re.sub(r'[^a-z0-9]+', '-', about['device'].lower()).strip('-')}.json"
    found = json.loads(path.read_text()) if path.exists() and parts != list(PARTS) else dict(format=1, commits={})
    for part in parts: found |= {part: PARTS[part](rounds), 'commits': found['commits'] | {part: commit()}}
    write_json(path, found | dict(machine=about, rounds=rounds))


if __name__ == '__main__': sys.exit(main())
