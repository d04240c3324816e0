"""The commands as a user gives them: bad input ends in one sentence and an exit code, a killed run goes on with the same numbers."""
import ast, json, os, resource, shutil, signal, subprocess, sys, time, types
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.experiments.cli import find_notebook, refuse_unused
from colorization_pix2pix.data.scenes import draw_scenes

ROOT = Path(__file__).parent.parent
REPRODUCE = [sys.executable, '-c', 'import sys; from colorization_pix2pix.experiments.cli import main; sys.exit(main())']


def make_checkout(path):
    "A folder with the notebook, in which a run may leave its results."
    (path/'nbs'/'course').mkdir(parents=True)
    shutil.copy(ROOT/'nbs'/'course'/'09_lab_baseline.ipynb', path/'nbs'/'course')
    return path


@pytest.fixture
def checkout(tmp_path): return make_checkout(tmp_path/'checkout')


def start(checkout, *args, **kwargs):
    "`make reproduce` without make: a process."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'COLORIZATION_CACHE': str(checkout.parent/'cache')}
    return subprocess.Popen([*REPRODUCE, *args], cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def refused(checkout, *args, **kwargs):
    "The one sentence with which the command refuses."
    run = start(checkout, *args, **kwargs)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 1 and 'Figures:' not in out and 'Traceback' not in err, err
    sentences = [l for l in err.splitlines() if l.startswith('reproduce: ')]
    assert len(sentences) == 1
    return sentences[0]


def folder_of(tmp_path, n):
    folder = tmp_path/f'{n} photos'
    folder.mkdir()
    for i, scene in enumerate(draw_scenes(n, 64, seed=9)): Image.fromarray(scene).save(folder/f'{i}.png')
    return folder


def test_refuses_bad_data_in_one_sentence(checkout, tmp_path):
    assert 'no folder /no/such/folder' in refused(checkout, '--data', '/no/such/folder')
    assert '0 usable pictures' in refused(checkout, '--data', str(folder_of(tmp_path, 0)))
    few = refused(checkout, '--data', str(folder_of(tmp_path, 7)))
    assert '7 usable pictures' in few and 'at least 8' in few
    assert 'choose a batch of 6 or less' in refused(checkout, '--data', str(folder_of(tmp_path, 8)))
    assert not [p for p in checkout.rglob('*') if p.is_file() and 'nbs' not in p.parts and p.name != 'lock'] # which stays: deleting it would let two others in


def test_refuses_bad_choices_in_one_sentence(checkout):
    assert 'no preset' in refused(checkout, '--preset', 'huge')
    assert 'DATA=' in refused(checkout, '--preset', 'small')
    assert 'not one notebook of the course' in refused(checkout, '--notebook', '99')


def full_disk():
    "No file of this process may grow beyond 300,000 bytes: enough to begin, too little for the cache and for a checkpoint."
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_refuses_a_disk_that_is_full_or_may_not_be_written_in_one_sentence(checkout):
    args = '--preset', 'smoke', '--data', 'scenes:24'
    assert 'The picture cache in ' in (said := refused(checkout, *args, preexec_fn=full_disk)) and 'File too large' in said
    assert start(checkout, *args, '--check-data').wait(120) == 0 # leaves the cache
    assert 'could not be written (File too large)' in (said := refused(checkout, *args, preexec_fn=full_disk)) and 'checkpoint' in said
    shutil.rmtree(checkout/'results')
    (checkout/'results').write_text('a file where the folder should be')
    assert 'results/smoke cannot be written' in refused(checkout, *args)


@pytest.mark.slow
def test_auto_batch_trains_where_the_preset_s_own_is_refused(checkout, tmp_path):
    "Eight pictures, of which six are trained on: fewer than the preset's batch. What was found is the experiment's batch."
    cell = ("from colorization_pix2pix.experiments.config import config_from_env, gallery\nfrom colorization_pix2pix.experiments.runner import project_folder, run_all\nfrom colorization_pix2pix.data.sources import load_photos\n"
            "preset, data = config_from_env()\nrun_all([preset], load_photos(data, preset.size, preset.load_size), gallery(data), project_folder())")
    (checkout/'nbs'/'course'/'29a_one.ipynb').write_text(json.dumps(dict(cells=[dict(cell_type='code', source=[cell])])))
    run = start(checkout, '--notebook', '29a_one', '--preset', 'smoke', '--data', str(folder_of(tmp_path, 8)), '--batch', 'auto')
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0 and 'BATCH=auto is 6 pictures here.' in out, err
    assert [r['experiment']['batch'] for r in results(checkout).values()] == [6]


def test_lists_what_is_left_out(checkout, tmp_path):
    folder = folder_of(tmp_path, 12)
    (folder/'sub').mkdir()
    (folder/'sub'/'text.jpg').write_text('no picture')
    run = start(checkout, '--data', str(folder), '--check-data')
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0 and 'sub/text.jpg: unreadable' in out and 'left out 1: 1 unreadable' in out, err
    assert not (checkout/'results').exists()


@pytest.mark.parametrize('number', ['09', '10', '11', '12', '13', '14', '15', '17', '18'])
def test_every_experiment_looks_at_what_the_command_is_asked_for(number):
    "What a notebook does not look at would be left out without a word, so that the command refuses it."
    notebook = find_notebook(number, ROOT/'nbs')
    refuse_unused(notebook, {'data', 'preset', 'batch', 'epochs', 'processes'})
    if number in ('10', '17'):
        with pytest.raises(UserError, match='does not use PRETRAINED'): refuse_unused(notebook, {'pretrained'})


@pytest.mark.slow
def test_nobody_has_to_listen(checkout, tmp_path):
    "`make check-data | head -1`, into a file in a narrow encoding, and with standard error closed."
    folder = folder_of(tmp_path, 12)
    for i in range(3): (folder/f'사진 {i}.jpg').write_text('no picture')
    for shell, encoding in [('"$@" | head -1', 'utf-8'), ('"$@" 2>&-', 'cp1252')]:
        run = subprocess.run(['bash', '-o', 'pipefail', '-c', shell, 'bash', *REPRODUCE, '--data', str(folder), '--check-data'], cwd=checkout, capture_output=True, timeout=120,
                             env={k: v for k, v in os.environ.items() if k != 'IN_TEST'} | dict(COLORIZATION_CACHE=str(tmp_path/'cache'), PYTHONIOENCODING=encoding, PYTHONUTF8='0'))
        assert run.returncode == 0 and b'left out 3' in run.stdout and b'Traceback' not in run.stderr + run.stdout, run.stderr
    assert run.stdout.count(rb'\uc0ac\uc9c4 ') == 2*3 # the name and the sentence


def test_a_refusal_whose_reason_lies_outside_the_file_is_asked_again(tmp_path, monkeypatch):
    "A HEIC picture is left out while pillow-heif is missing, and used once it is installed, though no file has changed; the same for a disk that reports errors."
    from colorization_pix2pix.data import photos as data; from colorization_pix2pix.data import image_files as pictures
    monkeypatch.setenv('COLORIZATION_CACHE', str(tmp_path/'cache'))
    folder = folder_of(tmp_path, 12)
    (folder/'0.png').rename(folder/'0.heic'); (folder/'text.jpg').write_text('no picture')
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    for _ in range(2):
        without = data.folder_photos(folder, 32)
        assert len(without.train) + len(without.valid) == 11 and {path: reason.split(':')[0] for path, reason in without.left_out} == {'0.heic': 'cannot be read now', 'text.jpg': 'unreadable'}
    monkeypatch.setitem(sys.modules, 'pillow_heif', types.SimpleNamespace(register_heif_opener=lambda: Image.register_open('HEIF', *Image.OPEN['PNG'])))
    monkeypatch.setitem(Image.OPEN, 'HEIF', None); monkeypatch.setattr(Image, 'ID', [*Image.ID]) # so that it is gone afterwards
    opened = []
    monkeypatch.setattr(data, 'check_files', lambda *args, check=data.check_files: opened.append(1) or check(*args))
    for _ in range(2):
        found = data.folder_photos(folder, 32)
        assert len(found.train) + len(found.valid) == 12 and [path for path, _ in found.left_out] == ['text.jpg']
    assert opened == [1], 'built anew once, then from the cache'

    def sick(path, *args): raise pictures.Unavailable(f'{path} cannot be read (Input/output error): check the disk.')
    monkeypatch.setattr(data, 'read_picture', lambda path, *args: sick(path) if path.name == '1.png' else pictures.read_picture(path, *args))
    os.utime(folder/'1.png', (1, 1)) # another cache
    assert len(data.folder_photos(folder, 32).train) + len(data.folder_photos(folder, 32).valid) == 11
    monkeypatch.setattr(data, 'read_picture', pictures.read_picture)
    assert len(data.folder_photos(folder, 32).left_out) == 1


def test_cache_home_is_a_folder_or_a_sentence(tmp_path, monkeypatch):
    from colorization_pix2pix.data.cache import cache_home; from colorization_pix2pix.data.photos import folder_photos
    from colorization_pix2pix.core.errors import UserError
    from colorization_pix2pix.data.sources import load_photos
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('HOME', str(tmp_path/'home'))
    for named, want in [('here', 'here'), ('~/there', 'home/there'), ('', 'home/.cache/colorization_pix2pix')]:
        monkeypatch.setenv('COLORIZATION_CACHE', named)
        assert cache_home() == tmp_path/want
    monkeypatch.setenv('COLORIZATION_CACHE', '~nobody-of-that-name/x')
    with pytest.raises(UserError, match='set COLORIZATION_CACHE to the full path'): cache_home()
    for call in (folder_photos, load_photos):
        with pytest.raises(UserError, match='write the full path'): call('~nobody-of-that-name/photos', 32)
    def homeless(self): raise RuntimeError('Could not determine home directory.')
    monkeypatch.setattr(Path, 'expanduser', homeless); monkeypatch.delenv('COLORIZATION_CACHE')
    with pytest.raises(UserError, match='set COLORIZATION_CACHE to the full path'): cache_home()


def test_a_linked_sub_folder_is_trained_on_once(tmp_path, monkeypatch):
    from colorization_pix2pix.data.photos import folder_photos
    monkeypatch.setenv('COLORIZATION_CACHE', str(tmp_path/'cache'))
    folder = folder_of(tmp_path, 9)
    album = tmp_path/'album'
    album.mkdir(); (album/'one').symlink_to(folder); (album/'two').symlink_to(folder); (folder/'loop').symlink_to(album)
    photos = folder_photos(album, 32)
    assert len(photos.train) + len(photos.valid) == 9 and not photos.left_out


def in_any_encoding(tree):
    "Calls that open a text file in whatever encoding the machine has."
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        name, of = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, 'id', ''), ast.unparse(call.func)
        if name not in ('open', 'read_text', 'write_text') or of in ('Image.open', 'os.open', 'tarfile.open') or any(k.arg == 'encoding' for k in call.keywords): continue
        modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if not (name == 'open' and any('b' in m and len(m) <= 3 for m in modes)): yield ast.unparse(call)


