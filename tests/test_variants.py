"""Several colorings and the map of the uncertainty. Networks are random or stand-ins whose distribution is known, pictures made here."""
import subprocess, sys, threading, types
from pathlib import Path
from unittest import mock
import numpy as np, onnx, pytest, torch
from PIL import Image
from colorization_pix2pix.inference import batch as folders
from colorization_pix2pix.inference.cli import main
from colorization_pix2pix.inference.colorizer import Colorizer, is_result, show_uncertainty
from colorization_pix2pix.inference.render import srgb_to_lab
from colorization_pix2pix.inference.backend import _SEAL, Network, _sealed, export_onnx, load_network, onnx_bytes
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.data.image_files import open_picture
from colorization_pix2pix.data.scenes import draw_scenes
from colorization_pix2pix.models.io import build_generator, save_generator
from test_colorize import StandIn

SPEC = dict(generator='classes', arch='resnet18', space='lab+hints', size=64, ngf=8, dropout=.5, sharpness=2.)


def decided(net):
    "As after a training: BatchNorm that does something, and logits that differ; a new network finds all colors alike."
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.01, .1)
    with torch.no_grad(): net.ups[-1][1].weight.mul_(10)
    return net.eval()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "A random network of classes that takes hints, as training leaves it and exported."
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    save_generator(folder/'weights.safetensors', decided(build_generator('classes', 4, 2, 64, ngf=8, sharpness=2.)), SPEC)
    return export_onnx(folder/'weights.safetensors', folder/'weights.onnx')


@pytest.fixture(scope='module')
def colorizer(weights): return Colorizer.load(weights)


@pytest.fixture(scope='module')
def picture(): return draw_scenes(1, 150, seed=4)[0][:100]


COLORS = np.float32([[60, 40], [-50, 50], [0, -70]])


