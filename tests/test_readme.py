"""README.md, in English and in Korean: short, its links and pictures there, its tables up to date, and what it shows runs."""
import json, re, shlex, subprocess, sys
import pytest
from PIL import Image
from colorization_pix2pix.data.scenes import draw_scenes
from colorization_pix2pix.experiments.readme import filled_pages
from notebooks_alone import HOW

FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.M | re.S)
COLAB = re.compile(r'https://colab\.research\.google\.com/github/[^\s)"\'>]+')
COLORIZE = 'import sys; from colorization_pix2pix.inference.cli import main; sys.exit(main(sys.argv[1:]))'
every_page = pytest.mark.parametrize('name', ['README.md', 'README.ko.md'])


def anchors(text):
    "The anchors GitHub gives to headings: lower case, punctuation dropped, spaces to hyphens."
    return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in re.findall(r'^#+ (.+?)\s*$', FENCE.sub('', text), re.M)}


def missing_links(root, name):
    "Relative links and pictures of a Markdown file that lead nowhere, or to what git ignores."
    text = FENCE.sub('', (root/name).read_text(encoding='utf-8'))
    targets = {t for t in re.findall(r'\]\(<?([^)\s>]+)>?[^)]*\)', text) + re.findall(r'^\[[^]]+\]: (\S+)', text, re.M) if not re.match(r'[a-z]+:|//', t)}
    files = sorted(t.split('#')[0] for t in targets if not t.startswith('#'))
    ignored = subprocess.run(['git', 'check-ignore', *files], cwd=root, capture_output=True, text=True).stdout.split() if files and (root/'.git').exists() else []
    return [f for f in files if not (root/f).exists()] + ignored + [t for t in targets if t.startswith('#') and t[1:] not in anchors(text)]


def test_it_has_at_most_10_kb(root): assert (root/'README.md').stat().st_size <= 10 * 1024


@every_page
def test_links_and_pictures_exist(root, name): assert not missing_links(root, name)


@every_page
def test_colab_badges_open_notebooks_that_exist(root, settings, name):
    urls, prefix = COLAB.findall((root/name).read_text(encoding='utf-8')), 'https://colab.research.google.com/github/{user}/{repo}/blob/{branch}/'.format(**settings)
    assert urls and not [u for u in urls if u != 'https://colab.research.google.com/assets/colab-badge.svg' and not (u.startswith(prefix) and (root/u.removeprefix(prefix)).is_file())]


def test_tables_are_up_to_date(root):
    "Running `make readme` would change nothing."
    if subprocess.run(['git', '-C', str(root), 'status', '--porcelain', '--', 'results'], capture_output=True, text=True).stdout: pytest.skip('results/ was regenerated here and is not the committed one')
    assert not [path.name for path, text in filled_pages(root).items() if path.read_text(encoding='utf-8') != text], 'run make readme'


def test_every_notebook_of_the_course_says_what_it_takes(root):
    "In its first cell, generated from results/course/run_all.json, which names no notebook that is gone."
    paths = sorted((root/'nbs'/'course').glob('*.ipynb'))
    assert not [p.name for p in paths if not re.search(r'<!-- takes -->\n\n\d+ minutes of reading\. .*\n\n<!-- /takes -->$', ''.join(json.loads(p.read_text(encoding='utf-8'))['cells'][0]['source']))]
    found = json.loads((root/'results'/'course'/'run_all.json').read_text(encoding='utf-8'))
    assert found.keys() - {'format', 'how'} <= {p.stem for p in paths} and found['how'] == HOW


@every_page
def test_the_quick_start_runs(root, run, tmp_path, name):
    "In a folder with photo.jpg and a folder family; the page for the browser is only asked whether it would start."
    blocks = FENCE.findall((root/name).read_text(encoding='utf-8'))
    (tmp_path/'family'/'1950').mkdir(parents=True)
    for path in ('photo.jpg', 'family/aunt.jpg', 'family/1950/uncle.jpg'): Image.fromarray(draw_scenes(1, 100)[0]).convert('L').save(tmp_path/path) # without the mark of our own results
    lines = [shlex.split(line, comments=True) for kind, body in blocks if kind == 'sh' for line in body.splitlines() if line.startswith('colorize ')]
    assert len(lines) >= 3
    for line in lines: run(sys.executable, '-c', COLORIZE, *(['--help'] if '--web' in line else line[1:]), cwd=tmp_path)
    assert (tmp_path/'photo_colorized.jpg').exists() and len([p for p in (tmp_path/'colored').rglob('*') if p.is_file()]) == 2
    if python := '\n'.join(body for kind, body in blocks if kind == 'python'):
        run(sys.executable, '-c', python, cwd=tmp_path)
        assert (tmp_path/'photo in color.png').exists()