def test_every_text_file_is_utf_8():
    "Windows would take the country's code page, and a folder's name in another script ends in a traceback or as question marks."
    assert list(in_any_encoding(ast.parse("open('a'); open('a', 'rb'); p.read_text(); p.write_text('b', encoding='utf-8')"))) == ["open('a')", 'p.read_text()']
    found = {str(f.relative_to(ROOT)): calls for folder in ('colorization_pix2pix', 'benchmarks') for f in (ROOT/folder).rglob('*.py') if (calls := list(in_any_encoding(ast.parse(f.read_text(encoding='utf-8')))))}
    assert not found


def test_lists_names_that_are_no_text_on_a_line_each(checkout, tmp_path):
    "As old disks have them: Latin-1, and a line break. Whole pictures of such names are used; of notes.txt, which is no picture, nothing is said."
    folder = folder_of(tmp_path, 12).rename(tmp_path/os.fsdecode(b'caf\xe9\n'))
    (folder/os.fsdecode(b'bad\xe9\n.jpg')).write_text('no picture')
    (folder/'0.png').rename(folder/os.fsdecode(b'0\xe9\n.png'))
    shutil.copy(folder/os.fsdecode(b'0\xe9\n.png'), folder/'twin.png')
    (folder/'notes.txt').write_text('no picture')
    run = start(checkout, '--data', str(folder), '--check-data')
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert [l.partition(':')[0] for l in out.splitlines()] == [r"folder 'caf\udce9\n'", r'bad\udce9\n.jpg', 'twin.png'] and out.endswith(r'duplicate of 0\udce9\n.png' + '\n')


