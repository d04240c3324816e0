"""What is not the training step: files to batches, color conversion, `colorize`, whole commands."""
import os, subprocess, sys, tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader

from colorization_pix2pix.data.loaders import dataloaders
from colorization_pix2pix.inference.colorizer import Colorizer
from colorization_pix2pix.core.color import LAB, lab_to_srgb, srgb_to_lab
from colorization_pix2pix.inference.render import put_color
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.data.image_files import open_picture, write_picture
from colorization_pix2pix.data.scenes import draw_scenes
from colorization_pix2pix.data.sources import load_photos
from colorization_pix2pix.experiments.speed import OneByOne
from bench_steps import as_files
from bench_timing import DEVICE, cores, rate, seconds, turns

CHECKOUT = Path(__file__).resolve().parent.parent
OTHERS = [name for name, module in (('scikit-image', 'skimage'), ('kornia', 'kornia')) if find_spec(module)] # compared with, where installed


@contextmanager
def setting(**values: str) -> Iterator[None]:
    "These environment variables, and afterwards what was before."
    before = {k: os.environ.get(k) for k in values}
    os.environ |= values
    try: yield
    finally:
        for k, v in before.items():
            if v is None: del os.environ[k]
            else: os.environ[k] = v


def cold(photos: Path, size: int, batch: int) -> int: # pictures that arrived
    "From a folder and an empty cache to the last batch of Lab, training and validation."
    with tempfile.TemporaryDirectory() as cache, setting(COLORIZATION_CACHE=cache):
        loaders = dataloaders(load_photos(photos, size, size * 9 // 8), LAB, size, batch, DEVICE)
        return sum(len(x) for loader in loaders for x, _ in loader)


def data(rounds: int, folder: Path) -> dict:
    "Pictures a second of 256x256 from files to batches of Lab, without any training."
    (photos := folder/'photos').mkdir()
    files = as_files(photos, 192)
    by_hand = lambda workers: DataLoader(OneByOne(files, 256), 32, num_workers=workers)
    with setting(COLORIZATION_CACHE=str(folder/'cache')):
        loader = dataloaders(load_photos(photos, 256, 286), LAB, 256, 32, DEVICE).train
        return turns({'picture by picture with scikit-image, as tutorials do': rate(lambda: sum(len(x) for x, _ in by_hand(0))), 'the same, 2 workers': rate(lambda: sum(len(x) for x, _ in by_hand(2))),
                      'ours, cold: from the folder to the last batch, filling the cache': rate(lambda: cold(photos, 256, 32)), 'ours, from the cache': rate(lambda: sum(len(x) for x, _ in loader))}, rounds)


def color(rounds: int) -> dict:
    "Pictures of 256x256 a second, there and back; how many cores each keeps busy, once; versions."
    from skimage.color import lab2rgb, rgb2lab
    pictures = torch.from_numpy(draw_scenes(8, 256)).permute(0, 3, 1, 2).contiguous()
    arrays, lab = [p.permute(1, 2, 0).numpy() for p in pictures], srgb_to_lab(pictures)
    labs = [p.permute(1, 2, 0).numpy() for p in lab]
    there = {'to Lab, scikit-image': lambda: [rgb2lab(a) for a in arrays], 'to Lab, ours': lambda: srgb_to_lab(pictures)}
    back = {'from Lab, scikit-image': lambda: [lab2rgb(a) for a in labs], 'from Lab, ours': lambda: lab_to_srgb(lab)}
    if 'kornia' in OTHERS:
        from kornia.color import lab_to_rgb, rgb_to_lab
        there['to Lab, kornia'], back['from Lab, kornia'] = lambda: rgb_to_lab(pictures / 255), lambda: lab_to_rgb(lab)
    return dict(there=turns({n: rate(f, 8) for n, f in there.items()}, rounds), back=turns({n: rate(f, 8) for n, f in back.items()}, rounds),
                cores={n: cores(f) for n, f in (there | back).items()}, versions={name: version(name) for name in OTHERS})


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
                             'paint': seconds(lambda: put_color(picture.pixels, ab)), 'write': seconds(write)}, rounds)
    return found


def start(rounds: int, folder: Path) -> dict:
    "Seconds from nothing to a finished process."
    small, large = photo(folder/'small.jpg', 256, 256), photo(folder/'large.jpg', 3000, 4000)
    command = lambda path: lambda: subprocess.run([Path(sys.executable).parent/'colorize', path], check=True, capture_output=True)
    return turns({'colorize a photo of 256x256': seconds(command(small)), 'colorize a photo of 12 megapixels': seconds(command(large)),
                  'for comparison: python -c "import torch"': seconds(lambda: subprocess.run([sys.executable, '-c', 'import torch'], check=True))}, rounds)


# Whole commands

def make(target: str, clone: Path) -> list[str]:
    "make, with the environment that is there in the place of a .venv of the clone's own."
    return ['make', '-C', str(clone), f'BIN={Path(sys.executable).parent}', '-o', '.venv/.set-up-in', target]


def commands(folder: Path, targets: tuple[str, ...]=('reproduce', 'test')) -> dict:
    "Seconds of the two commands, once each, in a fresh clone of what is committed, with an empty cache. UserError for one that fails."
    clone = folder/'clone'
    subprocess.run(['git', 'clone', '--quiet', str(CHECKOUT), str(clone)], check=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(('MAKE', 'MFLAGS', 'COLORIZATION_'))} | dict(PYTHONPATH=str(clone), COLORIZATION_CACHE=str(folder/'cache')) # under `make bench`
    def work(target):
        done = subprocess.run(make(target, clone), env=env, capture_output=True, text=True)
        if done.returncode: raise UserError(f"make {target} failed in a fresh clone, so it is not timed: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    return {f'make {target}': seconds(lambda: work(target))() for target in targets}
