"""What is committed under results/ is whole, and the notebooks and images/ say what it says."""
import gzip, hashlib, json, math, re, shutil, subprocess
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from PIL import Image
from colorization_pix2pix.experiments import figures, saturation
from colorization_pix2pix.experiments.cli import run_notebook
from colorization_pix2pix.experiments.config import SEEDS, experiment_from, gallery, run_name
from colorization_pix2pix.experiments.figures import by_name, caption, figure_table, metrics_table, read_results
from colorization_pix2pix.experiments.readme import FIVE, claims_table
from colorization_pix2pix.experiments.saturation import study_table

PRESETS = {'quick': 'drawn-scenes', 'small': 'landscapes'} # what is committed: preset and the slug of its data
NAMES = 'L1+cGAN', 'L1' # what notebook 09 runs; other notebooks add to the same folders
BASELINE = {'quick': 2, 'small': 8} # seeds of notebook 09's two arms
CONTENT = {'quick': '107dff7be4859fd3', 'small': 'c4ecb826fb846c75'} # its pictures; runs on others may lie beside


def numbers(value):
    "All numbers in a nested result."
    if isinstance(value, dict): value = list(value.values())
    if isinstance(value, list): return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, (int, float)) else []


def skip_if_regenerated(root, preset):
    "`make reproduce` writes its own numbers over the committed ones; notebooks and pages then speak of others."
    git = ['git', '-C', str(root), 'status', '--porcelain', '--', f'results/{preset}'] # files of one's own runs as well
    if subprocess.run(git, capture_output=True, text=True).stdout: pytest.skip(f'results/{preset} was regenerated here and is not the committed one')


@pytest.fixture(params=PRESETS)
def preset(request, root):
    skip_if_regenerated(root, request.param)
    return request.param


@pytest.fixture
def results(root, preset): return [r for r in read_results(root/'results'/preset, CONTENT[preset]) if r['experiment']['name'] in NAMES]


@pytest.fixture
def everything(root, preset): return read_results(root/'results'/preset, CONTENT[preset])


def test_baseline_rows_can_be_compared(results, preset):
    "Same seeds, same steps."
    assert len({r['experiment']['epochs'] for r in results}) == 1
    for runs in by_name(results).values(): assert len(runs) == BASELINE[preset] and [r['experiment']['seed'] for r in runs] == list(range(len(runs)))


def test_every_result_is_whole(everything, preset):
    "Same pictures, seeds from 0 up, clean commits, real numbers, a monitor's word at every reported epoch."
    assert {r['experiment']['preset'] for r in everything} == {preset}
    for same in (lambda r: {k: v for k, v in r['data'].items() if k != 'split'}, lambda r: r['floors']['grey copy']): # which split was taken is noted since 0.2
        assert all(same(r) == same(everything[0]) for r in everything)
    assert all(len({r['experiment']['batch'] for r in runs}) == 1 for runs in by_name(everything).values())
    for r in everything: # the mean color is that of the training squares, which notebook 17 keeps larger
        assert r['floors'] == next(o for o in everything if o['experiment']['load_size'] == r['experiment']['load_size'])['floors']
    for runs in by_name(everything).values(): assert [r['experiment']['seed'] for r in runs] == list(range(len(runs)))
    for r in everything:
        assert list(r['monitor']) == list(r['realism']) == list(r['epochs'])
        assert not r['commit'].endswith('+changes') and r['seconds'] > 0
        assert list(r['epochs']) == [str(e) for e in r['experiment']['report']]
        assert all(math.isfinite(n) for n in numbers(r))
        assert len(r['per_picture']['ciede2000']) == r['data']['valid']
        last = r['epochs'][str(r['experiment']['epochs'])]
        assert np.mean(r['per_picture']['ciede2000']) == pytest.approx(last['ciede2000'], abs=.01)


def test_a_notebook_shows_the_table(root, results, preset):
    "Notebook 09 in an output, for photographs; that of `make reproduce` in its text, for drawn scenes."
    if preset == 'quick': assert any(metrics_table(results, last_only=True) in text for text in sources(root/'nbs'/'reference'/'experiments'/'cli.ipynb'))
    else: assert metrics_table(results) in shown_by(root/'nbs'/'course'/'09_lab_baseline.ipynb')


