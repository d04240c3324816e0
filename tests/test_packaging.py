"""Configuration files agree with each other, and what is built from them works where the checkout is not."""
import ast, os, site, sys, tomllib, venv, zipfile
from pathlib import Path
import pytest
from nbdev.config import get_config
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

NAME = 'colorization_pix2pix'
FLOORS = {'torch': '>=2.6', 'torchvision': '>=0.21', 'fastai': '>=2.8.8,<3', 'fastcore': '>=2.2', 'scikit-image': '>=0.25', 'tifffile': '>=2023.1.23', 'scipy': '>=1.11', 'pillow': '>=11.3',
          'numpy': '>=2', 'matplotlib': '>=3.9', 'safetensors': '>=0.6', 'onnxruntime': '>=1.20', 'tqdm': ''}
EXTRAS = {'metrics': {'torchmetrics', 'lpips'}, 'onnx': {'onnx', 'onnxscript'}, 'demo': {'gradio', 'pillow-heif', 'filelock'}, 'data': {'kagglehub'},
          'heic': {'pillow-heif'}, 'jxl': {'pillow-jxl-plugin'}, 'raw': {'rawpy'}, 'dist': {'accelerate'}, 'ray': {'ray'}, 'dev': {'nbdev', 'jupyter', 'pytest', 'pytest-cov', 'coverage', 'hypothesis', 'accelerate', 'build', 'setuptools', 'onnx', 'onnxscript'}}


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


def test_requirements_agree(settings, project):
    assert requirements(settings['requirements'].split()) == requirements(project['dependencies'])
    assert requirements(settings['dev_requirements'].split()) == requirements(project['optional-dependencies']['dev'])


def test_console_scripts_agree(settings, project):
    pairs = [line.split('=', 1) for line in settings['console_scripts'].strip().splitlines()]
    assert {name.strip(): target.strip() for name, target in pairs} == project['scripts'] == {'colorize': f'{NAME}.inference.cli:main'}


def test_floors(settings, project):
    assert project['requires-python'] == f">={settings['min_python']}" == '>=3.11'
    floors = {r.name: r.specifier for r in map(Requirement, project['dependencies'])}
    assert floors == {name: SpecifierSet(spec) for name, spec in FLOORS.items()}


def test_extras(project):
    extras = {name: {Requirement(r).name for r in lines} for name, lines in project['optional-dependencies'].items()}
    assert extras == EXTRAS


def test_licence_is_apache_2(root):
    text = (root/'LICENSE').read_text(encoding='utf-8')
    assert 'Apache License\n                           Version 2.0, January 2004' in text
    assert 'APPENDIX: How to apply the Apache License to your work.' in text


def test_ci_runs_the_newcomers_command(root):
    assert os.access(root/'.ci/run', os.X_OK)
    assert (root/'.ci/run').read_text().splitlines()[-1] == 'make test'
    assert 'run: make test' in (root/'.github/workflows/test.yml').read_text()


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
    assert {n for n in package if not n.startswith(NAME + '/') or Path(n).suffix not in ('.py', '.safetensors', '.onnx') and n not in (f'{NAME}/MODEL_CARD.md', f'{NAME}/LIMITS.txt')} == set()
    assert f'{info}/licenses/LICENSE' in names
    weights = {p.relative_to(root).as_posix() for end in ('safetensors', 'onnx') for p in (root/NAME).rglob(f'*.{end}')}
    assert weights == {n for n in package if Path(n).suffix in ('.safetensors', '.onnx')}


@pytest.fixture(scope='module')
def installed(wheel, run, tmp_path_factory):
    """A new environment holding the wheel, which finds everything else in this one.

    The .pth file comes after the install, or pip would find this environment's editable install and do nothing. A .pth line adds a folder
    without reading the .pth files in it, so the editable install of the checkout does not leak in."""
    home = tmp_path_factory.mktemp('installed')/'env'
    venv.create(home, with_pip=False)
    python = home/'bin'/'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', wheel, cwd=home)
    (packages,) = home.glob('lib/python*/site-packages')
    (packages/'borrowed.pth').write_text('\n'.join(p for p in site.getsitepackages() if Path(p).is_dir()))
    return home


def clean_environment(): return {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}


def test_installed_wheel_imports_away_from_the_checkout(installed, run, modules, tmp_path):
    lines = [f'import {NAME}.{m} as m; print(m.__file__)' for m in modules]
    files = run(installed/'bin'/'python', '-c', '\n'.join(lines), cwd=tmp_path, env=clean_environment()).split('\n')[-len(modules)-1:-1]
    assert modules and all(Path(f).is_relative_to(installed) for f in files), files


def test_installed_colorize_shows_its_help(installed, run, tmp_path):
    assert 'usage: colorize' in run(installed/'bin'/'colorize', '--help', cwd=tmp_path, env=clean_environment())
