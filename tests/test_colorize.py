"""`colorize` on anybody's photographs: full size, nothing lost, nothing harmed, one sentence for what is bad. Networks are random, pictures made here."""
import csv, errno, fcntl, io, os, pty, re, select, signal, struct, subprocess, sys, termios, threading, time, types, zlib
from pathlib import Path
from unittest import mock
import numpy as np, pytest, torch
from PIL import Image
from colorization_pix2pix.inference import batch as folders; from colorization_pix2pix.inference import render as fullsize; from colorization_pix2pix.inference import backend as network
from colorization_pix2pix.inference.cli import main
from colorization_pix2pix.inference.colorizer import Colorizer, made_of, source_of
from colorization_pix2pix.core.color import LAB, RGB, srgb_to_lab
from colorization_pix2pix.inference.batch import Choices, Once, color_all, find_tasks, in_shard
from colorization_pix2pix.inference.render import put_color
from colorization_pix2pix.models.io import build_generator, save_generator
from colorization_pix2pix.inference.backend import Network, export_onnx, load_network, onnx_bytes
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.data.decode import Picture, eight
from colorization_pix2pix.data.image_files import open_picture, write_picture
from colorization_pix2pix.data.scenes import draw_scenes

SPEC = dict(generator='unet', arch='resnet18', space='lab', size=64, ngf=8, dropout=.5)
COMMAND = Path(sys.executable).parent/'colorize'


def as_trained(net, space, size):
    "BatchNorm with the statistics of pictures, as after a training; with its first ones a deep network answers with noise."
    x = space.encode(torch.from_numpy(draw_scenes(2, size, seed=1)).permute(0, 3, 1, 2))[0]
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.momentum = None
    with torch.no_grad(): net.train()(x)
    return net.eval(), x


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "A folder with weights.safetensors and weights.onnx of the same network."
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    save_generator(folder/'weights.safetensors', as_trained(build_generator('unet', 1, 2, 64, ngf=8), LAB, 64)[0], SPEC)
    return export_onnx(folder/'weights.safetensors', folder/'weights.onnx')


@pytest.fixture(scope='module')
def colorizer(weights): return Colorizer.load(weights)


def orange(x): return np.broadcast_to(np.float32([.2, .5])[None, :, None, None], (1, 2, *x.shape[2:]))
def always_orange(): return Colorizer(Network(orange, dict(space='lab', size=32)))


