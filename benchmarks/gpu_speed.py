"""The speed of the training step on this device: a table, its share of the device's roofline, and where the time goes. `make gpu` runs it.

The roofline is a bound: every operation that the step asks of the device takes at least as long as its arithmetic at the measured peak, or as its memory traffic at the measured
bandwidth, whichever is longer; added up, that is the least an uncompiled step can take. A compiled step joins operations and may beat it."""
import gc, json, re, statistics, time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from fastai.callback.fp16 import MixedPrecision
from fastai.learner import Learner
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from colorization_pix2pix.core.device import amp_dtype
from colorization_pix2pix.training.compile import Compiled
from colorization_pix2pix.data.photos import Photos
from colorization_pix2pix.experiments.config import PRESETS, Experiment, best_device, commit, machine
from colorization_pix2pix.experiments.figures import markdown_table
from colorization_pix2pix.core.storage import write_json
from colorization_pix2pix.experiments.speed import in_turns, short_learner
from colorization_pix2pix.training.optimization import leave_autocast

STEPS = {1: 40, 2: 2, 8: 20, 32: 10, 128: 4} # of a batch in a round: some tenths of a second each on a large card
EAGER, COMPILED, GRAPHS = '', 'default', 'reduce-overhead'
PLAIN = [('half', EAGER), ('float32', EAGER)]
FIRST = [('unet', 32, [*PLAIN, ('half', COMPILED), ('half', GRAPHS)]), ('unet', 1, PLAIN), ('unet', 128, PLAIN), ('unet', 8, PLAIN),
         ('dynamic', 32, PLAIN), ('dynamic', 1, PLAIN), ('dynamic', 128, PLAIN), ('dynamic', 8, PLAIN)]
REST = [(generator, batch, [('half', EAGER), ('half', COMPILED), ('half', GRAPHS)]) for batch in (1, 32, 128, 8) for generator in ('unet', 'dynamic') if (generator, batch) != ('unet', 32)]
SMOKE = [('unet', 2, [('float32', EAGER), ('float32', COMPILED)]), ('dynamic', 2, [('float32', EAGER)])]


# The device's limits

def per_second(work, amount: float, rounds: int) -> float:
    "The median of `amount` for each second of `work`, after one that is not counted."
    rates = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if best_device().type == 'cuda': torch.cuda.synchronize()
        rates.append(amount / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def limits(rounds: int=5) -> dict[str, float]: # FLOP/s by number format, and bytes/s
    "What the device multiplies and copies at best: 1x1 convolutions of large pictures in each format that training uses, and a copy within its memory."
    card = best_device().type == 'cuda'
    n, side, times = (4096, 64, 8) if card else (256, 32, 1)
    found = {}
    for dtype in {torch.float32, amp_dtype(best_device())}:
        net = nn.Conv2d(n, n, 1, bias=False, device=best_device(), dtype=dtype).to(memory_format=torch.channels_last)
        x = torch.randn(4, n, side, side, device=best_device(), dtype=dtype).to(memory_format=torch.channels_last)
        with torch.no_grad(): found[str(dtype).removeprefix('torch.')] = per_second(lambda: [net(x) for _ in range(times)], times * 2 * n * n * 4 * side * side, rounds)
    a, b = (torch.empty(2 ** (30 if card else 26), dtype=torch.uint8, device=best_device()) for _ in range(2))
    return found | dict(bytes=per_second(lambda: [a.copy_(b) for _ in range(times)], times * 2 * a.nbytes, rounds))


def size(values) -> int: return sum(t.nbytes for t in tree_leaves(values) if isinstance(t, Tensor))


FREE, OVERWRITING = ('empty', '_unsafe_view'), ('copy_.', 'fill_.', 'zero_.') # operations that move nothing; that do not read what they write to


class Roofline(TorchDispatchMode):
    "Adds up the least time of every operation on the device."
    def __init__(self, limits: dict[str, float]):
        super().__init__()
        self.limits, self.seconds, self.operations = limits, 0., 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        there = any(t.device.type == best_device().type for t in tensors)
        if there and not func.is_view and not any(word in func.__name__ for word in FREE): self._add(func, args, kwargs, out, tensors[0].dtype)
        return out

    def _add(self, func, args: tuple, kwargs: dict, out, dtype: torch.dtype):
        count = flop_registry.get(func._overloadpacket)
        flop = count(*args, **kwargs, out_val=out) if count else 0
        written = [a for a, s in zip(args, func._schema.arguments) if s.alias_info and s.alias_info.is_write]
        read = args[1:] if any(word in func.__name__ for word in OVERWRITING) else args
        traffic = size((read, kwargs)) + (size(written) if written else size(out))
        peak = self.limits.get(str(dtype).removeprefix('torch.'), self.limits['float32'])
        self.seconds, self.operations = self.seconds + max(flop / peak, traffic / self.limits['bytes']), self.operations + 1


# The table

def build(e: Experiment, photos: Photos, precision: str, mode: str, steps: int | None=None) -> Learner:
    "What trains the experiment in that number format and in that way."
    on_cpu = best_device().type == 'cpu' # where only the way is tried, with a compiler that changes nothing
    learn = short_learner(e, photos, steps or STEPS[e.batch], [Compiled(mode, **dict(backend='eager') if on_cpu else {})] if mode else [])
    if precision == 'float32':
        for cb in learn._grab_cbs(MixedPrecision): learn.remove_cb(cb)
    return learn


def first_epoch(learn: Learner) -> dict:
    "Seconds until the first few steps are done, algorithms tried and networks compiled; megabytes at the peak."
    card = best_device().type == 'cuda'
    if card: torch.cuda.reset_peak_memory_stats()
    start, before = time.perf_counter(), torch.cuda.memory_allocated() if card else 0
    with learn.no_logging(): learn.fit(1)
    return dict(first_seconds=round(time.perf_counter() - start, 2), megabytes=round((torch.cuda.max_memory_allocated() - before) / 2 ** 20) if card else None)


def bound(e: Experiment, photos: Photos, precision: str, found: dict[str, float]) -> dict:
    "Images per second by the roofline, and the operations of a step."
    learn = build(e, photos, precision, EAGER, steps=1)
    with learn.no_logging(), Roofline(found) as roofline: learn.fit(1)
    return dict(roofline=round(e.batch / roofline.seconds, 2), operations=roofline.operations)


def tidy():
    "Give back what the last group held. Programs for another batch would count towards the number that are kept."
    gc.collect()
    if best_device().type == 'cuda': torch.cuda.empty_cache()
    torch.compiler.reset()


def start(e: Experiment, photos: Photos, precision: str, mode: str, found: dict) -> tuple[dict, Learner | None]:
    "A row without its speed, and what trains it; a variant that fails says why, whatever it is: a compiler has many ways."
    half = str(amp_dtype(best_device())).removeprefix('torch.')
    row, learn = dict(generator=e.generator, batch=e.batch, precision=half if precision == 'half' else precision, mode=mode or 'eager'), None
    try:
        row |= bound(e, photos, precision, found)
        learn = build(e, photos, precision, mode)
        return row | first_epoch(learn), learn
    except Exception as error:
        if learn: leave_autocast(learn)
        return row | dict(failed=' '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200]), None


