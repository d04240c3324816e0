"""Configuration files agree with each other, and what is built from them works where the checkout is not."""
import ast, json, os, shutil, site, sys, tomllib, venv, zipfile
from functools import partial
from pathlib import Path
import pytest
from nbdev.config import get_config
from importlib.metadata import packages_distributions
import numpy as np
from PIL import Image
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from notebooks_alone import brought_by

NAME = 'colorization_pix2pix'


@pytest.fixture(scope='module')
def pyproject(root): return tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def project(pyproject): return pyproject['project']


@pytest.fixture(scope='module')
def modules(root): return sorted('.'.join(p.relative_to(root).with_suffix('').parts[1:]) for p in (root/NAME).glob('*/*.py') if not p.stem.startswith('_'))


def version_of(package: Path):
    "`__version__` of a package, read without importing it."
    tree = ast.parse((package/'__init__.py').read_text(encoding='utf-8'))
    return next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == '__version__')


def requirements(lines): return {(r.name, frozenset(r.extras), r.specifier) for r in map(Requirement, lines)}


def test_both_nbdev_versions_read_the_same(root, settings):
    config = get_config(root)
    for key in 'lib_name user repo git_url version min_python description author branch title'.split():
        assert settings[key] == str(getattr(config, key)), key
    for key in 'lib_path', 'nbs_path': assert root/settings[key] == config.path(key), key
    assert settings['keywords'].split() == list(config.keywords)
    assert settings['tst_flags'].split() == config.tst_flags.split()
    assert (settings['doc_host'], settings['doc_baseurl']) == (config.doc_host, config.doc_baseurl) == ('', '/')
    assert settings['update_pyproject'] == 'False' and config.update_pyproject is False


def test_name_licence_and_addresses_agree(settings, pyproject, project):
    assert settings['lib_name'] == project['name'] == NAME
    assert (settings['license'], project['license']) == ('apache2', 'Apache-2.0')
    assert project['urls'] == {'Repository': f"https://github.com/{settings['user']}/{settings['repo']}"}
    assert pyproject['tool']['setuptools']['packages']['find']['include'] == [settings['lib_path'] + '*'] # its sub-packages too


def test_version_has_one_source(root, settings, pyproject, project):
    assert project['dynamic'] == ['version']
    assert pyproject['tool']['setuptools']['dynamic']['version'] == {'attr': f'{NAME}.__version__'}
    assert settings['version'] == version_of(root/NAME)
    assert project['requires-python'] == f">={settings['min_python']}"


def test_requirements_agree(settings, project):
    assert requirements(settings['requirements'].split()) == requirements(project['dependencies'])
    assert requirements(settings['dev_requirements'].split()) == requirements(project['optional-dependencies']['dev'])


def test_console_scripts_agree(settings, project):
    pairs = [line.split('=', 1) for line in settings['console_scripts'].strip().splitlines()]
    assert {name.strip(): target.strip() for name, target in pairs} == project['scripts'] == {'colorize': f'{NAME}.inference.cli:main'}


def test_dev_brings_what_the_tests_need(project):
    "Its own extras by their names, so that a requirement is written once."
    optional = project['optional-dependencies']
    assert {'train', 'pretrained'} <= next(r.extras for r in map(Requirement, optional['dev']) if r.name == NAME)
    assert project['requires-python'] == '>=3.11' and 'torch' in {Requirement(r).name for r in optional['train']}


def test_licence_is_apache_2(root):
    text = (root/'LICENSE').read_text(encoding='utf-8')
    assert 'Apache License\n                           Version 2.0, January 2004' in text
    assert 'APPENDIX: How to apply the Apache License to your work.' in text


def test_ci_runs_the_newcomers_command(root):
    assert os.access(root/'.ci/run', os.X_OK)
    assert 'make test' in (root/'.ci/run').read_text().splitlines()
    workflows = {p.stem: p.read_text() for p in (root/'.github'/'workflows').iterdir()}
    assert 'run: .ci/run' in workflows['test'] and 'run: make test-all' in workflows['test-all'] and 'schedule:' in workflows['test-all']


@pytest.fixture(scope='module')
def wheel(copy_checkout, run, tmp_path_factory):
    "The wheel, built from a copy because setuptools writes beside its source, and without isolation because that needs a download."
    copy = copy_checkout(tmp_path_factory.mktemp('wheel')/'checkout')
    run(sys.executable, '-m', 'build', '--wheel', '--no-isolation', cwd=copy)
    (built,) = (copy/'dist').glob('*.whl')
    return built


def test_wheel_holds_the_package_and_nothing_else(root, wheel, settings, modules):
    names = zipfile.ZipFile(wheel).namelist()
    info = f"{NAME}-{settings['version']}.dist-info"
    package = {n for n in names if not n.startswith(info + '/')}
    assert {f'{NAME}/{m.replace(".", "/")}.py' for m in modules} | {f'{NAME}/__init__.py', f'{NAME}/_modidx.py'} <= package
    pictures = {p.relative_to(root).as_posix() for p in (root/NAME/'data'/'gallery').glob('*.jpg')} # those that may be shown
    assert pictures <= package
    assert {n for n in package if not n.startswith(NAME + '/') or Path(n).suffix not in ('.py', '.safetensors', '.onnx') and n not in {f'{NAME}/MODEL_CARD.md', f'{NAME}/LIMITS.txt'} | pictures} == set()
    assert f'{info}/licenses/LICENSE' in names
    weights = {p.relative_to(root).as_posix() for end in ('safetensors', 'onnx') for p in (root/NAME).rglob(f'*.{end}')}
    assert weights == {n for n in package if Path(n).suffix in ('.safetensors', '.onnx')}


