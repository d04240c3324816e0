"""How speed and memory grow: `make bench-growth`.

Training against the side of the pictures and against the batch, the data path against the number of pictures, training against the number of processes, and the search for
pictures that are there twice, for which a folder of photographs is needed. Every memory is of a process of its own. Writes benchmarks/growth-<device>.json, and from it benchmarks/growth-<device>.md and images/growth-<device>.png."""
import argparse, json, math, os, re, statistics, subprocess, sys, tempfile, threading, time
from dataclasses import replace
from pathlib import Path

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from colorization_pix2pix.data.loaders import dataloaders
from colorization_pix2pix.core.color import LAB
from colorization_pix2pix.data.duplicates import DuplicateFinder
from colorization_pix2pix.data.photos import folder_photos
from colorization_pix2pix.experiments.config import PRESETS, Experiment, commit, machine
from colorization_pix2pix.experiments.figures import markdown_table
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.experiments.runner import train_together
from colorization_pix2pix.core.storage import write_json
from colorization_pix2pix.data.sources import load_photos
from colorization_pix2pix.experiments.speed import images_per_second, peak_memory
from bench_page import spread
from bench_timing import DEVICE, rate

HOME = Path(__file__).resolve().parent
FULL = dict(sizes=(64, 128, 256, 512), batches=(2, 4, 8, 16, 32, 64), pictures=(1000, 10_000, 100_000), trained=256, rounds=3, searched=(1000, 4000, 16_000, 64_000, 118_000))
TRY_OUT = dict(sizes=(64, 128), batches=(2, 4), pictures=(40, 80), trained=32, rounds=1, searched=(20, 40))
SMALL = PRESETS['small'] # 64x64, 32 channels
MB = 2 ** 20
PASSES = 6 # of reading from the cache


def training(experiments: list[Experiment], rounds: int) -> dict[str, dict]:
    "Images a second, loader included, measured in turns, and the megabytes that a training adds at its peak."
    found = {}
    for size in sorted({e.size for e in experiments}): # one set of pictures has one size
        same = [e for e in experiments if e.size == size]
        found |= images_per_second(same, load_photos(f'scenes:{max(64, *(e.batch for e in same))}', size), rounds, steps=2)
    return {e.name: dict(images_per_second=found[e.name], megabytes=peak_memory(e)) for e in experiments}


# The number of pictures

def resident() -> tuple[float, float]:
    "Megabytes of this process: what it holds by itself, and what of a file it has mapped is in memory just now."
    status = Path('/proc/self/status')
    if not status.exists(): return math.nan, math.nan
    return tuple(float(re.search(rf'{what}:\s+(\d+)', status.read_text(encoding='utf-8'))[1]) / 1024 for what in ('RssAnon', 'RssFile'))


class Watched:
    "In here memory is looked at twenty times a second; `added` is by how much it has grown at most."
    def __enter__(self):
        self.start, self.most, self.over, self.began = resident(), resident(), threading.Event(), time.perf_counter()
        (thread := threading.Thread(target=self._look, daemon=True)).start()
        self.thread = thread
        return self

    def _look(self):
        while not self.over.wait(.05): self.most = tuple(map(max, self.most, resident()))

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.began
        self.over.set()
        self.thread.join()
        self.added = [round(m - s, 1) for m, s in zip(map(max, self.most, resident()), self.start)]


def through_the_cache(n: int) -> dict:
    "In this process: fill a cache with so many drawn scenes of 64x64, then read epochs of Lab batches from it, of which the first is counted by itself."
    load_photos('scenes:8', 64) # what is needed once
    with Watched() as fill: photos = load_photos(f'scenes:{n}', 64)
    loader = dataloaders(photos, LAB, 64, 32, DEVICE).train
    once = rate(lambda: 32 * sum(1 for _ in loader))
    with Watched() as read: passes = [once() for _ in range(PASSES)]
    drawn = len(photos.train) + len(photos.valid)
    return dict(fill=drawn / fill.seconds, fill_mb=fill.added[0], first=passes[0], read=passes[1:], read_mb=read.added[0], mapped_mb=read.added[1], on_disk_mb=round((photos.train.nbytes + photos.valid.nbytes) / MB, 1))


# Pictures that are there twice