def photo(path, seed=0, size=120, **options):
    "A grey photograph."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_scenes(1, size, seed=seed)[0][:size*2//3]).convert('L').save(path, **options)
    return path


def run(*args, command=COMMAND, **kwargs):
    "The command as a process."
    return subprocess.run([command, *map(str, args)], capture_output=True, text=True, timeout=100, **kwargs)


def names(folder): return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


# Start-up and the network

def test_exported_network_answers_as_torch_does(tmp_path):
    "At the size that is shipped: 256 pixels, 32 channels at the first level, weights stored as 16-bit floats."
    torch.manual_seed(1)
    net, x = as_trained(build_generator('unet', 1, 2, 256, ngf=32), LAB, 256)
    (tmp_path/'net.onnx').write_bytes(onnx_bytes(net, SPEC | dict(size=256, ngf=32)))
    assert (tmp_path/'net.onnx').stat().st_size < 30e6
    with torch.no_grad(): want = net(x[:1]).numpy()
    assert np.abs(want).max() > .2 and np.abs(load_network(tmp_path/'net.onnx').run(x[:1].numpy()) - want).max() < 1e-3


@pytest.mark.parametrize('half', [True, False])
@pytest.mark.parametrize('sharpness', [1., 2.5])
def test_exported_network_of_classes_answers_as_torch_does(tmp_path, half, sharpness):
    "At every multiple of its size, also where the two sides differ."
    torch.manual_seed(1)
    net, x = as_trained(build_generator('classes', 1, 2, 64, ngf=8, sharpness=sharpness), LAB, 64)
    with torch.no_grad(): net.ups[-1][1].weight.mul_(10) # decided answers, as after a training; those of a new network are all near grey
    save_generator(tmp_path/'net.safetensors', net, SPEC | dict(generator='classes', sharpness=sharpness))
    exported = load_network(export_onnx(tmp_path/'net.safetensors', tmp_path/'net.onnx', half))
    for shape in [(64, 64), (128, 128), (256, 256), (64, 192)]:
        square = torch.nn.functional.interpolate(x[:1], shape, mode='bilinear')
        with torch.no_grad(): want = net(square).numpy()
        assert want.shape == (1, 2, *shape) and np.ptp(want) > .05
        assert np.abs(exported.run(square.numpy()) - want).max() < 1e-3*(max(1, sharpness) if half else 1), shape # sharpness multiplies what rounding did to the logits
    assert exported.check_size(192) is None


def test_rgb_network_keeps_the_photos_lightness(tmp_path):
    torch.manual_seed(0)
    net = as_trained(build_generator('unet', 1, 3, 64, ngf=8), RGB, 64)[0]
    (tmp_path/'rgb.onnx').write_bytes(onnx_bytes(net, SPEC | dict(space='rgb')))
    assert_lightness_kept(Colorizer.load(tmp_path/'rgb.onnx'), draw_scenes(1, 200, seed=3)[0])


def test_a_photo_in_color_imports_neither_torch_nor_fastai_nor_skimage(tmp_path, weights):
    code = ("import sys; from colorization_pix2pix.inference.cli import main; assert main(sys.argv[1:]) == 0; "
            "print([m for m in ('torch', 'fastai', 'skimage', 'matplotlib', 'fastcore', 'onnx') if m in sys.modules])")
    done = subprocess.run([sys.executable, '-c', code, photo(tmp_path/'a.jpg'), '--weights', weights], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


def test_nothing_is_collected(tmp_path, weights):
    "ONNX Runtime 1.31 collects telemetry, unless told otherwise, and prepares a file for it in the temporary folder."
    (tmp_path/'tmp').mkdir()
    env = {k: v for k, v in os.environ.items() if k != 'ORT_DISABLE_TELEMETRY'} | {'TMPDIR': str(tmp_path/'tmp')}
    assert run(photo(tmp_path/'a.jpg'), '--weights', weights, env=env).returncode == 0 and names(tmp_path/'tmp') == []


def test_without_weights_the_option_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(network.resources, 'files', lambda package: tmp_path)
    assert main([str(photo(tmp_path/'a.jpg'))]) == 1
    out, err = capsys.readouterr()
    assert out == '' and '--weights' in err and err.count('\n') == 1 and names(tmp_path) == ['a.jpg']


def test_weights_in_the_package_are_found(tmp_path, monkeypatch, weights):
    monkeypatch.setattr(network.resources, 'files', lambda package: weights.parent)
    assert main([str(photo(tmp_path/'a.jpg'))]) == 0 and 'a_colorized.jpg' in names(tmp_path)


def test_other_sizes_of_the_square(tmp_path, weights, capsys):
    assert main([str(photo(tmp_path/'a.jpg')), '--weights', str(weights), '--size', '128']) == 0
    assert main([str(tmp_path/'a.jpg'), '--weights', str(weights), '--size', '100']) == 1
    assert 'multiple of 64' in capsys.readouterr().err


def test_threads_share_a_colorizer(tmp_path, weights):
    "The dynamic U-Net keeps activations in hooks: without a lock two threads mix up their pictures."
    save_generator(tmp_path/'dynamic.safetensors', build_generator('dynamic', 1, 2, 64), SPEC | dict(generator='dynamic'))
    pictures = draw_scenes(6, 80, seed=2)
    for file in (weights, weights.with_suffix('.safetensors'), tmp_path/'dynamic.safetensors'):
        shared, got = Colorizer.load(file), [None]*len(pictures)
        def work(i):
            for j in range(i, len(pictures), 2): got[j] = shared(pictures[j])
        threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert all(np.array_equal(g, shared(p)) for g, p in zip(got, pictures)), file.name


# Full size

def lightness(picture): return srgb_to_lab(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None])[0, 0].numpy()


def assert_lightness_kept(colorizer, picture):
    out = colorizer(picture, saturation=3)
    assert out.shape == picture.shape and out.dtype == np.uint8
    assert np.abs(lightness(out) - lightness(picture)).max() < .5
    assert np.ptp(out.astype(int), axis=2).max() > 10, 'nothing was colored'


@pytest.mark.parametrize('shape', [(300, 200), (64, 64), (7, 300), (501, 333), (20, 20)])
def test_same_size_and_own_lightness(colorizer, shape):
    rng = np.random.default_rng(0)
    assert_lightness_kept(colorizer, np.tile(np.linspace(0, 255, shape[1], dtype=np.uint8)[None, :, None], (shape[0], 1, 3)))
    assert_lightness_kept(colorizer, rng.integers(0, 256, (*shape, 3), dtype=np.uint8))


def test_lightness_is_kept_at_every_grey_and_hue():
    hues = np.linspace(0, 2*np.pi, 360, endpoint=False)
    greys = np.arange(256, dtype=np.uint8)[:, None, None].repeat(360, 1).repeat(3, 2)
    for chroma in (20, 60, 130, 300):
        out = put_color(greys, np.stack([np.cos(hues), np.sin(hues)], 1)[None]*chroma)
        assert np.abs(lightness(out) - lightness(greys)).max() < .5


def test_aspect_is_kept():
    "A network that answers with its own input as color: what is in the photo's middle must come back in its middle, at any shape."
    echo = Colorizer(Network(lambda x: np.concatenate([x, x], 1), dict(space='lab', size=64)))
    for h, w in [(100, 400), (400, 100), (90, 640)]:
        picture = np.full((h, w, 3), 119, np.uint8)
        picture[h*3//8:h*5//8, w*3//8:w*5//8] = 140
        chroma = np.abs(np.ptp(echo(picture, saturation=3).astype(int), axis=2))
        ys, xs = np.nonzero(chroma > chroma.max()/2)
        assert abs(ys.mean()/h - .5) < .03 and abs(xs.mean()/w - .5) < .03 and abs(np.ptp(xs)/w - .25) < .1


MEMORY = """
import resource, sys, numpy as np
from colorization_pix2pix.inference.colorizer import Colorizer, colorize_file
colorizer = Colorizer.load(sys.argv[1])
colorizer(np.zeros((64, 64, 3), np.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
colorize_file(colorizer, sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024)
"""


@pytest.mark.slow
def test_twelve_megapixels_take_at_most_350_mb(tmp_path, weights):
    Image.fromarray(draw_scenes(1, 500, seed=1)[0]).convert('L').resize((4000, 3000)).save(tmp_path/'a.jpg')
    done = subprocess.run([sys.executable, '-c', MEMORY, weights, tmp_path/'a.jpg'], capture_output=True, text=True, timeout=100)
    assert float(done.stdout) < 350, done.stderr
    with Image.open(tmp_path/'a_colorized.jpg') as im: assert im.size == (4000, 3000)


def test_max_megapixels(tmp_path, weights, capsys):
    assert main([str(photo(tmp_path/'a.jpg', size=120)), '--weights', str(weights), '--max-megapixels', '.009']) == 1
    assert 'max_megapixels' in capsys.readouterr().err
    assert main([str(tmp_path/'a.jpg'), '--weights', str(weights), '--max-megapixels', '.0096']) == 0


# What a result keeps

def full_exif(orientation=6):
    exif = Image.Exif()
    exif.update({274: orientation, 306: '1987:06:05 12:00:00', 270: 'Großmutter am Fluß'.encode(), 271: 'Scanner & Co', 305: 'Scan 3'})
    exif[0x8769] = {36867: '1950:07:01 10:00:00', 37500: b'maker'*99}
    exif[0x8825] = {1: 'N', 2: (50., 6., 0.)}
    return exif.tobytes()


@pytest.mark.parametrize('gps', [False, True])
@pytest.mark.parametrize('end', ['jpg', 'png', 'webp', 'tif', 'avif'])
def test_date_and_description_stay_and_the_place_only_if_asked(tmp_path, end, gps):
    photo(tmp_path/'a.jpg', exif=full_exif(), dpi=(300, 300))
    assert main_orange(tmp_path/'a.jpg', '--format', end, *['--keep-gps']*gps) == 0
    with Image.open(tmp_path/f'a_colorized.{end}') as im:
        exif = im.getexif()
        assert im.size == (80, 120), 'turned upright'
        assert (exif.get(274, 1), exif[306], exif[271], exif[305]) == (1, '1987:06:05 12:00:00', 'Scanner & Co', 'Scan 3')
        assert exif[270].encode('latin-1').decode() == 'Großmutter am Fluß'
        inner = exif.get_ifd(0x8769)
        assert inner[36867] == '1950:07:01 10:00:00' and inner[40961] == 1 and 37500 not in inner
        assert bool(exif.get_ifd(0x8825)) == gps
        assert im.info['icc_profile'][36:40] == b'acsp' and b'sRGB' in im.info['icc_profile'].replace(b'\0', b'')
        if end in ('jpg', 'png', 'tif'): assert abs(im.info['dpi'][0] - 300) < 1


def main_orange(*args):
    "`main` with a network that always answers orange."
    with mock.patch.object(Colorizer, 'load', lambda *a, **k: always_orange()): return main([*map(str, args)])


def alpha_ramp(): return np.dstack([draw_scenes(1, 60, seed=1)[0], np.linspace(0, 255, 60).astype(np.uint8)[None].repeat(60, 0)])


@pytest.mark.parametrize('end', ['png', 'webp', 'tif', 'avif'])
def test_transparency_is_kept_where_the_format_can(tmp_path, end, capsys):
    Image.fromarray(alpha_ramp()).save(tmp_path/'a.png')
    assert main_orange(tmp_path/'a.png', '--format', end) == 0
    got = open_picture(tmp_path/f'a_colorized.{end}')
    assert np.abs(got.alpha.astype(int) - alpha_ramp()[..., 3]).max() <= (4 if end == 'avif' else 0) and 'white' not in capsys.readouterr().err


@pytest.mark.parametrize('end', ['jpg', 'bmp'])
def test_transparency_becomes_white_and_is_said(tmp_path, end, capsys):
    Image.fromarray(alpha_ramp()).save(tmp_path/'a.png')
    assert main_orange(tmp_path/'a.png', '--format', end) == 0
    assert 'transparency became white' in capsys.readouterr().err
    assert open_picture(tmp_path/f'a_colorized.{end}').pixels[:, 0].min() > 240


def test_first_page_and_a_notice(tmp_path, capsys):
    frames = [Image.new('L', (40, 30), v) for v in (90, 200)]
    for name, options in [('a.tif', {}), ('b.gif', {}), ('c.png', {}), ('d.webp', {})]:
        frames[0].save(tmp_path/name, save_all=True, append_images=frames[1:])
        assert main_orange(tmp_path/name) == 0
        assert 'only the first' in capsys.readouterr().err


KINDS = {'1 bit.png': lambda: Image.new('1', (9, 9), 1), 'grey.png': lambda: Image.new('L', (9, 9), 70), 'grey alpha.png': lambda: Image.new('LA', (9, 9), (70, 99)),
         '16 bit.png': lambda: Image.fromarray(np.full((9, 9), 70*257, np.uint16)), '16 bit.tif': lambda: Image.fromarray(np.full((9, 9), 70*257, np.uint16)),
         'float.tif': lambda: Image.fromarray(np.full((9, 9), .3, np.float32)), '32 bit.tif': lambda: Image.fromarray(np.full((9, 9), 70, np.int32)),
         'palette.png': lambda: Image.new('RGB', (9, 9), (9, 70, 9)).quantize(4), 'palette.gif': lambda: Image.new('L', (9, 9), 70).quantize(4),
         'cmyk.jpg': lambda: Image.new('CMYK', (9, 9), (9, 70, 9, 20)), 'cmyk.tif': lambda: Image.new('CMYK', (9, 9), (9, 70, 9, 20)),
         'colour.bmp': lambda: Image.new('RGB', (9, 9), (9, 70, 9)), 'colour.webp': lambda: Image.new('RGB', (9, 9), (9, 70, 9)), 'colour.avif': lambda: Image.new('RGB', (9, 9), (9, 70, 9)),
         'rgba.webp': lambda: Image.new('RGBA', (9, 9), (9, 70, 9, 99))}


def test_any_kind_of_picture(tmp_path, weights):
    for name, make in KINDS.items(): make().save(tmp_path/name)
    assert main([str(tmp_path), '--weights', str(weights), '--out', str(tmp_path/'out')]) == 0
    assert len(names(tmp_path/'out')) == len(KINDS)
    for name in names(tmp_path/'out'):
        assert open_picture(tmp_path/'out'/name).pixels.shape == (9, 9, 3)


def test_heic(tmp_path, weights):
    heif = pytest.importorskip('pillow_heif', reason='pillow-heif is optional')
    heif.from_pillow(Image.fromarray(draw_scenes(1, 64)[0]).convert('L').convert('RGB')).save(tmp_path/'a.heic', exif=full_exif(1))
    assert main([str(tmp_path/'a.heic'), '--weights', str(weights)]) == 0
    with Image.open(tmp_path/'a_colorized.png') as im: assert im.size == (64, 64) and im.getexif().get_ifd(0x8769)[36867] == '1950:07:01 10:00:00'


# Bad files

def chunk(name, data): return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def make_bad(folder):
    "One of each; how many sentences they cost."
    good = io.BytesIO()
    Image.fromarray(draw_scenes(1, 90)[0]).save(good, 'PNG')
    png = good.getvalue()
    (folder/'empty.jpg').touch()
    (folder/'text.jpg').write_text('Dear grandmother')
    (folder/'cut.png').write_bytes(png[:len(png)//2])
    (folder/'flipped.png').write_bytes(png[:-99] + bytes([png[-99] ^ 1]) + png[-98:])
    (folder/'gigapixels.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>2I5B', 40_000, 40_000, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(b'')))
    (folder/'loop.jpg').symlink_to('loop.jpg')
    (folder/'gone.jpg').symlink_to('nowhere')
    os.mkfifo(folder/'pipe.jpg')
    return 8


def test_bad_files_cost_a_sentence_each_and_the_rest_goes_on(tmp_path, weights):
    album = tmp_path/'album'
    photo(album/'good.jpg')
    bad = make_bad(album)
    (album/'folder.jpg').mkdir()
    photo(album/'folder.jpg'/'inside.jpg', seed=1)
    done = run(album, '--weights', weights, '--out', tmp_path/'out')
    assert done.returncode == 1 and len(done.stderr.splitlines()) == bad and 'Traceback' not in done.stderr
    assert all(re.fullmatch(r'colorize: .*\.', line) for line in done.stderr.splitlines()), done.stderr
    assert f'2 of {bad + 2} photos colorized, {bad} refused' in done.stdout
    assert names(tmp_path/'out') == ['folder.jpg/inside_colorized.jpg', 'good_colorized.jpg']


CHILDREN = """
import resource, subprocess, sys
for path in sys.argv[2:]:
    assert subprocess.run([sys.executable, '-c', 'import sys; from colorization_pix2pix.inference.cli import main; sys.exit(main())', path, '--weights', sys.argv[1]]).returncode == 1
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss/1024, (used.ru_utime + used.ru_stime)/len(sys.argv[2:]))
"""


def test_refusals_are_quick_and_small(tmp_path, weights):
    "At most 200 MB and a second of processor time. No network is loaded for a file that cannot be read. (A small process between, because Linux counts a parent's memory as its child's.)"
    make_bad(tmp_path)
    done = subprocess.run([sys.executable, '-c', CHILDREN, weights, *sorted(tmp_path.iterdir())], capture_output=True, text=True, timeout=60)
    megabytes, seconds = map(float, done.stdout.split())
    assert megabytes < 200 and seconds < 1, done.stdout
    assert len(done.stderr.splitlines()) == len(list(tmp_path.iterdir()))


def test_names_that_are_no_text(tmp_path, weights):
    path = photo(tmp_path/os.fsdecode(b'caf\xe9\n.jpg'))
    done = run(path, '--weights', weights, '--report', tmp_path/'report.csv')
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr
    assert len((tmp_path/'report.csv').read_text().splitlines()) == 2 and len(list(tmp_path.glob('*_colorized.jpg'))) == 1
    assert run(tmp_path, '--weights', weights).returncode == 0


def test_a_folder_that_may_not_be_listed_or_holds_nothing(tmp_path, weights, capsys, monkeypatch):
    photo(tmp_path/'album'/'a.jpg'); (tmp_path/'album'/'secret').mkdir(); (tmp_path/'empty').mkdir()
    scandir = os.scandir
    def refuse(path):
        if str(path).endswith('secret'): raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', refuse)
    assert main([str(tmp_path/'album'), str(tmp_path/'empty'), '--weights', str(weights)]) == 1
    err = capsys.readouterr().err
    assert 'secret cannot be listed' in err and 'empty holds no pictures' in err and err.count('\n') == 2
    assert (tmp_path/'album'/'a_colorized.jpg').exists()


# Nothing is harmed

def snapshot(folder): return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob('*') if p.is_file()}


def test_originals_and_their_folders_are_left_alone(tmp_path, weights):
    for i, name in enumerate(('a.jpg', 'sub/b.png')): photo(tmp_path/'album'/name, i)
    before = snapshot(tmp_path/'album')
    assert main([str(tmp_path/'album'), '--out', str(tmp_path/'out'), '--weights', str(weights)]) == 0
    assert snapshot(tmp_path/'album') == before
    assert main([str(tmp_path/'album'), '--weights', str(weights)]) == 0
    after = snapshot(tmp_path/'album')
    assert {p: after[p] for p in before} == before and names(tmp_path/'album') == ['a.jpg', 'a_colorized.jpg', 'sub/b.png', 'sub/b_colorized.png']


def test_results_are_never_colored_whatever_they_are_called(tmp_path, weights, capsys):
    photo(tmp_path/'a.jpg')
    assert main([str(tmp_path), '--weights', str(weights)]) == 0
    (tmp_path/'a_colorized.jpg').rename(tmp_path/'renamed.jpg')
    (tmp_path/'a.jpg').unlink()
    capsys.readouterr()
    assert main([str(tmp_path), str(tmp_path/'renamed.jpg'), '--weights', str(weights)]) == 0
    assert names(tmp_path) == ['renamed.jpg'] and '1 left out' in capsys.readouterr().out


def test_one_name_for_several_photos(tmp_path, weights):
    "a.jpg, a.png and A.JPG would all be a_colorized.webp; the file system is told to take A and a for the same."
    for i, name in enumerate(('x/a.jpg', 'x/a.png', 'y/a.jpg')): photo(tmp_path/name, i)
    args = [tmp_path/'x', tmp_path/'y', '--out', tmp_path/'out', '--format', 'webp', '--weights', weights]
    assert main([*map(str, args)]) == 0
    want = ['a_colorized.webp', 'a_colorized_2.webp', 'a_colorized_3.webp']
    assert names(tmp_path/'out') == want
    before = snapshot(tmp_path/'out')
    assert main([*map(str, args)]) == 0 and snapshot(tmp_path/'out') == before


def test_file_systems_that_ignore_case(tmp_path, weights, monkeypatch):
    real_lexists, real_link = os.path.lexists, os.link
    def same(path): return next((Path(path).with_name(n) for n in os.listdir(Path(path).parent) if n.lower() == Path(path).name.lower()), Path(path)) if os.path.isdir(Path(path).parent) else Path(path)
    monkeypatch.setattr(os.path, 'lexists', lambda path: real_lexists(same(path)))
    monkeypatch.setattr(os, 'link', lambda a, b: real_link(a, same(b)))
    photo(tmp_path/'x'/'B.jpg', 1); photo(tmp_path/'y'/'b.jpg', 2)
    assert main([str(tmp_path/'x'), str(tmp_path/'y'), '--out', str(tmp_path/'out'), '--weights', str(weights)]) == 0
    assert len({n.lower() for n in names(tmp_path/'out')}) == 2


def test_parallel_calls_lose_nothing(tmp_path, weights):
    "Different photographs of one name into one folder, and the same folder twice, at the same time."
    for i in range(3): photo(tmp_path/str(i)/'a.jpg', i)
    for i in range(4): photo(tmp_path/'album'/f'{i}.jpg', i)
    calls = [[tmp_path/str(i)/'a.jpg', '--out', tmp_path/'named'] for i in range(3)] + [[tmp_path/'album', '--out', tmp_path/'all']]*2
    (tmp_path/'named').mkdir()
    running = [subprocess.Popen([COMMAND, *map(str, c), '--weights', weights], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for c in calls]
    errors = [p.communicate(timeout=100)[1] for p in running]
    assert [p.returncode for p in running] == [0]*5, errors
    assert names(tmp_path/'named') == ['a_colorized.jpg', 'a_colorized_2.jpg', 'a_colorized_3.jpg']
    assert names(tmp_path/'all') == [f'{i}_colorized.jpg' for i in range(4)]


def test_a_race_for_a_name_is_won_by_the_next_number(tmp_path, monkeypatch):
    photo(tmp_path/'a.jpg')
    write, taken = folders.write_picture, tmp_path/'a_colorized.jpg'
    def late(result, path):
        if not taken.exists(): taken.write_text('another program was quicker')
        return write(result, path)
    monkeypatch.setattr(folders, 'write_picture', late)
    assert main_orange(tmp_path) == 0
    assert names(tmp_path) == ['a.jpg', 'a_colorized.jpg', 'a_colorized_2.jpg'] and taken.read_text().startswith('another')


# Folders

def test_goes_on_where_it_stopped(tmp_path, weights, capsys):
    for i in range(3): photo(tmp_path/'album'/f'{i}.jpg', i)
    args = [str(tmp_path/'album'), '--out', str(tmp_path/'out'), '--weights', str(weights)]
    assert main(args) == 0
    (tmp_path/'out'/'1_colorized.jpg').unlink()
    (tmp_path/'out'/'2_colorized.jpg').write_bytes(b'cut')                     # something else of that name
    before = snapshot(tmp_path/'out')
    capsys.readouterr()
    assert main(args) == 0
    out, after = capsys.readouterr().out, snapshot(tmp_path/'out')
    assert '1 skipped' in out and '2 of 3 photos colorized' in out
    assert names(tmp_path/'out') == ['0_colorized.jpg', '1_colorized.jpg', '2_colorized.jpg', '2_colorized_2.jpg'] and {p: after[p] for p in before} == before
    photo(tmp_path/'album'/'0.jpg', 9)                                         # scanned anew
    assert main(args) == 0 and '0_colorized_2.jpg' in names(tmp_path/'out')


def test_a_folder_that_is_done_needs_no_weights(tmp_path, weights):
    photo(tmp_path/'a.jpg')
    assert main([str(tmp_path), '--weights', str(weights)]) == 0
    assert main([str(tmp_path), '--weights', str(tmp_path/'absent.onnx')]) == 0
    photo(tmp_path/'b.jpg')
    assert main([str(tmp_path), '--weights', str(tmp_path/'absent.onnx')]) == 1


def test_report(tmp_path, weights):
    photo(tmp_path/'album'/'sub'/'a.jpg'); (tmp_path/'album'/'bad.jpg').write_text('no')
    args = [str(tmp_path/'album'), '--out', str(tmp_path/'out'), '--weights', str(weights), '--report', str(tmp_path/'r.csv')]
    assert main(args) == 1 and main(args) == 1
    rows = list(csv.DictReader(open(tmp_path/'r.csv')))
    assert list(rows[0]) == ['file', 'size', 'seconds', 'outcome'] and len(rows) == 4
    by_name, again = ({r['file']: r for r in part} for part in (rows[:2], rows[2:])) # in a run photos end in any order
    assert by_name['sub/a.jpg']['size'] == '120x80' and by_name['sub/a.jpg']['outcome'].startswith('colorized: ') and float(by_name['sub/a.jpg']['seconds']) >= 0
    assert by_name['bad.jpg']['outcome'].startswith('refused: ')
    assert again['sub/a.jpg']['outcome'].startswith('skipped') and again['bad.jpg']['outcome'].startswith('refused: ')


def test_what_is_lost_stands_in_the_report(tmp_path, capsys):
    Image.fromarray((np.arange(120*80, dtype=np.uint16)*6).reshape(80, 120)).save(tmp_path/'fine.png')
    assert main_orange(tmp_path/'fine.png', '--out', tmp_path/'a.jpg', '--report', tmp_path/'r.csv') == 0
    assert 'its 16 bits for each color became 8, because JPEG has 8' in capsys.readouterr().err
    (row,) = csv.DictReader(open(tmp_path/'r.csv'))
    assert row['outcome'].startswith(f'colorized: {tmp_path}') and '16 bits for each color became 8' in row['outcome']


def lightness16(path):
    "L of a result, read by another program; and how far its color is from gray, in levels."
    pixels = pytest.importorskip('tifffile').imread(path) if path.suffix == '.tif' else open_picture(path).pixels
    assert pixels.dtype == np.uint16
    return fullsize.srgb_to_lab(pixels[..., :3])[..., 0], np.ptp(pixels[..., :3].astype(int), axis=2).mean()


def gradient(kind):
    "20,000 grays from black to white, as numbers of this type."
    return np.linspace(0, 1, 20_000).reshape(100, 200).astype(np.float32) if kind == 'f4' else np.linspace(0, 65535, 20_000).reshape(100, 200).astype(kind)


@pytest.mark.parametrize('name, kind, how', [
    ('grey.tif', '<u2', {}), ('grey big.tif', '>u2', {}), ('grey tiles.tif', '<u2', dict(tile=(16, 32))), ('grey zip.tif', '>u2', dict(compression='zlib')), ('float.tif', 'f4', {}),
    ('print.tif', '<u2', dict(photometric='rgb')), ('print big.tif', '>u2', dict(photometric='rgb', tile=(16, 16))), ('print planes.tif', '<u2', dict(photometric='rgb', planarconfig='separate')), ('grey.png', '<u2', {})])
@pytest.mark.parametrize('end', ['png', 'tif'])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, capsys, name, kind, how, end):
    "The lightness of every pixel stays within a hundredth of a unit, and none of the 20,000 levels is lost; color is there, too; and the result is known as one."
    tifffile, grey, photo = pytest.importorskip('tifffile'), gradient(kind), tmp_path/name
    values = grey if 'photometric' not in how else np.stack([grey]*3, 0 if 'planarconfig' in how else -1)
    if photo.suffix == '.png': Image.fromarray(grey).save(photo, dpi=(300, 300))
    else: tifffile.imwrite(photo, values, metadata=None, resolution=(300, 300), byteorder='>' if kind == '>u2' else '<', **how)
    assert main_orange(photo, '--format', end) == 0
    said = capsys.readouterr().err
    assert ('its 32 bits for each color became 16' in said) == (kind == 'f4') and 'became 8' not in said
    result = photo.with_name(f'{photo.stem}_colorized.{end}')
    light, colored = lightness16(result)
    want = fullsize.srgb_to_lab(np.repeat(grey.astype(np.float64)[..., None]/(1 if kind == 'f4' else 65535), 3, 2))[..., 0]
    assert np.abs(light - want).max() < .01 and (np.diff(light.ravel()) > 0).all() and colored > 3000
    assert made_of(result) == source_of(photo)
    with Image.open(result) as im: assert [round(float(v)) for v in im.info['dpi']] == [300, 300] and im.info['icc_profile']
    assert main_orange(result) == 0 and '1 left out' in capsys.readouterr().out
    renamed = result.rename(tmp_path/f'album.{end}')
    assert main_orange(renamed) == 0 and 'album' in (said := capsys.readouterr().err) and 'was colored by this program' in said


def test_sixteen_bits_with_alpha_a_description_and_a_turn(tmp_path):
    "What a result of 8 bits keeps: transparency, EXIF with its date, XMP; in PNG and in TIFF."
    tifffile = pytest.importorskip('tifffile')
    grey, exif = gradient('u2'), Image.Exif()
    exif[274], exif[270], exif[0x8769] = 6, 'At the fair', {36867: '1932:05:01 10:00:00'}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/></rdf:RDF></x:xmpmeta>'
    write_picture(Picture(np.stack([grey]*3, 2), grey[::-1].copy(), xmp=xmp), tmp_path/'a.png')
    whole = (tmp_path/'a.png').read_bytes()
    at = whole.index(b'eXIf') - 4
    old = int.from_bytes(whole[at:at + 4]) + 12
    content = b'eXIf' + exif.tobytes()[6:]
    (tmp_path/'b.png').write_bytes(whole[:at] + (len(content) - 4).to_bytes(4) + content + zlib.crc32(content).to_bytes(4) + whole[at + old:]) # no result any more, and on its side
    for end in ('png', 'tif'):
        assert main_orange(tmp_path/'b.png', '--format', end) == 0
        back = open_picture(tmp_path/f'b_colorized.{end}')
        assert back.pixels.dtype == np.uint16 and back.pixels.shape == (200, 100, 3) and b'Rating="5"' in back.xmp and back.is_result
        np.testing.assert_array_equal(back.alpha, np.rot90(grey[::-1], -1))
        with Image.open(tmp_path/f'b_colorized.{end}') as im: assert im.getexif()[270] == 'At the fair' and im.getexif().get_ifd(0x8769)[36867] == '1932:05:01 10:00:00' and im.getexif()[274] == 1


@pytest.mark.parametrize('end', ['jpg', 'webp', 'avif', 'bmp'])
def test_what_cannot_hold_sixteen_bits_is_said_once(tmp_path, capsys, end):
    Image.fromarray(gradient('u2')).save(tmp_path/'a.png')
    assert main_orange(tmp_path/'a.png', '--format', end) == 0
    form = dict(jpg='JPEG', webp='WEBP', avif='AVIF', bmp='BMP')[end]
    assert capsys.readouterr().err.count(f'its 16 bits for each color became 8, because {form} has 8') == 1
    with Image.open(tmp_path/f'a_colorized.{end}') as im: assert im.mode == 'RGB' and im.size == (200, 100)


def test_python_colors_arrays_of_sixteen_bits():
    grey = np.repeat(gradient('u2')[..., None], 3, 2)
    out = always_orange()(grey)
    assert out.dtype == np.uint16 and np.abs(fullsize.srgb_to_lab(out)[..., 0] - fullsize.srgb_to_lab(grey)[..., 0]).max() < .01
    assert np.abs(eight(out).astype(int) - always_orange()(eight(grey))).max() <= 3 # the same color as in 8 bits


def test_a_report_is_never_written_into_another_file(tmp_path, weights, capsys):
    path = photo(tmp_path/'a.jpg')
    before = path.read_bytes()
    assert main([str(path), '--weights', str(weights), '--report', str(path)]) == 1
    assert path.read_bytes() == before and names(tmp_path) == ['a.jpg'] and 'no report' in capsys.readouterr().err


def test_shards_share_the_photos(tmp_path, weights):
    for i in range(9): photo(tmp_path/'album'/f'{i}.png', i, size=30)
    for i in (1, 2, 3):
        before = len(names(tmp_path))
        assert main([str(tmp_path/'album'), '--out', str(tmp_path/'out'), '--weights', str(weights), '--shard', f'{i}/3']) == 0
        assert len(names(tmp_path)) - before == sum(in_shard(f'{j}.png', i, 3) for j in range(9))
    assert len(names(tmp_path/'out')) == 9


@pytest.mark.parametrize('option', [['--shard', '0/3'], ['--shard', '4/3'], ['--jobs', '0'], ['--saturation', 'nan'], ['--saturation', '-1'], ['--format', 'gif']])
def test_options_that_make_no_sense(tmp_path, option):
    with pytest.raises(SystemExit) as e: main([str(tmp_path), *option])
    assert e.value.code == 2


def test_out_that_is_a_file_for_a_folder(tmp_path, weights, capsys):
    photo(tmp_path/'album'/'a.jpg'); (tmp_path/'file').touch()
    assert main([str(tmp_path/'album'), '--out', str(tmp_path/'file'), '--weights', str(weights)]) == 1
    assert 'is a file' in capsys.readouterr().err


def test_saturation(tmp_path):
    photo(tmp_path/'a.png')
    for s in (0, 1): assert main_orange(tmp_path/'a.png', '--out', tmp_path/f'{s}.png', '--saturation', s) == 0
    spread = [np.ptp(open_picture(tmp_path/f'{s}.png').pixels.astype(int), axis=2).max() for s in (0, 1)]
    assert spread[0] == 0 and spread[1] > 20


SLOW = """
import sys, time
from colorization_pix2pix.inference import batch as folders
from colorization_pix2pix.inference.cli import main
write = folders.write_picture
def slow(*args):
    print('writing', flush=True)
    time.sleep(.5)
    return write(*args)
folders.write_picture = slow
sys.exit(main(sys.argv[1:]))
"""


def test_bar_with_the_time_that_is_left(tmp_path, weights):
    "Where standard error is a terminal. Slowed down: a bar is drawn anew ten times a second at most, and a quick machine is done before."
    for i in range(4): photo(tmp_path/f'{i}.jpg', i)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('4H', 24, 80, 0, 0))
    process = subprocess.Popen([sys.executable, '-c', SLOW, tmp_path, '--weights', weights], stderr=slave, stdout=subprocess.DEVNULL)
    os.close(slave)
    shown = b''
    while select.select([master], [], [], 60)[0]:
        try: shown += os.read(master, 9999)
        except OSError: break # the other end is closed
    os.close(master)
    assert process.wait(60) == 0 and re.search(rb'[1-4]/4 \[\d\d:\d\d<\d\d:\d\d', shown), shown


@pytest.mark.parametrize('kind', ['folder', 'photo'])
def test_ctrl_c(tmp_path, weights, kind):
    "One sentence, 130, nothing half written: what is at work is ended, nothing else is begun; and a folder goes on from there."
    for i in range(8): photo(tmp_path/'album'/f'{i}.png', i)
    args = [tmp_path/'album', '--out', tmp_path/'out'] if kind == 'folder' else [tmp_path/'album'/'0.png']
    process = subprocess.Popen([sys.executable, '-c', SLOW, *args, '--weights', weights, '--jobs', '2'], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) # a job in the background inherits that it is ignored
    assert process.stdout.readline() == 'writing\n'
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and err.startswith('colorize: stopped') and err.count('\n') == 1, err
    made = list(tmp_path.rglob('*_colorized*'))
    assert len(made) <= 3 and not list(tmp_path.rglob('*.part'))
    for p in made: assert open_picture(p).pixels.shape == (80, 120, 3)
    if kind == 'folder':
        assert run(*args, '--weights', weights).returncode == 0 and len(names(tmp_path/'out')) == 8


# What is said, and to whom

def three(folder):
    "Photographs that need more than ASCII, and one that is refused."
    for i, name in enumerate(('사진.jpg', 'Großmutter é.jpg', 'a.jpg')): photo(folder/name, i)
    (folder/'bad ü.jpg').write_text('no', encoding='utf-8')
    return sorted(folder.iterdir())


def results(folder): return len(list(folder.glob('*_colorized*')))


@pytest.mark.parametrize('encoding', ['cp1252', 'cp949', 'ascii'])
def test_output_in_a_narrow_encoding_drops_no_photo(tmp_path, weights, encoding):
    "Redirected on Windows, output is written in the country's code page."
    done = subprocess.run([COMMAND, *three(tmp_path), '--weights', weights], capture_output=True, timeout=100, env=os.environ | dict(PYTHONIOENCODING=encoding, PYTHONUTF8='0'))
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 1 and results(tmp_path) == 3 and out.count(' -> ') == 3 and '3 of 4 photos colorized, 1 refused' in out and err.count('\n') == 1, err
    assert ('사진_colorized' in out) == (encoding == 'cp949') and ('Großmutter é_colorized' in out) == (encoding == 'cp1252')


SHELLS = {'head': '"$@" | head -1', 'stdout closed': '"$@" >&-', 'stderr closed': '"$@" 2>&-', 'all closed': '"$@" <&- >&- 2>&-', 'stdout full': '"$@" > /dev/full', 'both full': '"$@" > /dev/full 2>&1'}


@pytest.mark.parametrize('shell', SHELLS)
def test_nobody_has_to_listen(tmp_path, weights, shell):
    photos = three(tmp_path)
    done = run('-o', 'pipefail', '-c', SHELLS[shell], 'bash', COMMAND, *photos, '--weights', weights, '--report', tmp_path/'r.csv', command='bash')
    assert done.returncode == 1 and results(tmp_path) == 3 and len((tmp_path/'r.csv').read_text(encoding='utf-8').splitlines()) == 5, done.stderr
    assert not re.search('Traceback|Exception|BrokenPipe', done.stdout + done.stderr), done.stderr
    assert ('No space left' in done.stderr) == (shell == 'stdout full')
    assert done.stderr.count('bad ü.jpg') == (shell in ('head', 'stdout closed', 'stdout full'))


def test_streams_are_as_they_were(tmp_path):
    "`main` called from Python: neither replaced nor left with other errors."
    before, errors = (sys.stdout, sys.stderr), sys.stdout.errors
    assert main_orange(photo(tmp_path/'a.jpg')) == 0 and (sys.stdout, sys.stderr) == before and sys.stdout.errors == errors


def test_a_report_that_is_lost_on_the_way_stops_nothing(tmp_path, monkeypatch, capsys):
    for i in range(3): photo(tmp_path/f'{i}.jpg', i)
    def full(self, outcome): raise UserError('r.csv cannot be written (No space left on device): make room.')
    monkeypatch.setattr(folders.CSVReport, 'add', full)
    assert main_orange(tmp_path, '--report', tmp_path/'r.csv') == 1 and results(tmp_path) == 3
    assert capsys.readouterr().err == 'colorize: r.csv cannot be written (No space left on device): make room. The photos go on without it.\n'


def test_a_folder_ends_with_what_was_done_and_passed_over_and_where_the_results_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('colorization_pix2pix.inference.cli.limits_line', lambda *a: '') # whatever the weights in the package do badly
    album, out = tmp_path/'album', tmp_path/'out'
    photo(album/'a.jpg'); photo(album/'sub'/'b.jpg', 1); photo(tmp_path/'elsewhere'/'c.jpg', 2)
    for name in ('letter.pdf', 'film.mp4', 'sub/x.PDF', '.DS_Store', 'README'): (album/name).touch()
    (album/'links').symlink_to(tmp_path/'elsewhere'); (album/'sub'/'back').symlink_to(album); (album/'again').symlink_to(album/'sub')
    assert main_orange(album, '--out', out) == 0
    end = capsys.readouterr().out.splitlines()
    assert end[0].startswith('7 passed over') and set(re.search(r'\((.*)\)', end[0])[1].split(', ')) == {'.pdf 2', 'folders that are looked into under another name 2', '.mp4 1', 'hidden 1', 'without an ending 1'}
    assert end[1:] == ['3 of 3 photos colorized', f'results are in {out}'] and names(out) == ['a_colorized.jpg', 'links/c_colorized.jpg', 'sub/b_colorized.jpg']
    assert main_orange(album, '--out', out) == 0
    assert '3 skipped' in (said := capsys.readouterr().out) and said.endswith(f'0 of 3 photos colorized\nresults are in {out}\n')
    assert main_orange(tmp_path/'elsewhere') == 0
    assert capsys.readouterr().out == '1 of 1 photos colorized\nresults are beside the photos, as NAME_colorized\n'


def test_what_the_weights_do_badly_is_said_once_and_in_the_help(tmp_path, monkeypatch, capsys):
    from colorization_pix2pix.inference import cli as colorize
    photo(tmp_path/'a.jpg'); photo(tmp_path/'b.jpg', 1)
    own = Colorizer(Network(orange, dict(space='lab', size=32, limits='Clothes come out grey.')))
    with mock.patch.object(Colorizer, 'load', lambda *a, **k: own): assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == 'Clothes come out grey.'
    (tmp_path/'LIMITS.txt').write_text('Flags are guessed – always.\n', encoding='utf-8')
    monkeypatch.setattr(colorize.resources, 'files', lambda package: tmp_path)
    with pytest.raises(SystemExit): main(['--help'])
    assert 'Flags are guessed – always.' in capsys.readouterr().out
    assert main_orange(tmp_path/'a.jpg') == 0 and capsys.readouterr().out.endswith('Flags are guessed – always.\n')
    assert main_orange(tmp_path/'a.jpg', '--weights', 'mine.onnx') == 0 and 'Flags' not in capsys.readouterr().out # others say it themselves


# What is asked for

@pytest.mark.parametrize('args, words', [(['--saturation', '3.1'], 'from 0 to 3'), (['--saturation', 'much'], 'much is not a number'), (['--quality', '101'], 'from 1 to 100'), (['--jobs', '1.5'], '1.5 is not a whole number'),
                                         (['--nonsense'], '--nonsense'), (['--format', 'gif'], 'gif'), ([], 'name a photo or a folder'), (['-', 'b.jpg'], 'goes alone'), (['-', '--report', 'r.csv', '--variants', '2'], '--report, --variants'),
                                         (['a.jpg', '--web'], '--web takes no photos'), (['--port', '70000'], '70000'), (['--hint', 'a\nb'], 'is not like')])
def test_a_wrong_option_costs_one_line(args, words, capsys):
    if args and args[0] in ('--saturation', '--quality', '--jobs', '--hint'): args = ['a.jpg', *args]
    with pytest.raises(SystemExit) as e: main(args)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and out == '' and err.startswith('colorize: ') and err.count('\n') == 1 and words in err and '--help' in err


def test_version(capsys):
    from colorization_pix2pix import __version__
    with pytest.raises(SystemExit) as e: main(['--version'])
    assert e.value.code == 0 and capsys.readouterr().out == f'colorize {__version__}\n'


def test_out_that_is_not_there_yet_is_made(tmp_path, capsys, monkeypatch):
    for i in range(3): photo(tmp_path/f'{i}.jpg', i)
    photos = sorted(tmp_path.glob('*.jpg'))
    assert main_orange(*photos, '--out', tmp_path/'new'/'deep') == 0 and names(tmp_path/'new') == [f'deep/{i}_colorized.jpg' for i in range(3)]
    assert main_orange(photos[0], '--out', tmp_path/'one') == 0 and names(tmp_path/'one') == ['0_colorized.jpg']
    assert main_orange(photos[0], '--out', f'{tmp_path}/1950.2/') == 0 and names(tmp_path/'1950.2') == ['0_colorized.jpg']
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    assert main_orange(photos[0], '--out', '~/results') == 0 and names(tmp_path/'home') == ['results/0_colorized.jpg'] # --out=~/results reaches the command like this
    (tmp_path/'bad.png').write_text('no'); capsys.readouterr()
    assert main_orange(tmp_path/'bad.png', '--out', tmp_path/'not made') == 1 and not (tmp_path/'not made').exists()


def test_the_folder_of_a_file_that_out_names_is_made(tmp_path, capsys, monkeypatch):
    path = photo(tmp_path/'0.jpg', 0)
    assert main_orange(path, '--out', tmp_path/'new'/'deep'/'a.jpg') == 0 and names(tmp_path/'new') == ['deep/a.jpg']
    monkeypatch.chdir(tmp_path)
    assert main_orange(path, '--out', 'here.jpg') == 0 and main_orange(path, '--out', 'more/here.jpg') == 0 and (tmp_path/'here.jpg').exists() and names(tmp_path/'more') == ['here.jpg']
    (tmp_path/'bad.png').write_text('no'); capsys.readouterr()
    assert main_orange(tmp_path/'bad.png', '--out', tmp_path/'not made'/'a.jpg') == 1 and not (tmp_path/'not made').exists()
    assert main_orange(path, '--out', tmp_path/'0.jpg'/'sub'/'a.jpg') == 1 and '0.jpg is a file' in capsys.readouterr().err
    assert main_orange(path, '--out', tmp_path/'other'/'a.xyz') == 1 and not (tmp_path/'other').exists()


@pytest.mark.parametrize('out, words', [('0.jpg', 'is a file'), ('0.jpg/sub', '0.jpg is a file'), ('new.jpg', 'would be one picture')])
def test_out_that_cannot_be_a_folder_costs_one_line(tmp_path, capsys, out, words):
    for i in range(3): photo(tmp_path/f'{i}.jpg', i)
    before = snapshot(tmp_path)
    assert main_orange(*sorted(tmp_path.glob('*.jpg')), '--out', tmp_path/out) == 1
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1 and snapshot(tmp_path) == before


def test_patterns_that_no_shell_has_replaced(tmp_path, capsys):
    for i, name in enumerate(('a.jpg', 'b.jpg', 'c.png', 'd[1].jpg')): photo(tmp_path/'in'/name, i)
    assert main_orange(tmp_path/'in'/'*.jpg', '--out', tmp_path/'out') == 0
    assert names(tmp_path/'out') == ['a_colorized.jpg', 'b_colorized.jpg', 'd[1]_colorized.jpg']
    capsys.readouterr()
    assert main_orange(tmp_path/'in'/'*.tif', tmp_path/'in'/'[ab].jpg', tmp_path/'in'/'c.p?g') == 1
    out, err = capsys.readouterr()
    assert '*.tif fits no file' in err and '[ab].jpg cannot be read' in err and err.count('\n') == 2 and out.count(' -> ') == 1 # brackets are no pattern: cameras and browsers write them


def test_what_is_no_photograph_gets_a_sentence_of_its_own(tmp_path, capsys):
    for name, start in [('a.pdf', b'%PDF-1.7\n'), ('b.mp4', b'\0\0\0\x20ftypisom'), ('c.mov', b'\0\0\0\x14ftypqt  '), ('d.mkv', b'\x1aE\xdf\xa3'), ('e.avi', b'RIFF\0\0\0\0AVI LIST')]:
        (tmp_path/name).write_bytes(start + bytes(99))
        assert main_orange(tmp_path/name) == 1
        assert (f'{name} is a PDF' if name == 'a.pdf' else f'{name} is a film') in (err := capsys.readouterr().err) and err.count('\n') == 1
    for address in ('https://example.org/a.jpg', 'file:///home/a.jpg', 's3://photos/a.jpg'):
        assert main_orange(address) == 1
        assert f'{address} is an address' in (err := capsys.readouterr().err) and err.count('\n') == 1


def through(data, *args, **kwargs): return subprocess.run([COMMAND, '-', *map(str, args)], input=data, capture_output=True, timeout=100, **kwargs)


def test_a_picture_through_a_pipe(tmp_path, weights):
    for name, form in [('a.jpg', 'JPEG'), ('a.webp', 'PNG')]:
        done = through(photo(tmp_path/name).read_bytes(), '--weights', weights, cwd=tmp_path)
        with Image.open(io.BytesIO(done.stdout)) as im: assert (im.format, im.size) == (form, (120, 80)) and np.ptp(np.asarray(im).astype(int), axis=2).max() > 10
        assert done.returncode == 0 and done.stderr == b''
    again = through(done.stdout, '--weights', weights)
    assert again.returncode == 1 and again.stdout == b'' and b'standard input was colored by this program' in again.stderr
    to_file = through((tmp_path/'a.jpg').read_bytes(), '--weights', weights, '--out', tmp_path/'b.png')
    assert to_file.returncode == 0 and to_file.stdout.decode() == f'standard input -> {tmp_path}/b.png\n' and open_picture(tmp_path/'b.png').pixels.shape == (80, 120, 3)
    assert names(tmp_path) == ['a.jpg', 'a.webp', 'b.png']


@pytest.mark.parametrize('data, words', [(b'', 'Standard input is empty'), (b'Dear grandmother', 'standard input is no picture'), (b'%PDF-1.7 and more', 'standard input is a PDF')])
def test_what_comes_through_a_pipe_and_is_no_picture(data, words, weights):
    done = through(data, '--weights', weights)
    assert done.returncode == 1 and done.stdout == b'' and done.stderr.decode().startswith(f'colorize: {words}') and done.stderr.count(b'\n') == 1


def test_quality(tmp_path, capsys):
    photo(tmp_path/'a.jpg', size=400)
    sizes = []
    for q in (10, 95, 100):
        assert main_orange(tmp_path/'a.jpg', '--quality', q, '--out', tmp_path/f'{q}.jpg') == 0
        sizes.append((tmp_path/f'{q}.jpg').stat().st_size)
    assert main_orange(tmp_path/'a.jpg', '--out', tmp_path/'usual.jpg') == 0
    assert sizes[0] < sizes[1] < sizes[2] and (tmp_path/'usual.jpg').stat().st_size == sizes[1]
    for other in (['--format', 'png'], ['--out', tmp_path/'b.webp']):
        assert main_orange(tmp_path/'a.jpg', '--quality', 50, *other) == 1 and '--quality is about JPEG' in capsys.readouterr().err


def test_a_name_of_255_bytes(tmp_path, capsys):
    long = photo(tmp_path/f'{"ä"*125}a.jpg'); photo(tmp_path/'b.jpg', 1)
    assert len(os.fsencode(long.name)) == 255 and main_orange(tmp_path) == 1
    out, err = capsys.readouterr()
    assert 'File name too long' in err and 'choose a shorter one' in err and 'room' not in err and err.count('\n') == 1 and '1 of 2 photos colorized, 1 refused' in out
    assert main_orange(long, '--out', tmp_path/'short.jpg') == 0


@pytest.mark.parametrize('number, words', [('ENOSPC', 'make room on the disk'), ('EROFS', 'can only be read'), ('EACCES', 'permissions'), ('EDQUOT', 'share of the disk'), ('EIO', 'the disk reports an error'), ('EMFILE', '--jobs'), ('ESTALE', 'connect')])
def test_each_reason_why_a_result_cannot_be_written_has_its_own_way_out(tmp_path, monkeypatch, capsys, number, words):
    from colorization_pix2pix.core import storage
    code = getattr(errno, number)
    def refuse(part, path): raise OSError(code, os.strerror(code))
    monkeypatch.setattr(storage, '_place', refuse)
    assert main_orange(photo(tmp_path/'a.jpg')) == 1
    err = capsys.readouterr().err
    assert os.strerror(code) in err and words in err.partition(os.strerror(code))[2] and err.count('\n') == 1 and names(tmp_path) == ['a.jpg']


# Ray

def test_ray_missing_is_one_sentence(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'ray', None)
    monkeypatch.setitem(sys.modules, 'ray.data', None)
    assert main([str(photo(tmp_path/'a.jpg')), '--ray', '--weights', str(weights)]) == 1
    assert 'pip install "ray[data]"' in capsys.readouterr().err


class StandIn:
    "The part of Ray Data that is used, in this process. For variants as well."
    class DataContext:
        enable_progress_bars = True
        @classmethod
        def get_current(cls): return cls
    @classmethod
    def from_items(cls, items, override_num_blocks): cls.items = items; return cls
    @classmethod
    def map(cls, worker, fn_constructor_args, concurrency): cls.rows = map(worker(*fn_constructor_args), cls.items); return cls
    @classmethod
    def iter_rows(cls): return cls.rows


@pytest.mark.parametrize('real', [False, True])
def test_ray_one_bad_file_never_ends_the_job(tmp_path, weights, monkeypatch, capsys, real):
    if real: pytest.importorskip('ray.data', reason='ray is optional')
    else:
        monkeypatch.setitem(sys.modules, 'ray', types.SimpleNamespace(data=StandIn))
        monkeypatch.setitem(sys.modules, 'ray.data', StandIn)
    for i in range(3): photo(tmp_path/'album'/f'{i}.jpg', i)
    make_bad(tmp_path/'album')
    args = [str(tmp_path/'album'), '--out', str(tmp_path/'out'), '--ray', '--report', str(tmp_path/'r.csv'), '--jobs', '2']
    assert main([*args, '--weights', str(weights)]) == 1
    assert names(tmp_path/'out') == [f'{i}_colorized.jpg' for i in range(3)] and '3 of 11 photos colorized, 8 refused' in capsys.readouterr().out
    assert len(list(csv.DictReader(open(tmp_path/'r.csv')))) == 11
    photo(tmp_path/'album'/'new.jpg')
    assert main([*args, '--weights', str(tmp_path/'absent.onnx')]) == 1 and 'no weights file' in capsys.readouterr().err


# Hints

def test_a_hint_is_there_even_if_the_network_does_not_listen():
    deaf = Network(lambda x: 0*x[:, :2], dict(space='lab+hints', size=32, saturation=1.7))
    ab = Colorizer(deaf).ab(np.full((64, 64, 3), 128, np.uint8), [(11, 15, (200, 80, 60))])
    assert np.abs(ab[7, 5] - fullsize.srgb_to_lab(np.uint8((200, 80, 60)))[1:]).max() < 1e-3 and np.count_nonzero(ab.any(-1)) == 9


@pytest.mark.parametrize('end', ['safetensors', 'onnx'])
def test_weights_that_see_grey_three_times(tmp_path, end):
    torch.manual_seed(0)
    own, other = tmp_path/'own.safetensors', tmp_path/'other.onnx'
    save_generator(own, build_generator('unet', 3, 3, 64, ngf=8).eval(), SPEC | dict(space='rgb3'))
    if end == 'onnx': export_onnx(own, other)
    picture = draw_scenes(1, 120, seed=1)[0]
    result = Colorizer.load(own if end == 'safetensors' else other)(picture)
    assert result.shape == picture.shape and np.ptp(result.astype(int), axis=2).max() > 0


def test_a_hint_is_not_multiplied_by_the_saturation_of_the_weights():
    echo = Network(lambda x: x[:, 2:4], dict(space='lab+hints', size=32, saturation=1.7))
    ab = Colorizer(echo).ab(np.full((32, 32, 3), 128, np.uint8), [(5, 7, (200, 80, 60))])
    assert np.abs(ab[7, 5] - fullsize.srgb_to_lab(np.uint8((200, 80, 60)))[1:]).max() < 1e-3 and not ab[20, 20].any()


@pytest.fixture(scope='module')
def hinted(tmp_path_factory):
    "The same random network that takes hints, as training leaves it and exported."
    folder = tmp_path_factory.mktemp('hinted')
    torch.manual_seed(0)
    net = build_generator('unet', 4, 2, 64, ngf=8)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.01, .1)
    save_generator(folder/'weights.safetensors', net, SPEC | dict(space='lab+hints'))
    return export_onnx(folder/'weights.safetensors', folder/'weights.onnx')


