"""benchmarks/README.md, from the measured files."""
import json, statistics
from collections.abc import Callable
from pathlib import Path

from colorization_pix2pix.experiments.figures import markdown_table
from gpu_speed import pages, profile_table

HOME = Path(__file__).resolve().parent


def number(value: float, like: float) -> str:
    "With digits as `like` needs them."
    return f'{value:,.{0 if like >= 100 else 1 if like >= 10 else 3}f}'


def spread(values: list[float]) -> list[str]:
    "Median, smallest and largest."
    return [number(v, min(values)) for v in (statistics.median(values), min(values), max(values))]


def against(values: list[float], first: list[float]) -> str:
    "Median, smallest and largest of the ratios, round by round."
    ratios = sorted(v / f for v, f in zip(values, first))
    return f'{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})'


def table(rows: dict[str, list[float]], unit: str, also: int=0) -> str:
    "Each row with its ratio to the first, and to the one with the number `also`."
    several = [list(rows.values())[i] for i in ([0, also] if also else [0])]
    heads = ['against the first', 'against the second'][:len(several)]
    return markdown_table([['', unit, 'smallest', 'largest', *heads], *([name, *spread(v), *(against(v, other) for other in several)] for name, v in rows.items())])


def seconds_table(rows: dict[str, list[float]]) -> str:
    return markdown_table([['', 'seconds', 'smallest', 'largest'], *([name, *spread(v)] for name, v in rows.items())])


# The parts of one device's file

def top(found: dict) -> float: return statistics.median(next(iter(found['peak'].values())))


def share(found: dict, name: str) -> float:
    "Of the peak: what a row of `training` multiplies."
    return statistics.median(found['training'][name]) * found['costs'][name]['gflop'] / top(found)


def trained(found: dict) -> str:
    "The training rows with what they cost and their share of the peak."
    rows = [['', 'images/s', 'smallest', 'largest', 'GFLOP an image', 'share of the peak', 'MB added']]
    for name, values in found['training'].items():
        cost = found['costs'].get(name)
        rows.append([name, *spread(values), *([f"{cost['gflop']:.2f}", f'{share(found, name):.0%}', f"{cost['megabytes']:.0f}"] if cost else [''] * 3)])
    return '### Training, loader included\n\n' + markdown_table(rows)


def whole_epochs(found: dict) -> str:
    rows = [['', 'pictures trained on', 'measured', 'images/s', 'smallest', 'largest', 'of that time in steps']]
    rows += [[name, f"{row['train']}", f"{row['valid']}", *spread(row['rate']), f"{row['steps']:.0%}"] for name, row in found['epochs'].items()]
    return '### A whole epoch: loader, steps, validation, checkpoint\n\n' + markdown_table(rows)


def changed(found: dict) -> str:
    return '\n\n'.join(f'### One thing changed: {name}\n\n' + table(rows, 'images/s') for name, rows in found['wins'].items())


def encoded(found: dict) -> str: return '### The colorizer, trained at 128x128, and what each saving brings\n\n' + table(found['encoder'], 'images/s', also=1)


def allocated(found: dict) -> str:
    names = {'small': 'small: 64x64, ngf 32, batch 32', 'colorizer': 'the colorizer at 128x128'}
    return '\n\n'.join(f"### glibc's allocator: {names[name]}\n\n" + table(rows, 'images/s') for name, rows in found['allocator'].items())


def multiplying(found: dict) -> str:
    "How much of a step multiplies, and how fast that part is; nothing for profiles of a card or from before this was noted."
    rows = [['', 'share of the peak', 'of the time in convolutions and products', 'their own share of the peak']]
    for name, seen in found['profiles'].items():
        if seen.get('products') and name in found['training'] and name in found['costs']: rows.append([name, f'{share(found, name):.0%}', f"{seen['products']:.0%}", f"{share(found, name) / seen['products']:.0%}"])
    what = 'The second column is of the time of all operations in three profiled steps; the third is the first divided by it, so that what Python takes between the operations counts as lost there.'
    return f'### What keeps a step from the peak\n\n{what}\n\n' + markdown_table(rows) if rows[1:] else ''