def test_images_are_made_from_the_samples(root, results, preset, tmp_path):
    "Mosaics made anew from the committed samples are the committed ones, up to JPEG's rounding on another machine."
    shown = gallery('scenes' if preset == 'quick' else 'photographs')
    for name, runs in by_name(results).items():
        prefix = f"09-{preset}-{PRESETS[preset]}-{name.lower().replace('+', '-')}"
        images = tmp_path/name/'images'
        images.parent.mkdir()
        table = figure_table(runs[0], root/'results'/preset, shown, images, prefix)
        assert table.replace('(images/', '(') in (root/'images'/f'{prefix}.md').read_text(encoding='utf-8')
        assert len(made := list(images.glob('*.jpg'))) == 2 + len(runs[0]['epochs'])
        for path in made:
            a, b = (np.asarray(Image.open(folder/path.name), float) for folder in (images, root/'images'))
            assert a.shape == b.shape and np.abs(a - b).mean() < 1, path.name


def test_what_is_said_about_the_baseline_holds(root):
    "The sentences about the baseline stand on all seeds, not on their mean; the numbers in them are read where they stand."
    skip_if_regenerated(root, 'small')
    results = by_name(read_results(root/'results'/'small', CONTENT['small']))
    grey = results['L1'][0]['floors']['grey copy']['ciede2000']
    last = {name: [r['epochs']['10'] for r in results[name]] for name in ('L1', 'L1+cGAN')}
    assert all(r['ciede2000'] < grey - 1 for r in last['L1'])
    assert all(abs(r['ciede2000'] - grey) < 1 for r in last['L1+cGAN'])
    assert min(r['colourfulness'] for r in last['L1+cGAN']) > max(r['colourfulness'] for r in last['L1'])
    source, = [text for path in notebooks(root) if path.name.endswith('lab_baseline.ipynb') for text in sources(path) if 'the seeds have' in text]
    said = re.search(r'the seeds have ([\d., ]+)\) is that of the gray copy.*better in each seed, by ([\d., and]+), with', source)
    leads = [f"{g['ciede2000'] - l['ciede2000']:.1f}" for g, l in zip(last['L1+cGAN'], last['L1'])]
    assert re.findall(r'\d+\.\d+', said[2]) == leads
    assert re.findall(r'\d+\.\d+', said[1]) == [f"{g['ciede2000']:.2f}" for g in last['L1+cGAN']]


def notebooks(root): return sorted((root/'nbs').rglob('*.ipynb'))


def sources(path): return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]


def shown_by(path):
    "The Markdown outputs of a notebook."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [''.join(o['data']['text/markdown']) for c in cells for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})]


def rows(text):
    "The rows of a Markdown table, without its layout; the first is its heading."
    lines = [tuple(cell.strip() for cell in line.strip('|').split('|')) for line in text.splitlines() if line.startswith('|')]
    return [line for line in lines if set(''.join(line)) != {'-'}]


def test_tables_in_notebooks_are_those_of_the_results(root):
    "Each row of numbers, and the sentence under it with seeds, device and commit: made anew from results/small, from as many seeds as the notebook names."
    skip_if_regenerated(root, 'small')
    named = by_name(read_results(root/'results'/'small', CONTENT['small']))
    studies = by_name(sorted((json.loads(p.read_text(encoding='utf-8')) for p in (root/'results'/'small'/'study').glob('*.json')), key=lambda r: r['experiment']['seed']))
    some = lambda runs: [runs[:n] for n in range(1, len(runs) + 1)]
    made = [metrics_table(few) for runs in named.values() for few in some(runs)] + [study_table({name: few}) for name, runs in studies.items() for few in some(runs)]
    known, headings, old, found = {row for table in made for row in rows(table)}, {rows(table)[0] for table in made}, [], 0
    for path in notebooks(root):
        if CONTENT['small'] not in path.read_text(encoding='utf-8'): continue
        for text in shown_by(path):
            if not rows(text) or rows(text)[0] not in headings: continue
            found += 1
            old += [(path.name, row) for row in rows(text) if row not in known]
            told = re.search(r'runs: (.+?) \(±', text)
            if told:
                runs = [r for name, n in re.findall(r'(.+?) (\d+) seeds?(?:, |$)', told[1]) for r in named[name][:int(n)]]
                if caption(runs) not in text: old.append((path.name, text.splitlines()[-1]))
    assert found >= 10 and not old, f'{old}: run these notebooks anew, or take their results back'