def crops_of(photos: torch.Tensor, n: int): # (m,S,S,3) uint8 -> n times (8,8,3)
    "Windows at random places of photographs, each at least half as wide as the photograph: more pictures than there are files."
    rng, side = np.random.default_rng(0), photos.shape[1]
    for i in range(n):
        width = int(rng.integers(side // 2, side + 1))
        left, top = rng.integers(0, side - width + 1, 2).tolist()
        picture = Image.fromarray(photos[i % len(photos)].numpy())
        yield np.asarray(picture.resize((8, 8), Image.Resampling.BOX, box=(left, top, left + width, top + width)))


def searching(photos: torch.Tensor, numbers: tuple[int, ...]) -> dict[str, dict]:
    "CPU seconds that the search takes up to each of these numbers of pictures, making them left out, and how many twins it found."
    twins, seconds, found, rows = DuplicateFinder(), 0., 0, {}
    for n, mini in enumerate(crops_of(photos, max(numbers)), 1):
        start = time.process_time()
        found += bool(twins.find(mini, str(n)))
        seconds += time.process_time() - start
        if n in numbers: rows[str(n)] = dict(cpu_seconds=round(seconds, 2), twins=found)
    return rows


# Processes

def train(processes: int, pictures: int, root: Path):
    "In so many processes: two epochs of the preset `small` with both losses."
    from accelerate import notebook_launcher
    notebook_launcher(train_together, ([replace(SMALL, preset='growth', epochs=2, report=(2,))], f'scenes:{pictures}', root), num_processes=processes, use_port='29517')


def ways() -> list[tuple[str, int, int]]:
    "Name, processes and threads of what is compared: on a CPU the same cores in one process or in two."
    if DEVICE.type == 'cuda': return [(f'{n} x 1 card', n, 1) for n in (1, 2, 4, 8) if n <= torch.cuda.device_count()]
    return [('1 process, 1 thread', 1, 1), ('1 process, 2 threads', 1, 2), ('2 processes, 1 thread each', 2, 1)]


# All of it

def here(*args: str, threads: int | None=None) -> tuple[str, float]:
    "What this file prints when it is called with these arguments, and the megabytes of its largest process."
    env = os.environ | ({'OMP_NUM_THREADS': str(threads)} if threads else {})
    code = 'import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024); sys.exit(code)'
    done = subprocess.run([sys.executable, '-c', code, sys.executable, '-W', 'ignore', __file__, *args], env=env, capture_output=True, text=True)
    if done.returncode: raise UserError(f"{' '.join(args)} failed: {done.stderr.strip().splitlines()[-1]}")
    *said, megabytes = done.stdout.strip().splitlines()
    return '\n'.join(said), round(float(megabytes), 1)


def processes(pictures: int, rounds: int) -> dict[str, dict]:
    "Images a second of each way, in turns, and the memory of its largest process, imports and measuring included."
    found = {name: dict(processes=n, threads=t, images_per_second=[], megabytes=0.) for name, n, t in ways()}
    for _ in range(rounds):
        for row in found.values():
            with tempfile.TemporaryDirectory() as root:
                _, megabytes = here('--train', str(row['processes']), '--of', str(pictures), '--root', root, threads=row['threads'])
                (result,) = Path(root).glob('results/growth/*.json')
                row['images_per_second'].append(json.loads(result.read_text(encoding='utf-8'))['images_per_second'])
            row['megabytes'] = max(row['megabytes'], megabytes)
    return found


PARTS = 'size', 'batch', 'pictures', 'processes', 'twins'


def measure(what: dict, parts: list[str], before: dict, photos: str='') -> dict:
    "These parts; of the others what was measured before."
    sizes = [replace(SMALL, name=f'{s}', size=s, load_size=s, batch=4) for s in what['sizes']]
    batches = [replace(SMALL, name=f'{b}', load_size=64, batch=b) for b in what['batches']]
    work = dict(size=lambda: training(sizes, what['rounds']), batch=lambda: training(batches, what['rounds']), processes=lambda: processes(what['trained'], what['rounds']),
                pictures=lambda: {str(n): json.loads(here('--pictures', str(n))[0].splitlines()[-1]) for n in what['pictures']},
                twins=lambda: searching((found := folder_photos(photos, 64)).train, what['searched']) | dict(photographs=len(found.train), content=found.content))
    return before | dict(format=1, machine=machine(DEVICE), rounds=what['rounds']) | {part: work[part]() for part in parts} | dict(commits=before.get('commits', {}) | dict.fromkeys(parts, commit()))


def middle(values: list[float]) -> str:
    "Median, with the smallest and the largest."
    return '{} ({} to {})'.format(*spread(values))


def commits(found: dict) -> str:
    "Of all parts."
    return ' and '.join(sorted(set(found['commits'].values())))


def fewer(rows: dict[str, dict]) -> str:
    "How reading changed between the two largest numbers of pictures."
    (less, before), (more, after) = list(rows.items())[-2:]
    return f"With {int(more):,} pictures reading ran at {statistics.median(after['read']) / statistics.median(before['read']):.2f} times the speed that it had with {int(less):,} (medians of the later passes)."


def page(found: dict, picture: str) -> str:
    "What one device's file says."
    pixels = lambda side, r: statistics.median(r['images_per_second']) * int(side) ** 2 / 1e6
    size = [['side', 'images/s', 'million pixels/s', 'MB added'], *([s, middle(r['images_per_second']), f'{pixels(s, r):.2f}', f"{r['megabytes']:,.0f}"] for s, r in found['size'].items())]
    batch = [['batch', 'images/s', 'MB added'], *([b, middle(r['images_per_second']), f"{r['megabytes']:,.0f}"] for b, r in found['batch'].items())]
    number = [['pictures', 'drawn and cached, images/s', 'MB added', 'first pass from the cache, images/s', 'later passes', 'MB added', 'MB of the file mapped', 'MB on disk'],
              *([f'{int(n):,}', f"{r['fill']:,.0f}", f"{r['fill_mb']:,.0f}", f"{r['first']:,.0f}", middle(r['read']), f"{r['read_mb']:,.0f}", f"{r['mapped_mb']:,.0f}", f"{r['on_disk_mb']:,.0f}"] for n, r in found['pictures'].items())]
    first = next(iter(found['processes'].values()))['images_per_second']
    ratio = lambda values: statistics.median(v / f for v, f in zip(values, first))
    several = [['', 'images/s', 'against the first', 'MB of the largest process', 'MB of all, at most'],
               *([n, middle(r['images_per_second']), f"{ratio(r['images_per_second']):.2f}", f"{r['megabytes']:,.0f}", f"{r['processes'] * r['megabytes']:,.0f}"] for n, r in found['processes'].items())]
    about = found['machine']
    return '\n\n'.join([f"# Growth\n\n{about['device']}, torch {about['torch']}, python {about['python']}, commit {commits(found)}. Median, smallest and largest of {found['rounds']} rounds, in each of which the rows of a table took turns; the numbers of pictures were gone through once, each read six times. Made by `make bench-growth`.",
                        f'![images per second and memory against size, batch, pictures and processes]({picture})',
                        '## Side of the pictures\n\nL1+cGAN, U-Net and PatchGAN with 32 channels, batch 4.\n\n' + markdown_table(size), '## Batch\n\nThe same at 64x64.\n\n' + markdown_table(batch),
                        '## Number of pictures\n\nScenes of 64x64, drawn, written to the cache and read from it in batches of 32, without training; each number in a process of its own. What is mapped of the file is the operating system\'s: it takes it back when memory runs short. ' + fewer(found['pictures']) + '\n\n' + markdown_table(number),
                        '## Processes\n\nThe preset `small` with both losses and batch 32, two epochs. What all take together is at most the largest times their number: pages that they share are counted in each.\n\n' + markdown_table(several), *twins_page(found.get('twins'))]) + '\n'


def twins_page(rows: dict | None) -> list[str]:
    "What is said about the search; nothing where it was not measured."
    if not rows: return []
    numbers = [n for n in rows if n.isdigit()]
    table = [['pictures', 'CPU seconds', 'ms a picture', 'twins'], *([f'{int(n):,}', f"{rows[n]['cpu_seconds']:.1f}", f"{1000 * rows[n]['cpu_seconds'] / int(n):.2f}", f"{rows[n]['twins']:,}"] for n in numbers)]
    more = beyond({int(n): rows[n]['cpu_seconds'] for n in numbers})
    return [f"## Pictures that are there twice\n\nThe search of notebook data/duplicates alone, reading the files left out, on one thread: windows at random places of {rows['photographs']:,} photographs (content {rows['content']}), each at least half as wide as its photograph; windows that nearly coincide are twins.{more}\n\n" + markdown_table(table)]


def beyond(seconds: dict[int, float], wanted: int=max(FULL['searched'])) -> str:
    "An estimate for the number of COCO's photographs where so many were not searched; '' where they were."
    if len(seconds) < 2 or max(seconds) >= wanted or not min(seconds.values()): return ''
    (a, first), (b, last) = sorted(seconds.items())[-2:]
    return f" Not measured but extrapolated, as if it went on growing as between {a:,} and {b:,} (with the power {(power := math.log(last / first) / math.log(b / a)):.2f} of the number): about {last * (wanted / b) ** power:,.0f} CPU seconds for {wanted:,} pictures."


def plot(found: dict, path: Path):
    "Above speed, below memory."
    fig, axs = plt.subplots(2, 4, figsize=(11, 4.6), layout='constrained')
    for (above, below), what, label in zip(axs.T, ('size', 'batch'), ('side of the pictures', 'batch')):
        x, rows = [int(k) for k in found[what]], found[what].values()
        speeds = [statistics.median(r['images_per_second']) for r in rows]
        above.loglog(x, speeds, 'o-')
        if what == 'size': above.loglog(x, [speeds[0] * (x[0] / v) ** 2 for v in x], 'k:', lw=.8, label='the same pixels a second'); above.legend(fontsize=7)
        below.semilogx(x, [r['megabytes'] for r in rows], 'o-')
        below.set(xlabel=label, ylim=0)
        for ax in (above, below): ax.set_xticks(x, x, fontsize=7); ax.minorticks_off()
        above.set_yticks(speeds, [f'{v:.1f}' for v in speeds], fontsize=7)
    x, rows = [int(k) for k in found['pictures']], found['pictures'].values()
    axs[0, 2].semilogx(x, [r['fill'] for r in rows], 'o-', label='drawn and cached')
    axs[0, 2].semilogx(x, [statistics.median(r['read']) for r in rows], 'o-', label='read')
    for k, name in (('fill_mb', 'drawn and cached'), ('read_mb', 'read'), ('mapped_mb', 'mapped')): axs[1, 2].semilogx(x, [r[k] for r in rows], 'o-', label=name)
    axs[1, 2].set(xlabel='pictures, without training')
    for ax in axs[:, 2]: ax.set_xticks(x, [f'{v:,}' for v in x], fontsize=7); ax.set_ylim(0); ax.minorticks_off(); ax.legend(fontsize=7)
    names, rows = [n.replace(', ', '\n') for n in found['processes']], found['processes'].values()
    axs[0, 3].bar(names, [statistics.median(r['images_per_second']) for r in rows], width=.6)
    axs[1, 3].bar(names, [r['megabytes'] for r in rows], width=.6)
    for ax in axs[:, 3]: ax.tick_params('x', labelsize=6)
    axs[0, 0].set_ylabel('images/s'); axs[1, 0].set_ylabel('MB added'); axs[1, 3].set_ylabel('MB, largest process')
    fig.suptitle(f"{found['machine']['device']}, commit {commits(found)}", fontsize=9)
    fig.savefig(path, dpi=90)


def main(args: list[str] | None=None) -> int:
    parser = argparse.ArgumentParser('growth', description=__doc__.splitlines()[0])
    parser.add_argument('--try-out', action='store_true', help='tiny numbers, into a temporary folder')
    parser.add_argument('--page', action='store_true', help='measure nothing: only write tables and plots anew')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='measure only these anew (default, and where nothing is measured yet: all)')
    parser.add_argument('--searched', nargs='+', type=int, help='numbers of pictures to search, of windows out of the photographs (default: up to 118,000)')
    parser.add_argument('--photos', default='', help='a folder of photographs, for the search for pictures that are there twice (without it that part is left out)')
    for name in ('pictures', 'train', 'of'): parser.add_argument(f'--{name}', type=int, help=argparse.SUPPRESS) # of the processes that it starts
    parser.add_argument('--root', type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(args)
    if asked.pictures: print(json.dumps(through_the_cache(asked.pictures))); return 0
    if asked.train: train(asked.train, asked.of, asked.root); return 0
    folder, images = (Path(tempfile.mkdtemp()),) * 2 if asked.try_out else (HOME, HOME.parent/'images')
    if not asked.page:
        file = folder/f"growth-{re.sub(r'[^a-z0-9]+', '-', machine(DEVICE)['device'].lower()).strip('-')}.json"
        before = json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}
        with tempfile.TemporaryDirectory() as cache:
            os.environ['COLORIZATION_CACHE'] = cache
            parts = [p for p in (asked.parts if before else PARTS) if p != 'twins' or asked.photos]
            if not asked.photos and 'twins' in asked.parts: print('The search for pictures that are there twice is left out: it needs photographs, DATA=/path/to/photos.', file=sys.stderr)
            found = measure((TRY_OUT if asked.try_out else FULL) | ({'searched': tuple(asked.searched)} if asked.searched else {}), parts, before, asked.photos)
        write_json(file, found)
    for file in sorted(folder.glob('growth-*.json')):
        found = json.loads(file.read_text(encoding='utf-8'))
        plot(found, images/f'{file.stem}.png')
        file.with_suffix('.md').write_text(page(found, os.path.relpath(images/f'{file.stem}.png', folder)), encoding='utf-8')
        print(f"{file.with_suffix('.md')}, {images/f'{file.stem}.png'}")
    return 0


if __name__ == '__main__': sys.exit(main())