def results(checkout):
    "What was measured, without the time it took."
    found = {p.name: json.loads(p.read_text()) for p in sorted((checkout/'results'/'smoke').glob('*.json'))}
    return {name: {k: v for k, v in r.items() if k not in ('seconds', 'images_per_second')} for name, r in found.items()}


@pytest.mark.slow
def test_two_processes_end_with_the_default_notebook(checkout):
    "It trains once more after its `run_all`, which all processes must know of."
    pytest.importorskip('accelerate', reason='accelerate is not installed')
    run = start(checkout, '--preset', 'smoke', '--data', 'scenes:24', '--batch', '4', '--seeds', '1', '--processes', '2')
    out, err = run.communicate(timeout=280)
    assert run.returncode == 0 and 'seed 0, seed 0 again, seed 1:' in out and 'Figures:' in out, err


@pytest.mark.slow
def test_killed_run_goes_on_with_the_same_numbers(tmp_path):
    "SIGKILL after the first checkpoint; the second start must read it and end with the numbers of an unbroken run."
    whole, killed = make_checkout(tmp_path/'whole'), make_checkout(tmp_path/'killed')
    args = '--preset', 'smoke', '--data', 'scenes:24'
    run = start(whole, *args)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert '| grey copy' in out and 'Figures:' in out and '09-smoke-drawn-scenes-l1-cgan-e2.jpg' in out

    run = start(killed, *args, start_new_session=True)
    wait_for(lambda: list(killed.glob('runs/smoke/*/checkpoint.safetensors')), run)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert len(results(killed)) < 4, 'the run was over before it was killed'
    run = start(killed, *args)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert len(results(whole)) == 4 and results(killed) == results(whole)

    before = {p: p.stat().st_mtime_ns for p in (killed/'results').rglob('*.json')}
    run = start(killed, *args)                                                # a third time: everything is done
    run.communicate(timeout=300)
    assert {p: p.stat().st_mtime_ns for p in (killed/'results').rglob('*.json')} == before