def test_hints_reach_the_network_as_in_training(hinted):
    "A square of 3x3 pixels with its color, as `place_hints` makes it; without hints there are zeros."
    from colorization_pix2pix.training.hints import place_hints
    colorizer, seen = Colorizer.load(hinted), []
    recorder = Colorizer(Network(lambda x: (seen.append(x), colorizer.network.run(x))[1], colorizer.experiment))
    picture = draw_scenes(1, 128, seed=1)[0]
    hints = [(0, 0, (255, 0, 0)), (101, 31, (0, 90, 250)), (127, 127, (30, 200, 60)), (125, 127, (200, 200, 60))]
    lab = [srgb_to_lab(torch.tensor(rgb, dtype=torch.uint8).reshape(1, 3, 1, 1))[0, 1:, 0, 0].tolist() for _, _, rgb in hints]
    want = place_hints([(y//2, x//2, ab) for (x, y, _), ab in zip(hints, lab)], 64).numpy()
    first, second = recorder.ab(picture, hints), recorder.ab(picture)
    assert np.abs(seen[0][:, 1:] - want).max() < 1e-4 and np.array_equal(seen[0][:, :1], seen[1][:, :1])
    assert np.abs(seen[1][:, 1:]).max() == 0 and np.abs(first - second).max() > 1


def test_hints_are_the_same_through_torch_and_onnx(hinted):
    picture, hints = draw_scenes(1, 100, seed=1)[0], [(20, 30, (200, 30, 30))]
    own, exported = Colorizer.load(hinted.with_suffix('.safetensors')), Colorizer.load(hinted)
    for some in ([], hints): assert np.abs(own.ab(picture, some) - exported.ab(picture, some)).max() < .11 # 1e-3 of 110
    assert np.abs(own.ab(picture, hints) - own.ab(picture)).max() > 1


def test_hints_of_the_command_are_pixels_of_the_upright_photo(tmp_path, hinted):
    path, args = photo(tmp_path/'a.png', exif=full_exif(6)), ['--weights', hinted, '--out']
    assert main([*map(str, (path, *args, tmp_path/'0.png'))]) == 0
    assert main([*map(str, (path, *args, tmp_path/'1.png', '--hint', '70,110,#c03020', '--hint', '5,5,#2030C0'))]) == 0
    got, upright = open_picture(tmp_path/'1.png').pixels, open_picture(path).pixels
    assert got.shape == (120, 80, 3) and (got != open_picture(tmp_path/'0.png').pixels).any()
    assert np.array_equal(got, Colorizer.load(hinted)(upright, hints=[(70, 110, (192, 48, 32)), (5, 5, (32, 48, 192))]))


@pytest.mark.parametrize('hint', ['12', '12,8', '12,8,red', '12,8,#ff00', '1.5,8,#ff0000', 'x,8,#ff0000', '12,8,#ff0000,'])
def test_hints_that_are_none(tmp_path, hint, capsys):
    with pytest.raises(SystemExit) as e: main([str(tmp_path), '--hint', hint])
    assert e.value.code == 2 and 'is not like 120,80,#c03020' in capsys.readouterr().err


def test_hints_outside_or_for_several_photos_or_for_weights_without(tmp_path, hinted, weights, capsys):
    a, b = photo(tmp_path/'a.jpg'), photo(tmp_path/'b.jpg', 1)
    for photos, hint, file, words in [([a], '120,5,#ff0000', hinted, '120, 5 is not in the picture: it has 120 x 80 pixels'), ([a], '5,80,#ff0000', hinted, 'not in the picture'),
                                      ([a, b], '5,5,#ff0000', hinted, 'that photo alone'), ([tmp_path], '5,5,#ff0000', hinted, 'that photo alone'), ([a], '5,5,#ff0000', weights, 'take no hints')]:
        assert main([*map(str, photos), '--weights', str(file), '--hint', hint]) == 1
        err = capsys.readouterr().err
        assert words in err and err.count('\n') == 1
    assert names(tmp_path) == ['a.jpg', 'b.jpg']