def clean_environment(): return {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}


@pytest.fixture(scope='module')
def installed(wheel, run, tmp_path_factory):
    """A new environment holding the wheel, which finds everything else in this one.

    The .pth file comes after the install, or pip would find this environment's editable install and do nothing. A .pth line adds a folder
    without reading the .pth files in it, so the editable install of the checkout does not leak in."""
    home = tmp_path_factory.mktemp('installed')/'env'
    venv.create(home, with_pip=False)
    python = home/'bin'/'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', wheel, cwd=home, env=clean_environment())
    (packages,) = home.glob('lib/python*/site-packages')
    (packages/'borrowed.pth').write_text('\n'.join(p for p in site.getsitepackages() if Path(p).is_dir()))
    return home


def test_installed_wheel_imports_away_from_the_checkout(installed, run, modules, tmp_path):
    lines = [f'import {NAME}.{m} as m; print(m.__file__)' for m in modules]
    files = run(installed/'bin'/'python', '-c', '\n'.join(lines), cwd=tmp_path, env=clean_environment()).split('\n')[-len(modules)-1:-1]
    assert modules and all(Path(f).is_relative_to(installed) for f in files), files


COLORIZE = """
import json, sys
sys.modules['defusedxml'] = None # Pillow imports it where it happens to be, and must do without it here
before = set(sys.modules)
from colorization_pix2pix.inference.cli import main
import colorization_pix2pix.inference.colorizer
if main(sys.argv[1:]): sys.exit('a photograph was refused')
print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))
"""


def test_colorize_imports_only_what_pip_install_brings(installed, project, run, tmp_path):
    "Without any extra: one photograph, then a folder, which has a bar, with a TIFF of a kind that Pillow does not read."
    import tifffile
    gray = np.linspace(0, 255, 64*48).reshape(48, 64)
    (tmp_path/'album').mkdir()
    Image.fromarray(gray.astype(np.uint8)).save(tmp_path/'album'/'a.jpg')
    tifffile.imwrite(tmp_path/'album'/'b.tif', (gray/255).astype(np.float32), photometric='minisblack')
    base, of = brought_by(project['dependencies'], set()), packages_distributions()
    for photos in 'album/a.jpg', 'album':
        out = run(installed/'bin'/'python', '-c', COLORIZE, tmp_path/photos, '--out', tmp_path/'out', '--jobs', '1', cwd=tmp_path, env=clean_environment())
        foreign = {m for m in json.loads(out.splitlines()[-1]) if m in of and not base & set(map(canonicalize_name, of[m]))} - {NAME}
        assert not foreign, f'{photos}: {foreign} would have to be installed'
    assert len(list((tmp_path/'out').iterdir())) == 2


WITHOUT_TRAIN = """
import importlib, json, sys
for name in 'torch torchvision fastai fastcore skimage scipy matplotlib safetensors timm'.split(): sys.modules[name] = None
from colorization_pix2pix.core.errors import MissingExtra
found = {}
for room in sys.argv[1:]:
    try: importlib.import_module(f'colorization_pix2pix.{room}'); found[room] = 'imported'
    except MissingExtra as e: found[room] = str(e)
    except ImportError as e: found[room] = f'no sentence: {e}'
print(json.dumps(found))
"""


def test_rooms_that_train_say_what_to_install(root, modules, run, tmp_path):
    found = json.loads(run(sys.executable, '-c', WITHOUT_TRAIN, *modules, cwd=root))
    for room, said in found.items():
        if room.startswith('inference.') or room in ('core.errors', 'core.storage', 'data.image_files'): assert said == 'imported', room
        if room.partition('.')[0] in ('models', 'metrics', 'training', 'experiments') or room in ('core.color', 'data.photos'): assert f"pip install '{NAME}[train]'" in said, room
        assert not said.startswith('no sentence'), f'{room}: {said}'


@pytest.mark.slow
def test_train_in_a_fresh_environment(root, wheel, run, modules, tmp_path):
    "What `pip install 'colorization_pix2pix[train]'` brings is enough for every room, the command and two lessons, away from the checkout. Takes minutes and 7 GB."
    home, away = tmp_path/'env', tmp_path/'away'
    venv.create(home, with_pip=True)
    env = clean_environment() | {'COLORIZATION_CACHE': str(tmp_path/'cache'), 'MPLBACKEND': 'agg', 'CUDA_VISIBLE_DEVICES': ''}
    try:
        python = partial(run, home/'bin'/'python', cwd=away, env=env, timeout=3600)
        (away/'nbs'/'course').mkdir(parents=True)
        for lesson in ('01_color_spaces', '06_losses', '09_lab_baseline'): shutil.copy(root/'nbs'/'course'/f'{lesson}.ipynb', away/'nbs'/'course')
        python('-m', 'pip', 'install', '--quiet', f'{wheel}[train]')
        python('-c', '\n'.join(f'import {NAME}.{m}' for m in modules))
        assert 'L1+cGAN' in python('-m', f'{NAME}.experiments.cli', '--preset', 'smoke', '--seeds', '1')
        for lesson in ('01', '06'): python('-m', f'{NAME}.experiments.cli', '--notebook', lesson)
    finally: shutil.rmtree(home)


def test_the_wheel_may_be_published(wheel, run):
    pytest.importorskip('twine', reason='twine is not installed')
    run(sys.executable, '-m', 'twine', 'check', '--strict', wheel, cwd=wheel.parent)


def test_installed_colorize_shows_its_help(installed, run, tmp_path):
    assert 'usage: colorize' in run(installed/'bin'/'colorize', '--help', cwd=tmp_path, env=clean_environment())
