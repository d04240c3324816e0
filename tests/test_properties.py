"""What must hold for any picture, any folder and any hint, tried on inputs that nobody would write down.

Every run tries the same inputs; `pytest --hypothesis-profile=search tests/test_properties.py` looks for new ones, twenty times as long."""
import functools, io, itertools, os, tempfile
from pathlib import Path
from unittest import mock
import hypothesis.extra.numpy as arrays
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from skimage import color
from colorization_pix2pix.inference import render as fullsize
from colorization_pix2pix.inference.colorizer import Colorizer, _hint_planes, show_uncertainty
from colorization_pix2pix.core.color import HINTED, LAB, RGB, RGB3, fit_gamut, lab_to_srgb, srgb_to_lab, to_uint8
from colorization_pix2pix.data.duplicates import DuplicateFinder
from colorization_pix2pix.data.photos import Photos, folder_photos, split, center_crop_resize
from colorization_pix2pix.training.hints import place_hints, random_hints
from colorization_pix2pix.inference.backend import Network
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.data.image_files import open_picture, write_picture
from colorization_pix2pix.data.decode import SRGB, TURNS, Picture, metadata, signed, source_in, to_srgb
from colorization_pix2pix.data.scenes import draw_scenes

SPACES = LAB, HINTED, RGB, RGB3
sides = st.integers(1, 9)
pictures = st.tuples(sides, sides, st.just(3)).flatmap(lambda shape: arrays.arrays(np.uint8, shape))


def examples(share): return settings(max_examples=int(share*settings().max_examples))


def batch(picture): return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]


def unbatch(srgb): return srgb[0].permute(1, 2, 0).numpy()


def lightness(picture): return fullsize.srgb_to_lab(picture)[..., 0]


# Color spaces

@given(pictures)
def test_any_picture_comes_back_from_every_color_space(picture):
    for space in SPACES:
        x, y = space.encode(batch(picture))
        assert np.array_equal(unbatch(to_uint8(space.decode(x, y))), picture), space.name
        assert max(x.abs().max(), y.abs().max()) <= 1 + 1e-5


@given(pictures)
def test_any_picture_has_the_lab_that_scikit_image_gives_it(picture):
    own, want = unbatch(srgb_to_lab(batch(picture))), color.rgb2lab(picture)
    assert np.abs(own - want).max() < 1e-3 and np.abs(fullsize.srgb_to_lab(picture) - want).max() < 1e-3
    assert own[..., 0].min() > -1e-3 and own[..., 0].max() < 100 + 1e-3 and np.abs(own[..., 1:]).max() < 110


@given(pictures)
def test_a_color_does_not_depend_on_its_neighbours(picture):
    "Every pixel alone, and the whole picture turned and in a batch with another, give the same Lab."
    whole = srgb_to_lab(batch(picture))
    pixels = srgb_to_lab(torch.from_numpy(picture.reshape(-1, 3, 1, 1).copy()))
    assert torch.allclose(pixels[:, :, 0, 0].T.reshape(whole.shape), whole, atol=1e-4)
    assert torch.allclose(srgb_to_lab(torch.cat([255 - batch(picture), batch(picture)]).mT)[1:], whole.mT, atol=1e-4)


answers = st.tuples(sides, sides).flatmap(lambda side: arrays.arrays(np.float32, (3, *side), elements=st.floats(-1, 1, width=32)))


@given(answers)
def test_whatever_is_answered_is_a_color_of_the_same_lightness(channels):
    x, y = torch.from_numpy(channels[:1])[None], torch.from_numpy(channels[1:])[None]
    shown = LAB.decode(x, y)
    assert 0 <= shown.min() and shown.max() <= 1
    assert (srgb_to_lab(to_uint8(shown))[:, 0] - (x[:, 0] + 1)*50).abs().max() < .5