@pytest.fixture(scope='module')
def verdicts(root):
    "The names that notebook 19 leaves behind, run on the results that lie here; what it writes goes to a temporary folder."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('IN_TEST', '1')
        patch.setenv('MPLBACKEND', 'agg')
        patch.chdir(root)
        return run_notebook(root/'nbs'/'course'/'19_verdicts.ipynb')


def test_verdicts_are_what_the_results_say(root, verdicts):
    "The notebook shows the table that results/ give, its file holds the same, the README five of its primary rows with their verdicts, and no verdict stands on one seed."
    skip_if_regenerated(root, 'small')
    now, committed = (json.loads(p.read_text(encoding='utf-8')) for p in (verdicts['verdicts'], root/'results'/'small'/'verdicts'/'claims.json'))
    assert now['about'] == committed['about'] and len(now['rows']) == len(committed['rows'])
    for new, old in zip(now['rows'], committed['rows']): assert {k: v for k, v in new.items() if not isinstance(v, float)} == {k: v for k, v in old.items() if not isinstance(v, float)} and numbers(new) == pytest.approx(numbers(old), rel=1e-6)
    assert verdicts['table'] in shown_by(root/'nbs'/'course'/'19_verdicts.ipynb'), 'run 19_verdicts.ipynb anew'
    found, results = verdicts['found'], verdicts['by_name'](verdicts['results'])
    primary = {(c.measure, c.plus, c.minus): c.verdict for _, c in found[found.primary].iterrows()}
    page = [row[3].strip('*') for row in rows(claims_table(root))[1:]]
    assert len(FIVE) == 5 and page == [primary[key] for key in FIVE]
    for _, c in found[~found.verdict.isin(['not decided', 'open']) & ~found.measure.str.startswith('seconds')].iterrows():
        arms = [a.removesuffix(' x fitted') for a in (c.plus, c.minus) if isinstance(a, str)]
        for runs in (results[a] for a in arms if a in results): assert len({r['experiment']['seed'] for r in runs}) >= 2, c.claim


def test_every_claim_about_pictures_asks_other_pictures(root, verdicts):
    "Only the rows that the notebook names stand on seeds alone: timings, earlier epochs, the best picture, the lesson. A study that is older than its draws is to be made anew."
    skip_if_regenerated(root, 'small')
    found = verdicts['found']
    alone = found.measure[found['count'].gt(0) & found.pictures_from.isna()]
    assert len(alone) < len(found) and not [m for m in alone if '@' not in m and not m.startswith('seconds') and m not in ('psnr_max', 'near_a_mode')]


def test_arms_of_the_claims_exist(root, verdicts):
    "Every arm that a claim names is one that a notebook trains."
    trained = ''.join(text for path in notebooks(root) for text in sources(path))
    arms = {re.sub(' x fitted|, (fitted|lookup|best control)$', '', a) for k in ('plus', 'minus') for a in verdicts['claims'][k] if isinstance(a, str)} - {'truth', 'grey copy', 'lesson'}
    assert len(arms) > 9 and not [a for a in arms if f"name='{a}'" not in trained]


@pytest.mark.parametrize('notebook', ['rgb_vs_lab', 'losses_compared'])
def test_minutes_of_a_run_are_those_of_the_results(root, notebook):
    "'5 to 11 minutes for each of the 18 runs, 7 in the mean': the shortest, the longest and the mean of the arms that the notebook names."
    skip_if_regenerated(root, 'small')
    source, = [''.join(sources(p)) for p in notebooks(root) if p.name.endswith(f'{notebook}.ipynb')]
    named = by_name(read_results(root/'results'/'small', CONTENT['small']))
    minutes = [r['seconds'] / 60 for name in set(re.findall(r"name='([^']+)'", source)) for r in named[name][:SEEDS['small']]]
    said, = re.findall(r'(\d+) to (\d+) minutes for each of the (\d+) runs, (\d+) in the mean', source)
    assert [int(n) for n in said] == [round(n) for n in (min(minutes), max(minutes), len(minutes), np.mean(minutes))]


