"""Everything README.md shows exists and runs.

Python blocks marked ```python runnable are run together, in order, in an empty folder; unmarked ones must at least be valid Python."""
import re, subprocess, sys
from pathlib import Path
import pytest

FENCE = re.compile(r'^```([^\n]*)\n(.*?)^```', re.M | re.S)
COLAB = re.compile(r'https://colab\.research\.google\.com/github/[^\s)"\'>]+')


@pytest.fixture(scope='module')
def readme(root):
    assert (root/'README.md').exists(), 'README.md is missing'
    return (root/'README.md').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def makefile(root): return (root/'Makefile').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def commands(readme):
    "Every line the README shows as code, in fences (shell continuations joined) and in `backticks`; Python fences left out."
    fenced = [body for info, body in FENCE.findall(readme) if not info.startswith('python')]
    lines = [line.strip() for body in fenced for line in body.replace('\\\n', ' ').splitlines()]
    return lines + re.findall(r'`([^`\n]+)`', FENCE.sub('', readme))


def anchors(text):
    "The anchors GitHub gives to headings: lower case, punctuation dropped, spaces to hyphens."
    return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in re.findall(r'^#+ (.+?)\s*$', FENCE.sub('', text), re.M)}


def test_promises_name_tests_that_exist_and_the_limits_they_hold(root, readme):
    "A named test is in the file whose link follows it at once, else in tests/test_robustness.py."
    section = readme.partition('## What we promise about a training')[2].partition('\n## ')[0]
    promises = [line for line in section.splitlines() if line.startswith('- *')]
    named = re.findall(r'`(test_\w+)`(?: in \[(tests/\w+\.py)\])?', section)
    assert len(promises) == 7 and all('`test_' in p or 'hypothesis' in p for p in promises)
    for name, file in named: assert f'def {name}(' in (root/(file or 'tests/test_robustness.py')).read_text(encoding='utf-8'), name
    psnr, ssim, ciede, color = re.search(r'TOLERANCE = dict\(psnr=([.\d]+), ssim=([-.\de]+), ciede2000=([.\d]+), colourfulness=([.\d]+)\)', (root/'tests'/'test_robustness.py').read_text(encoding='utf-8')).groups()
    assert f"less than {psnr} dB of PSNR, {f'{float(ssim):.4f}'[1:]} of SSIM, {ciede} of CIEDE2000 and {color} of colorfulness" in section


def test_relative_links_and_images_exist(root, readme):
    prose = FENCE.sub('', readme)
    targets = re.findall(r'\]\(<?([^)\s>]+)>?[^)]*\)', prose) + re.findall(r'(?:src|href|srcset)="([^"\s]+)"', prose)
    relative = {t for t in targets if not re.match(r'[a-z]+:|//', t)}
    gone = {t for t in relative if not t.startswith('#') and not (root/t.split('#')[0]).exists()}
    assert not gone, f'README.md links to {gone}, which is not there'
    assert not {t for t in relative if t.startswith('#') and t[1:] not in anchors(readme)}, 'README.md links to a heading it does not have'
    if not (root/'.git').exists(): return
    files = sorted(t.split('#')[0] for t in relative if not t.startswith('#'))
    ignored = subprocess.run(['git', 'check-ignore', *files], cwd=root, capture_output=True, text=True).stdout.split() if files else []
    assert not ignored, f'README.md links to {ignored}, which git ignores: nobody else has them'


def test_colab_badges_open_notebooks_that_exist(root, readme, settings):
    urls, prefix = COLAB.findall(readme), 'https://colab.research.google.com/github/{user}/{repo}/blob/{branch}/'.format(**settings)
    assert urls, 'README.md has no Colab badge'
    assert not [u for u in urls if not u.startswith(prefix) or not (root/u.removeprefix(prefix)).is_file()]


def test_make_targets_and_variables_exist(commands, makefile):
    shown = [m.groups() for c in commands for m in re.finditer(r'\bmake ([a-z][\w-]*)((?: +[A-Z]+=\S*)*)', c)]
    targets = set(re.findall(r'^([a-z][\w-]*):', makefile, re.M))
    variables = set(re.findall(r'^([A-Z]+) *\?=', makefile, re.M))
    assert {'test', 'reproduce'} <= {target for target, _ in shown} <= targets
    assert set(re.findall(r'([A-Z]+)=', ' '.join(v for _, v in shown))) <= variables


def test_colorize_options_exist(commands, run, tmp_path):
    shown = [c for c in commands if re.search(r'(?:^|[\s/])colorize ', c)]
    assert shown, 'README.md does not show how to colorize a photo'
    options = {o for c in shown for o in re.findall(r'(?<!\S)(--?[a-z][\w-]*)', c.split('colorize ', 1)[1])}
    show = "import sys; from colorization_pix2pix.inference.cli import main; sys.argv = ['colorize', '--help']; main()"
    known = set(re.findall(r'(?<![\w-])--?[a-z][\w-]*', run(sys.executable, '-c', show, cwd=tmp_path)))
    assert options <= known, f'colorize has no {options - known}'


def make_weights_and_photo(folder):
    "The two files that the README's Python block speaks of."
    import torch
    from colorization_pix2pix.models.io import build_generator
    from colorization_pix2pix.models.io import save_generator
    from colorization_pix2pix.data.image_files import write_picture
    from colorization_pix2pix.data.scenes import draw_scenes
    torch.manual_seed(0)
    experiment = dict(generator='unet', arch='resnet18', space='lab', size=64, ngf=8, dropout=.5)
    save_generator(folder/'weights.safetensors', build_generator('unet', 1, 2, 64, ngf=8), experiment)
    write_picture(draw_scenes(1, 100)[0], folder/'photo.jpg')


def test_python_blocks_are_valid_and_runnable_ones_run(readme, run, tmp_path):
    blocks = [(info, body) for info, body in FENCE.findall(readme) if info.split()[:1] == ['python']]
    for _, body in blocks: compile(body, '<block of README.md>', 'exec')
    make_weights_and_photo(tmp_path)
    run(sys.executable, '-c', '\n'.join(body for info, body in blocks if 'runnable' in info.split()), cwd=tmp_path)
    assert (tmp_path/'photo in color.png').exists()