@given(answers)
def test_fitting_takes_back_chroma_only_and_only_where_needed(channels):
    lab = torch.from_numpy(channels)[None]*torch.tensor([50., 110, 110])[:, None, None] + torch.tensor([50., 0, 0])[:, None, None]
    fitted = fit_gamut(lab)
    assert torch.equal(fitted[:, 0], lab[:, 0])
    chroma, before = fitted[:, 1:].norm(dim=1), lab[:, 1:].norm(dim=1)
    assert (chroma <= before).all()
    assert ((fitted[:, 1:]*lab[:, 1:]).sum(1) >= chroma*before*(1 - 1e-4) - 1e-4).all(), 'the hue moved'
    assert torch.equal(fit_gamut(fitted), fitted), 'what was fitted once is inside'


@given(pictures, st.tuples(sides, sides), st.floats(0, 4), st.integers(0, 2**32 - 1))
def test_a_photo_keeps_its_lightness_under_any_answer(picture, side, saturation, seed):
    for space in (LAB, RGB):
        y = torch.rand(1, space.n_out, *side, generator=torch.Generator().manual_seed(seed))*2 - 1
        shown = unbatch(to_uint8(space.merge_lightness(batch(picture), y, saturation)))
        assert shown.shape == picture.shape and np.abs(lightness(shown) - lightness(picture)).max() < .5


# Pixels

def reopened(im, form, **options):
    file = io.BytesIO()
    im.save(file, form, **options)
    return Image.open(file)


@given(pictures, st.data())
def test_what_a_lossless_file_holds_is_what_is_read(picture, data):
    "Colors, greys of 8 and 16 bits, a palette, and transparency."
    grey, alpha = picture[..., 0], data.draw(arrays.arrays(np.uint8, picture.shape[:2]))
    expect = lambda im, want: np.array_equal(to_srgb(im)[0], want)
    assert expect(reopened(Image.fromarray(picture), 'PNG'), picture)
    assert expect(reopened(Image.fromarray(picture), 'PNG', icc_profile=SRGB), picture)
    for form in ('PNG', 'TIFF'):
        assert expect(reopened(Image.fromarray(grey), form), grey[..., None].repeat(3, 2))
        assert expect(reopened(Image.fromarray(grey.astype(np.uint16)*257), form), grey[..., None].repeat(3, 2))
        rgb, seen = to_srgb(reopened(Image.fromarray(np.dstack([picture, alpha])), form))
        assert np.array_equal(rgb, picture) and (np.array_equal(seen, alpha) if seen else alpha.min() == 255)
    palette = Image.fromarray(grey % 4, 'P')
    palette.putpalette(picture.reshape(-1, 3)[:4].tobytes().ljust(12, b'\0'))
    assert expect(reopened(palette, 'PNG'), np.asarray(palette.convert('RGB')))


@given(arrays.arrays(np.uint16, st.tuples(sides, sides)))
def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(values):
    for form in ('PNG', 'TIFF'): assert np.array_equal(np.asarray(to_srgb(reopened(Image.fromarray(values), form))[0])[..., 0], np.floor(values/257 + .5))


@given(arrays.arrays(np.float32, st.tuples(sides, sides), elements=st.floats(width=32)))
def test_any_floats_become_a_grey_picture_in_their_order(values):
    grey = np.asarray(to_srgb(reopened(Image.fromarray(values), 'TIFF'))[0]).astype(int)
    assert (np.ptp(grey, axis=2) == 0).all() and not grey[..., 0][np.isnan(values) | (values <= 0)].any()
    known = ~np.isnan(values)
    assert (np.diff(grey[..., 0][known][np.argsort(values[known], kind='stable')]) >= 0).all()


@given(pictures, st.sampled_from(['.png', '.bmp', '.tif']), st.booleans())
@examples(.5)
def test_a_written_result_reads_as_it_was(tmp_path_factory, picture, end, clear):
    "Pixels and transparency through our writer, and back through our reader."
    alpha = picture[..., 1] if clear and end != '.bmp' else None
    back = open_picture(write_picture(Picture(picture, alpha), tmp_path_factory.mktemp('written')/f'a{end}'))
    assert np.array_equal(back.pixels, picture) and back.is_result == (end != '.bmp')
    assert np.array_equal(back.alpha, alpha) if alpha is not None and alpha.min() < 255 else back.alpha is None