def profiled(found: dict) -> str:
    return '\n\n'.join(f'### Where the time of a step goes: {name}\n\n' + profile_table(seen) for name, seen in found['profiles'].items())


def batches(found: dict) -> str:
    what = "The first row is one process with one thread that does the work, the second two of them; ours are one process with torch's threads."
    return f'### From files to batches, 256x256\n\n{what}\n\n' + table(found['data'], 'images/s', also=1)


def colored(found: dict) -> str:
    "Both directions, with what was noted beside them."
    rows, notes = found['colour'], []
    if 'cores' in rows: notes.append('Cores that each keeps busy (processor seconds for each second, over five passes): ' + ', '.join(f'{name} {n:.1f}' for name, n in rows['cores'].items()) + '.')
    if 'versions' in rows: notes.append('Versions: ' + ', '.join(f'{name} {v}' for name, v in rows['versions'].items()) + '.')
    what = "scikit-image converts picture by picture in one thread, ours and kornia a batch of 8 with torch's threads, so the rows differ in threads as well as in code."
    return '\n\n'.join(['### Color conversion, 256x256', ' '.join([what, *notes]), table(rows['there'], 'images/s'), table(rows['back'], 'images/s')])


def staged(found: dict) -> str:
    return '\n\n'.join(f'### Colorizing, {name}\n\n' + seconds_table(rows) for name, rows in found['stages'].items())


def started(found: dict) -> str: return '### The command, cold\n\n' + seconds_table(found['start'])


def whole_commands(found: dict) -> str:
    rows = [[f'`{name}`', f'{s:,.0f}', f'{s / 60:.1f}'] for name, s in found['commands'].items()]
    return '### Whole commands\n\nOnce each, in a fresh clone with an empty cache, without the setup of `.venv`.\n\n' + markdown_table([['', 'seconds', 'minutes'], *rows])


SECTIONS: list[tuple[set[str], Callable[[dict], str]]] = [ # what each needs of the file
    ({'peak', 'training', 'costs'}, trained), ({'epochs'}, whole_epochs), ({'encoder'}, encoded), ({'allocator'}, allocated), ({'wins'}, changed), ({'peak', 'training', 'costs', 'profiles'}, multiplying), ({'profiles'}, profiled),
    ({'data'}, batches), ({'colour'}, colored), ({'stages'}, staged), ({'start'}, started), ({'commands'}, whole_commands)]


def about(found: dict) -> str:
    "Device, versions, commits, rounds."
    machine, distinct = found['machine'], lambda of: ' and '.join(str(v) for v in sorted(set(found[of].values())))
    text = f"## {machine['device']}\n\ntorch {machine['torch']}, python {machine['python']}, commit {distinct('commits')}, {distinct('rounds')} rounds."
    if 'peak' not in found: return text
    name, values = next(iter(found['peak'].items()))
    middle, least, most = spread(values)
    return f'{text} {name[0].upper()}{name[1:]}: {middle} GFLOP/s ({least} to {most}); the share of the peak is of its median.'


def page(found: dict) -> str:
    "What one device's file says; parts that were not measured are left out."
    return '\n\n'.join(text for text in [about(found), *(write(found) for needed, write in SECTIONS if needed <= found.keys())] if text)


# Measured by the notebooks

def compared(found: dict) -> str:
    "One comparison of `side_by_side`: what a picture takes is the first's rate over a row's, round by round."
    rates = found['images_per_second']
    first = next(iter(rates.values()))
    return markdown_table([['', 'images/s', 'smallest', 'largest', 'takes, times the first', 'MB added'],
                           *([name, *spread(v), against(first, v), f"{found['memory_mb'][name]:,.0f}"] for name, v in rates.items())])


def side_by_side(results: Path) -> list[str]:
    "A section for all comparisons that the notebooks have left under results/."
    parts = []
    for file in sorted(results.glob('*/speed/*.json')):
        found = json.loads(file.read_text(encoding='utf-8'))
        e = found['experiments'][0]
        parts.append(f"### {file.stem}, preset `{file.parent.parent.name}`\n\n{e['size']}x{e['size']}, batch {e['batch']}; {found['machine']['device']}, torch {found['machine']['torch']}, commit {found['commit']}, {found['rounds']} rounds of {found['steps']} steps.\n\n" + compared(found))
    return ['## Side by side, in the notebooks\n\nThe rows of a table took turns in one process. The name begins with the notebook that measured it and says why.', *parts] if parts else []