def measure(e: Experiment, photos: Photos, variants: list[tuple[str, str]], found: dict, rounds: int) -> list[dict]:
    "One row for each variant, measured in turns."
    tidy()
    rows, learners = zip(*(start(e, photos, precision, mode, found) for precision, mode in variants))
    for i, values in in_turns({i: learn for i, learn in enumerate(learners) if learn}, rounds).items(): rows[i]['images_per_second'] = values
    return list(rows)


def table(path: Path, groups: list[tuple], photos: Photos, base: Experiment=PRESETS['full'], rounds: int=5) -> dict:
    "Measure what is not in the file yet, and write it after each group, so that a table which is cut off goes on."
    found = json.loads(path.read_text(encoding='utf-8')) if path.exists() else dict(format=1, machine=machine(best_device()), commit=commit(), data=photos.source, size=base.size, limits=limits(rounds), rounds=rounds, groups={})
    for generator, batch, variants in groups:
        if (name := f'{generator}, batch {batch}') in found['groups'] or batch > len(photos.train): continue
        found['groups'][name] = measure(replace(base, name=name, generator=generator, batch=batch), photos, variants, found['limits'], rounds)
        write_json(path, found)
    return found


def rows_of(found: dict) -> Iterator[dict]:
    for rows in found['groups'].values(): yield from rows


def middle(row: dict) -> float: return statistics.median(row.get('images_per_second') or [0])


def best(found: dict) -> dict: return max(rows_of(found), key=middle)


def faster_mode(found: dict, images: int) -> str:
    "'yes' where compiling the U-Net at batch 32 saves more seconds of a training with so many images than it costs at its start."
    rows = {row['mode']: row for row in rows_of(found) if row['generator'] == 'unet' and row['batch'] == 32 and row['precision'] != 'float32' and 'failed' not in row}
    if not {'eager', COMPILED} <= rows.keys(): return 'no'
    seconds = {mode: images / middle(rows[mode]) + rows[mode]['first_seconds'] for mode in ('eager', COMPILED)}
    return 'yes' if seconds[COMPILED] < seconds['eager'] else 'no'


# Where the time goes

def multiplies(operation: str) -> bool:
    "Is that one of PyTorch's convolutions or products of matrices on a CPU?"
    return bool(re.search('conv|mm', operation))