def torn_colorizer(chances=(.5, .3, .2), size=64, sharpness=1.):
    "Finds three colors possible, everywhere the same; where there is a hint it takes the color next to that for sure, everywhere: it spreads a hint as far as can be."
    def p(x):
        hint = x[0, 2:][:, x[0, 1] > 0].T*110
        if not len(hint): return np.float32(chances)
        return np.eye(3, dtype=np.float32)[((COLORS - hint[-1])**2).sum(1).argmin()]
    def logits(x): return np.broadcast_to(np.log(p(x) + 1e-30)[None, :, None, None], (1, 3, x.shape[2]//2, x.shape[3]//2))
    def y(x):
        q = p(x)**sharpness
        return np.broadcast_to((q/q.sum() @ COLORS/110).astype(np.float32)[None, :, None, None], (1, 2, *x.shape[2:]))
    return Colorizer(Network(y, dict(space='lab+hints', size=size, sharpness=sharpness), score=logits, points=COLORS))


def photo(path, seed=0, size=120, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_scenes(1, size, seed=seed)[0][:size*2//3]).convert('L').save(path, **options)
    return path


def names(folder): return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def snapshot(folder): return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob('*') if p.is_file()}


# The distribution

@pytest.mark.parametrize('half', [True, False])
def test_exported_logits_are_those_of_torch(tmp_path, weights, half):
    own, exported = load_network(weights.with_suffix('.safetensors')), load_network(export_onnx(weights.with_suffix('.safetensors'), tmp_path/'net.onnx', half))
    x = torch.rand(1, 4, 64, 64)*2 - 1
    for shape in [(64, 64), (128, 128), (64, 192)]:
        square = torch.nn.functional.interpolate(x, shape, mode='bilinear').numpy()
        want = own.score(square)
        assert want.shape == (1, len(own.points), shape[0]//2, shape[1]//2) and np.ptp(want) > 1
        assert np.abs(exported.score(square) - want).max() < 1e-3*(max(1, np.abs(want).max()) if half else 1), shape # 16 bits hold a share of a number
    assert np.array_equal(own.points, exported.points) and own.points.min() >= -110 and np.abs(own.points).max() > 50


def test_the_distribution_is_the_one_that_is_read_out(weights):
    "Sharpened as the experiment says, through torch and through ONNX Runtime: its mean is the answer."
    x = np.random.default_rng(0).uniform(-1, 1, (4, 64, 64)).astype(np.float32)
    for file in (weights, weights.with_suffix('.safetensors')):
        network = load_network(file)
        mean = torch.from_numpy(network.colors(x).mean()).permute(2, 0, 1)[None]
        want = torch.nn.functional.interpolate(mean, scale_factor=2, mode='bilinear')[0].permute(1, 2, 0).numpy()
        assert np.abs(want - network.ab(x)).max() < 1e-2 and np.ptp(want) > 3
        assert np.abs(network.colors(x).chances.sum(-1) - 1).max() < 1e-5


def test_files_with_one_output_still_work(tmp_path, weights, picture):
    "As they were written before there was a second one."
    model = onnx.load(weights)
    del model.graph.output[1:]
    label = {p.key: p.value for p in model.metadata_props if p.key not in ('colours', 'content_sha256')}
    onnx.helper.set_model_props(model, label)
    (tmp_path/'old.onnx').write_bytes(_sealed(model.SerializeToString()))
    old = Colorizer.load(tmp_path/'old.onnx')
    assert np.array_equal(old(picture), Colorizer.load(weights)(picture)) and not old.network.has_chances
    with pytest.raises(UserError, match='generator classes'): old.uncertainty(picture)
    assert len(weights.read_bytes()[:-len(_SEAL) - 64]) > len(model.SerializeToString())


def test_other_generators_keep_one_output():
    content = onnx_bytes(build_generator('unet', 4, 2, 64, ngf=8).eval(), SPEC | dict(generator='unet'))
    assert [o.name for o in onnx.load_from_string(content).graph.output] == ['y']


# The uncertainty

@pytest.mark.parametrize('sharpness', [1., 2.])
@pytest.mark.parametrize('shape', [(100, 150), (150, 100), (31, 400)])
def test_uncertainty_of_a_known_distribution(sharpness, shape):
    p = np.float64([.5, .3, .2])**sharpness
    p /= p.sum()
    want = np.sqrt(p @ ((COLORS - p @ COLORS)**2).sum(1))
    grey = np.full((*shape, 3), 90, np.uint8)
    got = torn_colorizer(sharpness=sharpness).uncertainty(grey)
    assert got.dtype == np.float32 and got.shape == torn_colorizer().ab(grey).shape[:2] and np.abs(got - want).max() < 1e-4
    assert torn_colorizer().uncertainty(grey, hints=[(5, 5, (250, 20, 20))]).max() < 1e-4


def test_uncertainty_lies_where_it_belongs():
    "Unsure in the middle alone: the map is bright in the middle, whatever the shape."
    def logits(x):
        sure = np.float32(np.abs(x[:, :1, ::2, ::2] + .1) > .2)*50 # of the first of two colors, except where the picture is about middle grey
        return np.concatenate([sure, 0*sure], 1)
    middle = Colorizer(Network(lambda x: x[:, :2], dict(space='lab+hints', size=256), score=logits, points=COLORS[:2]))
    for h, w in [(100, 400), (400, 100), (90, 640)]:
        grey = np.full((h, w, 3), 20, np.uint8)
        grey[h*3//8:h*5//8, w*3//8:w*5//8] = 106
        shown = show_uncertainty(middle.uncertainty(grey), (h, w)).astype(int).sum(-1)
        ys, xs = np.nonzero(shown > 300)
        assert shown.shape == (h, w) and abs(ys.mean()/h - .5) < .03 and abs(xs.mean()/w - .5) < .03 and abs(np.ptp(xs)/w - .25) < .1


# Variants

def test_the_same_seed_gives_the_same_and_another_others(colorizer, weights, picture):
    first, again, other = (list(colorizer.variants_ab(picture, 3, seed)) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    every = first + other
    assert all(np.abs(a - b).max() > 1 for i, a in enumerate(every) for b in every[:i]), 'two of them are alike'
    assert np.array_equal(next(iter(colorizer.variants_ab(picture, 1, 5))), first[0]), 'the first depends on how many there are'


def test_torch_and_onnx_runtime_draw_the_same(tmp_path, weights, picture):
    "With the same weights; rounded to 16 bits they may draw a neighbour of the color, or of the place."
    own = weights.with_suffix('.safetensors')
    pairs = zip(*(Colorizer.load(file).variants_ab(picture, 3, 5) for file in (own, export_onnx(own, tmp_path/'exact.onnx', half=False))))
    assert all(np.abs(a - b).max() < .1 for a, b in pairs)


def test_sampling_follows_the_distribution(picture):
    "Chi-square with two degrees of freedom: 13.8 is exceeded once in a thousand. And all places of a variant agree, because the stand-in spreads a hint."
    n, drawn = 600, []
    for ab in torn_colorizer().variants_ab(picture, n):
        assert np.ptp(ab, axis=(0, 1)).max() < 1e-3
        drawn.append(((COLORS - ab[0, 0])**2).sum(1).argmin())
        assert np.abs(COLORS[drawn[-1]] - ab[0, 0]).max() < 1e-3
    counts, want = np.bincount(drawn, minlength=3), n*np.array([.5, .3, .2])
    assert ((counts - want)**2/want).sum() < 13.8, counts


def test_a_network_that_hears_no_hints_gives_whole_colorings_too(picture):
    "Two kinds of places, torn between other colors each, in the checks of a board: each kind takes one decision, and both follow their chances."
    points = np.float32([[60, 40], [-50, 50], [0, -70], [20, -20]])
    def logits(x):
        board = (np.indices((x.shape[2]//2, x.shape[3]//2))//8).sum(0) % 2
        p = np.where(board, np.float32([.8, .2, 0, 0])[:, None, None], np.float32([0, 0, .4, .6])[:, None, None])
        return np.log(p + 1e-30)[None].astype(np.float32)
    def mean(x): return np.einsum('bqhw,qc->bchw', np.exp(logits(x)), points/110).repeat(2, 2).repeat(2, 3)
    deaf = Colorizer(Network(mean, dict(space='lab+hints', size=64), score=logits, points=points))
    first, second = [], []
    for ab in deaf.variants_ab(picture, 400):
        for found, rows in ((first, slice(20, 28)), (second, slice(4, 12))): # inside of one check each
            drawn = np.abs(points - ab[rows.start, 8]).sum(1).argmin()
            assert np.abs(ab[rows, 4:12] - points[drawn]).max() < .1 and np.abs(ab[rows, 36:44] - points[drawn]).max() < .1, 'one decision, also far away'
            found.append(drawn)
    assert abs(np.mean(np.array(first) == 0) - .8) < .08 and abs(np.mean(np.array(second) == 2) - .4) < .08


def test_what_the_user_says_holds_in_all_variants(picture):
    for ab in torn_colorizer().variants_ab(picture, 20, hints=[(5, 5, (200, 60, 0))]): assert (np.abs(ab - COLORS[0]).max(-1) > 1e-3).sum() == 9 # the hint itself has the user's own color


def test_sampling_is_as_sharp_as_the_readout(picture):
    drawn = [ab[0, 0, 0] > 50 for ab in torn_colorizer(sharpness=2.).variants_ab(picture, 600)]
    assert abs(np.mean(drawn) - .25/.38) < .07


def test_hints_of_the_user_are_in_every_question(weights, picture):
    "Unchanged, and drawn hints keep away from them and from each other."
    real, seen = load_network(weights), []
    watched = lambda f: lambda x: (seen.append(x[0].copy()), f(x))[1]
    recorder = Colorizer(Network(watched(real.run), real.experiment, score=watched(real.score), points=real.points))
    hints = [(20, 30, (200, 30, 30)), (149, 99, (20, 60, 200))]
    recorder.ab(picture, hints)
    given = seen.pop()[1:]
    list(recorder.variants_ab(picture, 4, hints=hints))
    assert len(seen) == 1 + 4*5, 'one question for all, then four and the answer for each'
    places = given[0] > 0
    assert places.sum() == 9 + 9 - 3 # one of them at the right edge of the square
    for x in seen: assert np.array_equal(x[1:][:, places], given[:, places])
    for last in seen[5::5]:
        drawn = np.argwhere((last[1] > 0) & ~places)
        assert len(drawn) >= 4*4 and min(np.abs(drawn - p).max(1).min() for p in np.argwhere(places)) > 3
        assert (last[1] > 0).sum() <= places.sum() + 4*9 and drawn[:, 0].max() <= 43 # inside of the picture, which is 43 of 64 pixels high


def test_variants_keep_the_lightness(colorizer, picture):
    for out in colorizer.variants(picture, 2, saturation=3):
        assert out.shape == picture.shape and np.abs(srgb_to_lab(out)[..., 0] - srgb_to_lab(picture)[..., 0]).max() < .5
        assert np.ptp(out.astype(int), axis=2).max() > 10


def test_variants_from_two_threads(colorizer):
    pictures, got = draw_scenes(4, 80, seed=2), [None]*4
    def work(i):
        for j in range(i, 4, 2): got[j] = colorizer.variants(pictures[j], 2)
    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert all(np.array_equal(a, b) for g, p in zip(got, pictures) for a, b in zip(g, colorizer.variants(p, 2)))


@pytest.mark.parametrize('kind, space, n_in', [('unet', 'lab+hints', 4), ('classes', 'lab', 1)])
def test_weights_that_know_one_coloring_are_refused_in_a_sentence(tmp_path, picture, capsys, kind, space, n_in):
    file = tmp_path/'net.onnx'
    file.write_bytes(onnx_bytes(build_generator(kind, n_in, 2, 64, ngf=8).eval(), SPEC | dict(generator=kind, space=space)))
    with pytest.raises(UserError, match='lab\\+hints') as e: Colorizer.load(file).variants(picture, 2)
    assert str(e.value).count('. ') == 0
    for i in range(2): photo(tmp_path/'album'/f'{i}.jpg', i)
    assert main([str(tmp_path/'album'), '--weights', str(file), '--variants', '2']) == 1
    err = capsys.readouterr().err
    assert 'generator classes' in err and err.count('\n') == 1 and len(names(tmp_path/'album')) == 2


# The command

PARTS = ['.jpg', '_uncertainty.png', '_variant1.jpg', '_variant2.jpg', '_variant3.jpg']


def test_a_photo_gets_its_variants_and_its_map(tmp_path, weights, capsys):
    exif = Image.Exif(); exif[306] = '1950:07:01 10:00:00'
    path = photo(tmp_path/'a.jpg', exif=exif.tobytes())
    args = [str(path), '--weights', str(weights), '--variants', '3', '--seed', '8']
    assert main(args) == 0
    assert names(tmp_path) == ['a.jpg', *(f'a_colorized{p}' for p in PARTS)]
    out = capsys.readouterr().out
    assert out.count('\n') == 5 and all(p in out for p in PARTS)
    pictures = {n: open_picture(tmp_path/n) for n in names(tmp_path)[1:]}
    assert len({p.pixels.tobytes() for p in pictures.values()}) == 5
    assert all(p.is_result and p.pixels.shape == (80, 120, 3) for p in pictures.values())
    for n in pictures:
        with Image.open(tmp_path/n) as im: assert im.getexif()[306] == '1950:07:01 10:00:00'
    before = snapshot(tmp_path)
    assert main(args) == 0 # again: other names, the same pictures
    after = snapshot(tmp_path)
    assert {p: after[p] for p in before} == before and len(after) == 11
    for p in PARTS: assert np.array_equal(open_picture(tmp_path/f'a_colorized_2{p}').pixels, pictures[f'a_colorized{p}'].pixels)


def test_the_ordinary_result_is_what_it_is_without_variants(tmp_path, weights):
    path = photo(tmp_path/'a.png')
    for name, more in [('plain.png', []), ('more.png', ['--variants', '2'])]: assert main([str(path), '--weights', str(weights), '--out', str(tmp_path/name), *more]) == 0
    assert (tmp_path/'plain.png').read_bytes() == (tmp_path/'more.png').read_bytes()
    assert names(tmp_path) == ['a.png', 'more.png', 'more_colorized_uncertainty.png', 'more_colorized_variant1.png', 'more_colorized_variant2.png', 'plain.png']
    want = Colorizer.load(weights).variants(open_picture(path).pixels, 2)
    for i in (1, 2): assert np.array_equal(open_picture(tmp_path/f'more_colorized_variant{i}.png').pixels, want[i - 1])


def test_none_of_them_is_colored_again(tmp_path, weights, capsys):
    photo(tmp_path/'a.jpg')
    assert main([str(tmp_path), '--weights', str(weights), '--variants', '3']) == 0
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert main([str(tmp_path), '--weights', str(weights), '--variants', '3']) == 0
    out = capsys.readouterr().out
    assert snapshot(tmp_path) == before and '1 skipped' in out and '5 left out' in out
    assert main([*map(str, tmp_path.glob('a_*')), '--weights', str(weights)]) == 0 and snapshot(tmp_path) == before
    for i, p in enumerate(sorted(tmp_path.glob('a_*'))): p.rename(tmp_path/f'renamed{i}{p.suffix}')
    (tmp_path/'a.jpg').unlink()
    assert main([str(tmp_path), '--weights', str(weights)]) == 0 and len(names(tmp_path)) == 5
    assert all(map(is_result, before.keys() - {tmp_path/'a.jpg'}))


def test_names_that_are_taken_are_left_alone(tmp_path, weights, capsys):
    "In a folder they are somebody's photographs, which are refused because they cannot be read: a name alone makes no result."
    photo(tmp_path/'a.jpg')
    for name in ('a_colorized_variant1.jpg', 'a_colorized_uncertainty.png'): (tmp_path/name).write_text('mine')
    for args, status in ([str(tmp_path/'a.jpg')], 0), ([str(tmp_path)], 1):
        assert main([*args, '--weights', str(weights), '--variants', '1']) == status
    err = capsys.readouterr().err
    assert err.count('\n') == 2 and 'a_colorized_variant1.jpg is no picture' in err and 'a_colorized_uncertainty.png is no picture' in err
    assert all((tmp_path/n).read_text() == 'mine' for n in ('a_colorized_variant1.jpg', 'a_colorized_uncertainty.png'))
    assert {'a_colorized_variant1_2.jpg', 'a_colorized_uncertainty_2.png'} < set(names(tmp_path))


def test_goes_on_where_it_stopped(tmp_path, weights, monkeypatch):
    "The result is written last. A folder that was stopped before writes what is missing, and nothing twice."
    photo(tmp_path/'album'/'sub'/'a.jpg')
    args = [str(tmp_path/'album'), '--out', str(tmp_path/'out'), '--weights', str(weights), '--variants', '3']
    write, written = folders.write_picture, []
    def stop(picture, path):
        if len(written) == 2: raise UserError('The disk is full.')
        written.append(path)
        return write(picture, path)
    with monkeypatch.context() as m:
        m.setattr(folders, 'write_picture', stop)
        assert main(args) == 1
    assert names(tmp_path/'out') == ['sub/a_colorized_variant1.jpg', 'sub/a_colorized_variant2.jpg']
    before = snapshot(tmp_path/'out')
    assert main(args) == 0
    after = snapshot(tmp_path/'out')
    assert names(tmp_path/'out') == [f'sub/a_colorized{p}' for p in PARTS] and {p: after[p] for p in before} == before
    (tmp_path/'out'/'sub'/'a_colorized.jpg').unlink()
    assert main([*args, '--seed', '1']) == 0 # others than those that are there
    assert len(names(tmp_path/'out')) == 5 + 3


def test_hints_of_the_command_reach_the_variants(tmp_path, weights):
    path = photo(tmp_path/'a.png')
    assert main([str(path), '--weights', str(weights), '--variants', '1', '--hint', '60,40,#c03020', '--saturation', '1.5']) == 0
    want = Colorizer.load(weights).variants(open_picture(path).pixels, 1, hints=[(60, 40, (192, 48, 32))], saturation=1.5)
    assert np.array_equal(open_picture(tmp_path/'a_colorized_variant1.png').pixels, want[0])


def test_transparency_shards_and_reports(tmp_path, weights):
    grey = draw_scenes(1, 60, seed=1)[0].mean(2, keepdims=True).astype(np.uint8).repeat(3, 2) # one in color would be left as it is
    for i in range(4):
        (tmp_path/'album').mkdir(exist_ok=True)
        Image.fromarray(np.dstack([grey, np.linspace(0, 255, 60).astype(np.uint8)[None].repeat(60, 0)])).save(tmp_path/'album'/f'{i}.png')
    for i in (1, 2): assert main([str(tmp_path/'album'), '--out', str(tmp_path/'out'), '--weights', str(weights), '--variants', '1', '--shard', f'{i}/2', '--report', str(tmp_path/'r.csv')]) == 0
    assert len(names(tmp_path/'out')) == 4*3 and len((tmp_path/'r.csv').read_text().splitlines()) == 5
    for p in (tmp_path/'out').glob('*variant*'): assert open_picture(p).alpha is not None


def test_variants_over_ray(tmp_path, weights, capsys):
    for i in range(2): photo(tmp_path/'album'/f'{i}.jpg', i)
    unfit = tmp_path/'unet.onnx'
    unfit.write_bytes(onnx_bytes(build_generator('unet', 1, 2, 64, ngf=8).eval(), SPEC | dict(generator='unet', space='lab')))
    args = [str(tmp_path/'album'), '--out', str(tmp_path/'out'), '--ray', '--variants', '1', '--weights']
    with mock.patch.dict(sys.modules, {'ray': types.SimpleNamespace(data=StandIn), 'ray.data': StandIn}):
        assert main([*args, str(unfit)]) == 1 and 'generator classes' in capsys.readouterr().err and not (tmp_path/'out').exists()
        assert main([*args, str(weights)]) == 0 and len(names(tmp_path/'out')) == 6


@pytest.mark.parametrize('option', [['--variants', '0'], ['--variants', '1.5'], ['--variants', '-1'], ['--seed', '-1'], ['--seed', 'x']])
def test_options_that_make_no_sense(tmp_path, option):
    with pytest.raises(SystemExit) as e: main([str(tmp_path), *option])
    assert e.value.code == 2


def test_variants_need_no_torch(tmp_path, weights):
    code = ("import sys; from colorization_pix2pix.inference.cli import main; assert main(sys.argv[1:]) == 0; "
            "print([m for m in ('torch', 'fastai', 'skimage', 'matplotlib', 'fastcore', 'onnx') if m in sys.modules])")
    done = subprocess.run([sys.executable, '-c', code, photo(tmp_path/'a.jpg'), '--weights', weights, '--variants', '2'], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


MEMORY = """
import resource, sys
from colorization_pix2pix.inference.cli import main
from PIL import Image
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
assert main([sys.argv[2], '--weights', sys.argv[1], '--variants', '1']) == 0
before = used()
assert main([sys.argv[3], '--weights', sys.argv[1], '--variants', sys.argv[4]]) == 0
print(used() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_variants(tmp_path, weights):
    "12 megapixels: the photograph, the variant at work and its file, at most 400 MB, also for the fourth."
    photo(tmp_path/'small.jpg')
    Image.fromarray(draw_scenes(1, 500, seed=1)[0]).convert('L').resize((4000, 3000)).save(tmp_path/'a.jpg')
    took = []
    for n in ('1', '4'):
        done = subprocess.run([sys.executable, '-c', MEMORY, weights, tmp_path/'small.jpg', tmp_path/'a.jpg', n], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        took.append(float(done.stdout.splitlines()[-1]))
    assert took[1] < 400 and took[1] - took[0] < 40, took
    with Image.open(tmp_path/'a_colorized_uncertainty.png') as im: assert im.size == (1155, 866)
    with Image.open(tmp_path/'a_colorized_variant1.jpg') as im: assert im.size == (4000, 3000)
