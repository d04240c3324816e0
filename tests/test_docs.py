"""The pages beside the README: they lead somewhere, the site has every notebook, and what is promised names tests that exist."""
import json, re
import pytest, yaml
from nbdev.config import get_config
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from test_readme import missing_links


def sources(path): return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]


def hrefs(contents):
    "The files that a sidebar leads to."
    return [f for c in contents for f in ([c] if isinstance(c, str) else ([c['href']] if 'href' in c else []) + hrefs(c['contents']))]


@pytest.mark.parametrize('name', ['CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md'])
def test_links_exist(root, name): assert not missing_links(root, name)


def test_forms_and_citation_can_be_read(root, settings):
    forms = {p.stem: yaml.safe_load(p.read_text(encoding='utf-8')) for p in (root/'.github'/'ISSUE_TEMPLATE').glob('*.yml')}
    assert {'bug', 'bad_colors', 'question'} <= forms.keys()
    for name, form in forms.items(): assert name == 'config' or {'name', 'description', 'body'} <= form.keys() and all(b['type'] in ('markdown', 'input', 'textarea', 'dropdown', 'checkboxes') for b in form['body'])
    citation = yaml.safe_load((root/'CITATION.cff').read_text(encoding='utf-8'))
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys() and citation['repository-code'].endswith(f"{settings['user']}/{settings['repo']}")
    assert f"## {citation['version']} (" in (root/'CHANGELOG.md').read_text(encoding='utf-8')


def test_the_site_has_every_notebook(root, monkeypatch, capsys):
    "nbs/sidebar.yml is what nbdev makes of the folders, with the index first, the course in its order and the reference."
    monkeypatch.chdir(root)
    nbdev_sidebar.__wrapped__(printit=True)
    made = capsys.readouterr().out.strip()
    assert (root/'nbs'/'sidebar.yml').read_text(encoding='utf-8').strip() == made, 'run nbdev-sidebar'
    listed = hrefs(yaml.safe_load(made)['website']['sidebar']['contents'])
    assert listed[0] == 'index.ipynb' and sorted(listed) == sorted(p.relative_to(root/'nbs').as_posix() for p in (root/'nbs').rglob('*.ipynb'))
    course = [f for f in listed if f.startswith('course/')]
    assert course == sorted(course)


def test_settings_of_the_site_are_those_of_the_project(root, monkeypatch, copy_checkout, tmp_path):
    copy = copy_checkout(tmp_path/'checkout')
    monkeypatch.chdir(copy)
    config = get_config(copy)
    assert not (config.nbs_path/config.readme_nb).exists(), 'nbdev-prepare would write README.md over, and would want Quarto for it'
    monkeypatch.setattr('nbdev.quarto.get_config', lambda: config)
    refresh_quarto_yml()
    assert (copy/'nbs'/'nbdev.yml').read_text() == (root/'nbs'/'nbdev.yml').read_text(), 'nbdev.yml is out of date: run nbdev-prepare'
    quarto = yaml.safe_load((root/'nbs'/'_quarto.yml').read_text())
    assert quarto['metadata-files'] == ['nbdev.yml', 'sidebar.yml'] and (root/'nbs'/quarto['format']['html']['css']).exists()


def test_each_notebook_leads_to_the_next(root):
    course = sorted((root/'nbs'/'course').glob('*.ipynb'))
    for here, following in zip(course, [*course[1:], None]):
        last = sources(here)[-1]
        assert '](../index.ipynb)' in last and (following is None or f']({following.name})' in last), here.name


def test_promises_name_tests_that_exist_and_the_limits_they_hold(root):
    "A named test is in the file whose link follows it at once, else in tests/test_robustness.py."
    text = '\n'.join(sources(root/'nbs'/'reference'/'experiments'/'promises.ipynb'))
    promises = [line for line in text.splitlines() if line.startswith('- *')]
    named = re.findall(r'`(test_\w+)`(?: in \[tests/\w+\.py\]\(../../../(tests/\w+\.py)\))?', text)
    assert promises and all('`test_' in p or 'hypothesis' in p for p in promises)
    for name, file in named: assert f'def {name}(' in (root/(file or 'tests/test_robustness.py')).read_text(encoding='utf-8'), name
    psnr, ssim, ciede, color = re.search(r'TOLERANCE = dict\(psnr=([.\d]+), ssim=([-.\de]+), ciede2000=([.\d]+), colourfulness=([.\d]+)\)', (root/'tests'/'test_robustness.py').read_text(encoding='utf-8')).groups()
    assert f"less than {psnr} dB of PSNR, {f'{float(ssim):.4f}'[1:]} of SSIM, {ciede} of CIEDE2000 and {color} of colorfulness" in text