HEAD = '''# Speed

Made by `make bench` from the files in this folder. Each number is the median of some rounds; rows of one table were measured in turns, and a ratio between .9 and 1.1 is no difference on a machine like these.

The names. `seed001` is not a row of its own: its step is that of `full`, with the same networks at the same size, for more epochs. On a processor the pictures of 256x256 come in batches of 4, so the row `full` is the preset's step in a batch of 4 and not of 32. Its U-Net and PatchGAN (64 channels, 54.4 and 2.8 million parameters) have also the
shape of those in the tutorial that the project's document 003 points to, and the dynamic U-Net on a ResNet18 body is that tutorial's second network. "As tutorials write it" is our own re-creation of its step, not its program: a loop without fastai, two of torch's Adams as they come (not fused), pictures one by one through scikit-image, the losses read after each step,
the generator asked once for both networks; "fakes made twice" asks it again for its own half, as some programs do.

What others reach, for orientation, measured once on two cores of the first machine's kind, at another time and with their own programs: a reference implementation of pix2pix 1.3 images/s at 256x256 and batch 8, 3.3 images/s when it colors; a tutorial's dynamic U-Net step 4.7 seconds of one core for an image, its plain U-Net 1.8. The protocol of the project's document 001 took about 15 hours for 150 epochs of 7,129 pictures: 20 images/s on its graphics card.

What was read from the first machine's tables below, of which "What keeps a step from the peak" is the shortest. At 256x256 pix2pix's U-Net is at the processor's limit: its convolutions, nine tenths of the time, run at the peak itself. Everywhere else a step stays under 80 % of it, for one of two reasons. At 64x64 and 128x128 a fifth to a third of the time goes into everything that
multiplies no matrices (normalisation, copies, Adam, dropout; at 128x128 the distribution over colors and the drawn hints), and it weighs more the less there is to multiply: most for the colorizer, then for batches of 16 and for L1 alone, which has no discriminator. And convolutions of small maps or few channels fill a processor less than the square matrices that it is measured against: .81 to
.84 of the peak there, .78 to .80 in the dynamic U-Net at any size, whose body has many 3x3 convolutions of few channels. Of the known small wins, the fused Adam and
discriminators whose width follows the generator's are taken; the last deconvolution written as a sub-pixel convolution, exact and faster by itself, makes no difference to a step and is left out. Written as tutorials write it (two plain Adams, pictures one by one, a module at a time), the step is slower at 64x64, most of that by the loader, and no slower at 256x256, where the networks take all of the time; asking the generator twice costs what it should.

A whole epoch is slower than its steps, because the validation pictures are colored and measured in all that a result holds, and the checkpoint is written: about a quarter of the time in these short epochs, less in longer ones.

How all of it grows with size, batch, number and processes: [growth](growth-cpu-2-threads-amd-epyc.md), made by `make bench-growth`. Pixels a second rise up to 256x256 and are a tenth fewer at 512x512, which is within what this machine scatters by. Memory does not grow with the number of pictures, apart from the part of the cache file that the operating system keeps mapped and takes back.
Nor do pictures a second depend on their number: reading from the cache ran at 4,197, 4,069 and 4,280 images/s with 1,000, 10,000 and 100,000 pictures (medians of five passes; the first pass was no slower), drawing and caching at 398, 460 and 464 (with the tests running beside, so these speeds are low and only comparable with each other). Two processes on two cores are as fast as one with two threads, and take more memory: at most 2,093 MB together, where the one takes 1,248.
'''


def readme() -> str:
    "The page of all devices, from the files."
    files = sorted(f for f in HOME.glob('*.json') if not f.name.startswith('growth-'))
    return HEAD + '\n' + '\n\n'.join([*(page(json.loads(f.read_text(encoding='utf-8'))) for f in files), *side_by_side(HOME.parent/'results'), *pages(HOME.parent)]) + '\n'