@given(pictures, st.data())
def test_on_white_paper_lies_between_the_color_and_white(picture, data):
    alpha = data.draw(arrays.arrays(np.uint8, picture.shape[:2], elements=st.sampled_from([0, 1, 128, 254, 255])))
    shown = Picture(picture, alpha).on_white()
    want = 255 - alpha[..., None]/255*(255. - picture)
    assert np.abs(shown - want).max() <= .5 + 1e-6


words = st.text(st.characters(codec='utf-8', exclude_categories=['Cc', 'Cs', 'Zs', 'Zl', 'Zp']), min_size=1, max_size=200)


@given(words, st.sampled_from(['JPEG', 'PNG', 'WEBP', 'TIFF']))
@examples(.5)
def test_any_words_under_a_photo_are_kept(text, form):
    "In any script, as the bytes of UTF-8; and twice colored they are still the same."
    kept = signed(Picture(None).exif, 'a.jpg 9')
    exif = Image.Exif()
    exif.load(kept)
    exif[270] = text.encode()
    for _ in range(2):
        keeps = metadata(reopened(Image.new('RGB', (2, 2)), form, exif=exif))
        exif = Image.Exif()
        exif.load(keeps['exif'])
        found = exif[270]
        assert (found if isinstance(found, bytes) else found.encode('latin-1')).decode() == text and keeps['is_result'] and not keeps['notices']
        exif[270] = text.encode()


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=99))
def test_a_result_names_its_source(source):
    exif = Image.Exif()
    exif.load(signed(Picture(None).exif, source))
    assert source_in(exif) == source


# Splits

digests = st.lists(st.text('0123456789abcdef', min_size=3, max_size=6), unique=True, min_size=2, max_size=60)
shares = st.floats(.01, .5)


@given(digests, shares, st.randoms(use_true_random=False))
def test_a_split_knows_neither_order_nor_names(digests, share, random):
    side = dict(zip(digests, split([f'{i}.png' for i in range(len(digests))], digests, share)))
    other = random.sample(digests, len(digests))
    assert side == dict(zip(other, split([f'{random.random()}/{d}.jpg' for d in other], other, share)))
    held = sum(side.values())
    assert abs(held - share*len(digests)) <= .5 or held == 2


@given(digests, shares, st.integers(1, 10))
def test_added_pictures_move_no_more_than_as_many_others_and_all_one_way(digests, share, n):
    old, n = digests[n:], min(n, len(digests))
    names = lambda digests: ['a.png']*len(digests)
    before, after = dict(zip(old, split(names(old), old, share))), dict(zip(digests, split(names(digests), digests, share)))
    moved = {after[d] for d in old if before[d] != after[d]}
    assert len(moved) <= 1 and sum(before[d] != after[d] for d in old) <= n


@given(digests, st.data())
def test_a_folder_that_is_split_stays_so(digests, data):
    tops = data.draw(st.lists(st.sampled_from(['train', 'Train', 'valid', 'VAL', 'test']), min_size=len(digests), max_size=len(digests)))
    own = [top.lower() != 'train' for top in tops]
    if len(set(own)) == 2: assert split([f'{top}/{d}.png' for top, d in zip(tops, digests)], digests) == own


@given(st.lists(st.sampled_from(['train', 'trainA', 'trainB', 'training', 'valid', 'testA', 'testB', 'validation', '', 'more', 'more/train']), min_size=2, max_size=30))
def test_what_lies_beside_a_split_does_not_switch_it_off(tops):
    "Whatever else is there: pictures of the split's folders keep their side, and the others have none."
    names = [f'{top}/{i}.png'.lstrip('/') for i, top in enumerate(['train', 'valid', *tops])]
    sides = [None if top in ('', 'more', 'more/train') else not top.startswith('train') for top in ('train', 'valid', *tops)]
    assert split(names, names) == sides


SCENES = draw_scenes(40, 128, seed=3)
disguises = st.fixed_dictionaries(dict(quality=st.integers(30, 95), side=st.integers(100, 300), mirrored=st.booleans(), form=st.sampled_from(['JPEG', 'PNG', 'WEBP'])))


def disguised(picture, quality, side, mirrored, form):
    "The same photograph as somebody else saved it: the file's bytes."
    im, file = Image.fromarray(picture[:, ::-1] if mirrored else picture), io.BytesIO()
    im.resize((side, side), Image.Resampling.BICUBIC).save(file, form, quality=quality)
    return file.getvalue()