def test_headings_are_spelled_as_the_text():
    "Titles of panels and columns come from these tables; keys of result files are spelled as they were."
    headings = [heading for table in (figures.COLUMNS, saturation.COLUMNS) for heading, _ in table.values()] + list(figures.PARTS.values())
    assert not [h for h in headings if re.search('grey|colour|_', h)]


def test_no_notebook_waits_for_its_reading(root):
    for path in notebooks(root): assert '@READING@' not in path.read_text(encoding='utf-8'), path.name


def test_figure_tables_are_linked(root):
    "Every figure table in images/ can be reached from the index."
    index = (root/'nbs'/'index.ipynb').read_text(encoding='utf-8')
    listed = subprocess.run(['git', '-C', str(root), 'ls-files', 'images/*.md'], capture_output=True, text=True).stdout.split()
    tables = [name.removeprefix('images/') for name in listed]
    assert tables and not [name for name in tables if f'images/{name}' not in index]


def test_names_still_mean_the_same(everything):
    "A changed default would give an old run's name to a new experiment."
    for r in everything:
        photos = SimpleNamespace(content=r['data']['content'])
        assert run_name(experiment_from(r['experiment']), photos) == r['name']


def test_every_mutant_that_lives_is_explained(root):
    "tests/mutants.py was run in full, and the promises tell what came of it."
    found, promises = json.loads((root/'results'/'robustness'/'mutants.json').read_text()), (root/'nbs'/'reference'/'experiments'/'promises.ipynb').read_text(encoding='utf-8')
    noticed = found['notebook'] + found['pytest']
    assert found['mutants'] == noticed + len(found['survivors']) == sum(found['rooms'].values()) and all(s['why'] for s in found['survivors'])
    assert f"{noticed} of {found['mutants']} small changes" in promises


# What it was measured on

@pytest.mark.parametrize('name, result', [('landscapes', 'small/l1-seed0-71c0b7f2.json')])
def test_sources_list_the_pictures_of_the_results(root, name, result):
    listed = pd.read_csv(root/'results'/'sources'/f'{name}.csv.gz')
    data = json.loads((root/'results'/result).read_text(encoding='utf-8'))['data']
    assert listed.file.str.split('/').str[0].value_counts().to_dict() == {part: data[part] for part in ('train', 'valid')}
    for column in 'sha1', 'source_sha1': assert listed[column].is_unique and listed[column].str.fullmatch('[0-9a-f]{40}').all()


def test_sources_of_the_colorizer_are_both_lists(root):
    release = json.loads((root/'results'/'colorizer'/'release.json').read_text(encoding='utf-8'))
    assert {part['source']: part['train'] + part['valid'] for part in release['data']['parts']} == {f"folder '{name}'": len(pd.read_csv(root/'results'/'sources'/f'{name}.csv.gz')) for name in ('landscapes', 'photos')}


@pytest.mark.skipif(not shutil.which('sha1sum'), reason='sha1sum is not installed')
def test_sources_can_be_checked_as_the_notebook_says(root, tmp_path):
    "The notebook's own command, on a stand-in for the set: silent where all is there, and naming a file that differs."
    said = next(s for c in json.loads((root/'nbs/reference/data/sources.ipynb').read_text(encoding='utf-8'))['cells'] if 'sha1sum --check' in (s := ''.join(c['source'])))
    commands = said.split('```bash')[1].split('```')[0].replace('/path/to/landscapes.sha1', f'{tmp_path}/landscapes.sha1').replace('/path/to/landscapes', f'{tmp_path}/set')
    (tmp_path/'set'/'train').mkdir(parents=True)
    rows = ['file,sha1,source']
    for name in 'train/1.jpg', 'train/2.jpg':
        (tmp_path/'set'/name).write_bytes(name.encode())
        rows.append(f'{name},{hashlib.sha1(name.encode()).hexdigest()},"a, b"')
    (tmp_path/'results'/'sources').mkdir(parents=True)
    (tmp_path/'results'/'sources'/'landscapes.csv.gz').write_bytes(gzip.compress('\n'.join(rows).encode() + b'\n'))
    check = lambda: subprocess.run(['bash', '-c', commands], cwd=tmp_path, capture_output=True, text=True)
    assert (done := check()).returncode == 0 and done.stdout == '', done
    (tmp_path/'set'/'train'/'2.jpg').write_bytes(b'other')
    assert (done := check()).returncode and 'train/2.jpg' in done.stdout