def wait_for(there, run, seconds=200):
    "Wait until `there()` finds something."
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end and run.poll() is None, 'the run ended, or took too long, before it saved anything'
        time.sleep(.02)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "An untrained generator in a file, as training leaves it."
    import torch
    from colorization_pix2pix.models.io import build_generator
    from colorization_pix2pix.models.io import save_generator
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights')/'weights.safetensors'
    save_generator(path, build_generator('unet', 1, 2, 64, ngf=8), dict(generator='unet', arch='resnet18', space='lab', size=64, ngf=8, dropout=.5))
    return path


def colorize(*args):
    command = Path(sys.executable).parent/'colorize'
    return subprocess.run([command, *map(str, args)], capture_output=True, text=True, timeout=120)


def test_colorize_writes_beside_and_goes_on_after_bad_files(tmp_path, weights):
    photo, bad = tmp_path/'my photo.jpg', tmp_path/'bad.jpg'
    Image.fromarray(draw_scenes(1, 300, seed=4)[0][:200]).convert('L').save(photo)
    bad.write_bytes(b'\xff\xd8\xff\xe0 cut')
    before = photo.read_bytes()
    done = colorize(bad, photo, tmp_path/'nobody', tmp_path/'missing.png', '--weights', weights)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert len(done.stderr.splitlines()) == 3 and all(l.startswith('colorize: ') for l in done.stderr.splitlines())
    result = tmp_path/'my photo_colorized.jpg'
    assert Image.open(result).size == (300, 200) and photo.read_bytes() == before
    again = colorize(photo, '--weights', weights)
    assert again.returncode == 0 and len(list(tmp_path.glob('my photo_colorized*'))) == 2
    assert np.asarray(Image.open(result)).shape == (200, 300, 3)


def test_colorize_refuses_wrong_weights(tmp_path, weights):
    photo = tmp_path/'photo.png'
    Image.fromarray(draw_scenes(1, 64)[0]).convert('L').save(photo)
    (tmp_path/'no.safetensors').write_bytes(b'nothing')
    for file in (tmp_path/'no.safetensors', tmp_path/'absent.safetensors', photo):
        done = colorize(photo, '--weights', file)
        assert done.returncode == 1 and done.stdout == '' and len(done.stderr.splitlines()) == 1 and file.name in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ['no.safetensors', 'photo.png']