@functools.cache
def all_scenes():
    twins = DuplicateFinder()
    assert not any(twins.find(center_crop_resize(s, 72), str(i)) for i, s in enumerate(SCENES))
    return twins


@given(st.integers(0, len(SCENES) - 1), disguises)
def test_a_picture_is_known_in_any_disguise_and_taken_for_no_other(i, disguise):
    seen = np.asarray(Image.open(io.BytesIO(disguised(SCENES[i], **disguise))).convert('RGB'))
    assert all_scenes().find(center_crop_resize(seen, 72), 'again') == str(i)


class EachWithEach:
    "What `DuplicateFinder` is to find, by comparing with every picture that is remembered."
    def __init__(self): self.seen = []

    def find(self, picture, name):
        mini = picture.astype(int)
        near = [(before.sum() // 576, i) for i, (_, before) in enumerate(self.seen) if min(np.abs(view - before).sum() for view in (mini, mini[:, ::-1])) < 576]
        if near: return self.seen[min(near)[1]][0]
        self.seen.append((name, mini))
        return ''


@st.composite
def near_miniatures(draw):
    "Miniatures of 8x8, noisy or flat, many of which are others with a change of about the size that still counts as the same, some mirrored."
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread, minis = draw(st.sampled_from([0, 10, 60])), []
    for _ in range(draw(st.integers(2, 40))):
        if not minis or rng.random() < .3: base = rng.integers(0, 256) + rng.normal(0, spread, (8, 8, 3))
        else:
            base, change = minis[rng.integers(len(minis))].astype(float), rng.choice([0, 2.8, 3, 3.2, 6])
            kind = rng.integers(3)
            base = base + (change if kind == 0 else rng.choice([-1, 1], (8, 8, 3))*change if kind == 1 else np.where(np.arange(8)[:, None, None] < 4, 2*change, 0))
            if rng.random() < .5: base = base[:, ::-1]
        minis.append(np.clip(np.round(base), 0, 255).astype(np.uint8))
    return minis


@given(near_miniatures())
def test_twins_are_those_that_comparing_with_each_finds(minis):
    fast, slow = DuplicateFinder(), EachWithEach()
    assert [fast.find(m, str(i)) for i, m in enumerate(minis)] == [slow.find(m, str(i)) for i, m in enumerate(minis)]


def in_folder(tmp, files, names):
    "`folder_photos` of files (sub-folder, content) that are named by the numbers `names`."
    for (top, content), name in zip(files, names):
        (path := Path(tmp)/'photos'/top/f'{name}.png').parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with mock.patch.dict(os.environ, COLORIZATION_CACHE=f'{tmp}/cache'): return folder_photos(Path(tmp)/'photos', 32)


PNGS = [disguised(s, 95, 128, False, 'PNG') for s in SCENES[:12]]
tops = st.sampled_from(['train', 'valid', 'test'])


@given(st.lists(st.tuples(tops, st.integers(0, 11), disguises), min_size=1, max_size=6), st.permutations(range(18)))
@examples(.2)
def test_no_picture_is_on_both_sides(copies, names):
    "A folder with its own split, and copies of its pictures on either side: each is used once, and validation keeps what it has."
    files = [('train' if i < 8 else 'valid', png) for i, png in enumerate(PNGS)] + [(top, disguised(SCENES[i], **disguise)) for top, i, disguise in copies]
    held = {i for top, i, _ in copies if top != 'train'} | set(range(8, 12))
    with tempfile.TemporaryDirectory() as tmp:
        photos = in_folder(tmp, files, names)
        assert (len(photos.train), len(photos.valid)) == (12 - len(held), len(held))
        assert len(photos.left_out) == len(copies) and all(reason.startswith('duplicate of') for _, reason in photos.left_out)


@given(st.integers(8, 12), st.lists(st.sampled_from(['', 'b', 'train']), min_size=12, max_size=12), st.permutations(range(12)))
@examples(.2)
def test_names_do_not_change_what_is_trained_on(n, tops, names):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        a, b = in_folder(one, [('', png) for png in PNGS[:n]], range(12)), in_folder(two, zip(tops, PNGS[:n]), names)
        sides = lambda photos: [sorted(p.numpy().tobytes() for p in side) for side in (photos.train, photos.valid)]
        assert a.content == b.content and sides(a) == sides(b)


folder_names = st.text(st.characters(codec='utf-8', categories=['L', 'N']), min_size=1, max_size=12)


@given(folder_names, folder_names)
def test_figures_of_two_folders_never_share_a_name(one, other):
    "In any script; what stays in the name is only what every file system takes."
    slugs = [Photos(f'folder {name!r}', None, None, '').slug for name in (one, other)]
    assert all(s and s.isascii() and s.replace('-', '').isalnum() for s in slugs)
    if one.lower() != other.lower(): assert slugs[0] != slugs[1]


# Full size

@st.composite
def paintings(draw):
    "A picture of any shape and an answer of any other."
    height, width, h, w = (draw(st.integers(1, most)) for most in (70, 70, 12, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([np.arange(256), np.array([0, 255]), np.array([0, 1, 127, 254])]))
    return np.uint8(rng.choice(levels, (height, width, 3))), np.float32(rng.normal(0, draw(st.floats(0, 150)), (h, w, 2)))


@given(paintings(), st.integers(1, 6000), st.floats(0, 3))
def test_strips_of_any_height_give_the_whole(painting, strip, saturation):
    picture, ab = painting
    with mock.patch.object(fullsize, '_STRIP', 10**9): whole = fullsize.put_color(picture, ab, saturation, threads=1)
    with mock.patch.object(fullsize, '_STRIP', strip): in_strips = fullsize.put_color(picture, ab, saturation, threads=2)
    assert np.array_equal(in_strips, whole) and whole.shape == picture.shape and whole.dtype == np.uint8
    assert np.abs(lightness(whole) - lightness(picture)).max() < .5
    assert np.array_equal(fullsize.put_color(picture.copy(), -ab*0), fullsize.put_color(picture, ab, 0)), 'no color is no color, whatever the answer'


@given(paintings(), st.integers(1, 64))
def test_a_square_holds_the_whole_picture_and_its_mirror(painting, size):
    picture, _ = painting
    seen, h, w = fullsize.fit_square(picture, size)
    assert seen.shape == (size, size, 3) and max(h, w) == size and min(h, w) >= 1
    assert abs(h*picture.shape[1] - w*picture.shape[0]) <= max(picture.shape[:2])/2 + 1e-9 or min(h, w) == 1, 'squashed'
    assert np.array_equal(seen[:h, :w], fullsize.shrink(picture, h, w))
    assert np.array_equal(seen[h:2*h], seen[:h][::-1][:size - h]) and np.array_equal(seen[:, w:2*w], seen[:, :w][:, ::-1][:, :size - w])
    flat = np.broadcast_to(picture[:1, :1], picture.shape)
    assert np.array_equal(fullsize.fit_square(flat, size)[0], np.broadcast_to(picture[:1, :1], (size, size, 3)))


@given(paintings())
def test_a_colorizer_takes_any_picture(painting):
    picture, ab = painting
    net = Network(lambda x: np.resize(ab, (32, 32, 2)).transpose(2, 0, 1)[None]/110, dict(space='lab', size=32))
    result = Colorizer(net, threads=1)(picture)
    assert result.shape == picture.shape and np.abs(lightness(result) - lightness(picture)).max() < .5
    assert show_uncertainty(np.abs(ab[..., 0]), picture.shape[:2]).shape == picture.shape


# Hints

def planes_of(points, size):
    "Pixel by pixel: the last of the points that is not more than one pixel away in either direction."
    planes = np.zeros((3, size, size), np.float32)
    for row, column in itertools.product(range(size), repeat=2):
        near = [ab for r, c, ab in points if abs(r - row) <= 1 and abs(c - column) <= 1]
        if near: planes[:, row, column] = 1, near[-1][0]/110, near[-1][1]/110
    return planes


places = st.integers(0, 15)
chroma = st.floats(-110, 110, width=32)


@given(st.lists(st.tuples(places, places, st.tuples(chroma, chroma)), max_size=6))
def test_placed_hints_are_there_and_nowhere_else(points):
    assert np.allclose(place_hints(points, 16)[0].numpy(), planes_of(points, 16))


@given(st.tuples(sides, sides), st.floats(0, 1), st.integers(1, 50), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_random_hints_are_means_of_the_truth_and_nowhere_else(side, none, most, largest, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        y = torch.rand(3, 2, *side)*2 - 1
        hints = random_hints(y, none, most, largest)
    mask, ab = hints[:, :1], hints[:, 1:]
    assert ((mask == 0) | (mask == 1)).all() and not ab[(mask == 0).expand_as(ab)].any()
    low, high = y.amin((2, 3), keepdim=True) - 1e-6, y.amax((2, 3), keepdim=True) + 1e-6
    assert (((ab >= low) & (ab <= high)) | (mask == 0)).all()
    if largest == 1: assert torch.equal(ab, y*mask)


@st.composite
def pointed(draw):
    "A picture's height and width, and points in it, many at its borders."
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    side = lambda n: st.one_of(st.integers(0, n - 1), st.sampled_from([0, n - 1]))
    color = st.tuples(*[st.integers(0, 255)]*3)
    return (height, width), draw(st.lists(st.tuples(side(width), side(height), color), min_size=1, max_size=4))


def within(i, place, side, inner):
    "Does the i-th pixel of the square lie, even in part, in this pixel of the photograph, or next to the one that its middle is in?"
    return i*side < (place + 1)*inner and (i + 1)*side > place*inner or abs(i - int((place + .5)*inner/side)) <= 1


@given(pointed())
def test_hints_of_a_photo_lie_where_the_network_sees_their_pixel(photo):
    (height, width), hints = photo
    _, h, w = fullsize.fit_square(np.zeros((height, width, 3), np.uint8), 16)
    planes = np.zeros((3, 16, 16), np.float32)
    for x, y, rgb in hints:
        there = np.outer([within(i, y, height, h) for i in range(16)], [within(i, x, width, w) for i in range(16)])
        planes[:, there] = np.float32([110, *fullsize.srgb_to_lab(np.uint8(rgb))[1:]])[:, None]/110
    assert np.allclose(_hint_planes(hints, (height, width), (h, w), 16), planes)


DEAF = Network(lambda x: 0*x[:, :2], dict(space='lab+hints', size=32))


@given(pointed(), st.sampled_from([(230, 30, 30), (30, 200, 40), (40, 60, 240), (240, 220, 20), (200, 30, 210)]))
def test_a_hint_colors_the_pixel_that_it_names(photo, rgb):
    "Also at a border, in a picture of one pixel, and where the network answers grey: the hint's hue, and more than half of the chroma that a hint everywhere gives."
    (height, width), ((x, y, _), *_) = photo
    picture = np.full((height, width, 3), 128, np.uint8)
    got = fullsize.srgb_to_lab(Colorizer(DEAF)(picture, hints=[(x, y, rgb)])[y, x])[1:]
    full = fullsize.srgb_to_lab(fullsize.put_color(picture[:1, :1], fullsize.srgb_to_lab(np.uint8(rgb))[None, None, 1:])[0, 0])[1:]
    assert got @ full > .5*(full @ full)
    assert np.hypot(*got)*np.hypot(*full)*.9 < got @ full


bad_hints = st.one_of(st.tuples(st.sampled_from([-1, 20, 99, -.1, float('nan'), float('inf')]), st.integers(0, 9), st.just((1, 2, 3))),
                      st.tuples(st.integers(0, 19), st.sampled_from([-1, 10, 99, float('nan')]), st.just((1, 2, 3))),
                      st.tuples(st.integers(0, 19), st.integers(0, 9), st.sampled_from([(256, 0, 0), (0, -1, 0), (1, 2), (1, 2, 3, 4), (), 5, 'red', (1.5, 2, 3), (None, 2, 3)])))


@given(bad_hints)
def test_a_hint_that_is_none_is_refused_in_one_sentence(hint):
    with pytest.raises(UserError) as refused: Colorizer(DEAF)(np.zeros((10, 20, 3), np.uint8), hints=[(0, 0, (9, 9, 9)), hint])
    assert '\n' not in str(refused.value)