def profile(photos: Photos, row: dict, base: Experiment=PRESETS['full'], top: int=15) -> dict:
    "The operations that take longest in three steps of a row of the table, by their own time on the device."
    precision = 'float32' if row['precision'] == 'float32' else 'half'
    learn = build(replace(base, generator=row['generator'], batch=row['batch']), photos, precision, '' if row['mode'] == 'eager' else row['mode'], steps=3)
    kind = best_device().type
    with learn.no_logging():
        learn.fit(1)
        with torch.profiler.profile(activities=list(torch.profiler.supported_activities()) if kind == 'cuda' else [torch.profiler.ProfilerActivity.CPU]) as seen: learn.fit(1)
    own = lambda event: event.self_device_time_total if kind == 'cuda' else event.self_cpu_time_total
    on_device = [e for e in seen.key_averages() if (e.device_type == torch.autograd.DeviceType.CPU) == (kind == 'cpu') and not getattr(e, 'is_user_annotation', False)]
    events = sorted(on_device, key=own, reverse=True)
    total = sum(map(own, events))
    products = round(sum(own(e) for e in events if multiplies(e.key)) / total, 4) if kind == 'cpu' else None # a card's kernels have names of their own
    return dict(row={k: row[k] for k in ('generator', 'batch', 'precision', 'mode')}, milliseconds=round(total / 1000, 2), products=products,
                operations=[dict(name=e.key[:100], calls=e.count, share=round(own(e) / total, 4)) for e in events[:top]])


# The page

def speed_table(found: dict) -> str: # Markdown
    "All rows; ratios are to the first of the same network and batch, measured in turns with it."
    out = [['network, batch', 'numbers', 'how', 'images/s', 'smallest', 'largest', 'times the first', 'share of the roofline', 'MB', 'first steps, s']]
    for name, rows in found['groups'].items():
        first = rows[0].get('images_per_second')
        for row in rows:
            if 'failed' in row: out.append([name, row['precision'], row['mode'], row['failed'], *[''] * 6]); continue
            values = row['images_per_second']
            ratio = f'{statistics.median(v / f for v, f in zip(values, first)):.2f}' if first else ''
            out.append([name, row['precision'], row['mode'], f'{middle(row):,.0f}', f'{min(values):,.0f}', f'{max(values):,.0f}', ratio, f"{middle(row) / row['roofline']:.0%}",
                        str(row['megabytes'] or ''), f"{row['first_seconds']:.1f}"])
    return markdown_table(out)


def profile_table(found: dict) -> str: # Markdown
    "The operations that take longest."
    return markdown_table([['operation', 'calls in three steps', 'share']] + [[f"`{o['name']}`".replace('|', '/'), str(o['calls']), f"{o['share']:.1%}"] for o in found['operations']])


def trainings(results: Path, device: str) -> str: # Markdown
    "The runs in results/ that this device made."
    runs = [r for f in sorted(results.glob('*/*.json')) if (r := json.loads(f.read_text(encoding='utf-8'))).get('machine', {}).get('device') == device and 'images_per_second' in r]
    if not runs: return ''
    return markdown_table([['run', 'preset', 'seed', 'epochs', 'seconds', 'images/s', 'compiled']] + [
        [r['experiment']['name'], r['experiment']['preset'], str(r['experiment']['seed']), str(r['experiment']['epochs']), f"{r['seconds']:,.0f}", f"{r['images_per_second']:,.0f}", r['machine'].get('compile', '')] for r in runs])


def card_page(folder: Path, results: Path) -> str: # Markdown
    "What one card's folder says."
    found = {name: json.loads(path.read_text(encoding='utf-8')) for name in ('speed', 'speed-rest', 'profile') if (path := folder/f'{name}.json').exists()}
    if 'speed' not in found: return ''
    about, limits_ = found['speed']['machine'], found['speed']['limits']
    parts = ['## ' + about['device'], ', '.join(f'{k} {v}' for k, v in about.items() if k != 'device') + f", commit {found['speed']['commit']}, {found['speed']['rounds']} rounds.",
             'Measured limits: ' + ', '.join(f'{k} {v / 1e12:,.2f} T{"B" if k == "bytes" else "FLOP"}/s' for k, v in limits_.items()) + '.', f"### Training step at {found['speed']['size']}x{found['speed']['size']}, loader included", speed_table(found['speed'])]
    if 'speed-rest' in found: parts.append(speed_table(found['speed-rest']))
    if 'profile' in found: parts += ['### Where the time goes: ' + ', '.join(str(v) for v in found['profile']['row'].values()), profile_table(found['profile'])]
    if runs := trainings(results, about['device']): parts += ['### Trainings', runs]
    return '\n\n'.join(parts)


def pages(home: Path) -> list[str]: # Markdown
    "A section for each card that was measured, or a sentence that none was."
    found = [card_page(folder, home/'results') for folder in sorted((home/'benchmarks'/'gpu').glob('*/'))]
    return [page for page in found if page] or ['## Graphics cards\n\nNot measured on a GPU yet. `make gpu DATA=/path/to/photos` measures one; [GPU.md](GPU.md) says how.']
