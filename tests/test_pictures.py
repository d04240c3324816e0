"""What any file becomes: an upright sRGB picture or one sentence; and that writing a result harms nothing. Every file is made here."""
import io, os, re, socket, stat, struct, subprocess, sys, tempfile, threading, time, tracemalloc, warnings, zlib
from contextlib import contextmanager
from pathlib import Path
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo
from colorization_pix2pix.data import image_files as pictures
from colorization_pix2pix.core.errors import UserError, Taken
from colorization_pix2pix.data.decode import SRGB, Picture, eight
from colorization_pix2pix.data.image_files import Damaged, demo_pictures, open_picture, picture_files, read_picture, result_path, write_picture

pytestmark = pytest.mark.filterwarnings('error')
H, W = 24, 40
rng = np.random.default_rng(0)
ROUGH = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)                 # for lossless formats
y, x = np.mgrid[:H, :W]
SMOOTH = np.stack([x*255//(W-1), y*255//(H-1), 255 - x*255//(W-1)], 2).astype(np.uint8) # for lossy ones
GREY = ROUGH[..., 0]
BLOCKS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [250, 250, 0]]], np.uint8).repeat(16, 0).repeat(16, 1)

def refused(call, named):
    "The sentence of the refusal: one, on one line, with a full stop, naming `named`."
    start = time.perf_counter()
    with pytest.raises(UserError) as e: call()
    assert time.perf_counter() - start < 20 # a pipe would block for ever; a claimed gigapixel decode takes minutes
    sentence = str(e.value)
    assert str(named) in sentence
    rest = sentence.replace(str(named), 'NAME')
    assert rest.isprintable() and rest.endswith('.') and '. ' not in rest and ': ' in rest, sentence
    return sentence

def saved(path, im, **options):
    (im if isinstance(im, Image.Image) else Image.fromarray(im)).save(path, **options)
    return path

def grey3(g): return np.stack([g]*3, 2)

def tiff(path, values, bits, photometric=1, kind=1):
    "A little-endian one-strip grey TIFF: the kinds that Pillow reads but does not write."
    h, w = values.shape
    if bits == 12:
        pairs = values.astype(int).reshape(-1, 2)
        data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1).astype(np.uint8).tobytes()
    else: data = values.tobytes()
    tags = [(256, w), (257, h), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, h), (279, len(data)), (339, kind)]
    ifd = struct.pack('<H', len(tags)) + b''.join(struct.pack('<HHII', t, 4, 1, v) for t, v in tags) + bytes(4)
    path.write_bytes(struct.pack('<2sHI', b'II', 42, 8 + len(data)) + data + ifd)
    return path

def chunk(name, data): return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

def claimed_png(path, width, height):
    ihdr = chunk(b'IHDR', struct.pack('>2I5B', width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + ihdr + chunk(b'IDAT', zlib.compress(bytes(999))) + chunk(b'IEND', b''))
    return path

def profile(space='RGB '):
    "An ICC profile for Display P3: Pillow's sRGB profile with other primaries; `space` can claim another kind of color."
    p3 = {b'rXYZ': (.51512, .24120, -.00105), b'gXYZ': (.29198, .69225, .04189), b'bXYZ': (.15710, .06657, .78407)}
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
    for tag, xyz in p3.items():
        entry = icc.index(tag)
        at = int.from_bytes(icc[entry+4:entry+8], 'big') + 8
        icc[at:at+12] = np.round(np.array(xyz)*65536).astype('>i4').tobytes()
    icc[16:20] = space.encode()
    return bytes(icc)

def grey_profile():
    "An ICC profile (version 2) for grey whose numbers are proportional to light: a white point (D50) and a curve without points."
    d50 = 63190, 65536, 54061
    tags = struct.pack('>I4sII4sII', 2, b'wtpt', 156, 20, b'kTRC', 176, 12)
    data = struct.pack('>4s4x3i', b'XYZ ', *d50) + struct.pack('>4s8x', b'curv')
    head = struct.pack('>I4xI4s4s4s12x4s28x3i48x', 128 + len(tags + data), 0x02400000, b'mntr', b'GRAY', b'XYZ ', b'acsp', *d50)
    return head + tags + data

# Formats

@pytest.mark.parametrize('end, options', [
    ('png', {}), ('PNG', {}), ('tif', {}), ('tiff', dict(compression='tiff_lzw')), ('tif', dict(compression='tiff_adobe_deflate')),
    ('bmp', {}), ('webp', dict(lossless=True))])
def test_lossless_formats_are_exact(tmp_path, end, options):
    np.testing.assert_array_equal(read_picture(saved(tmp_path/f'a.{end}', ROUGH, **options)), ROUGH)

@pytest.mark.parametrize('end, options', [
    ('jpg', {}), ('jpeg', dict(progressive=True)), ('jpg', dict(subsampling=0)), ('webp', dict(quality=90)),
    pytest.param('avif', dict(quality=90), marks=pytest.mark.skipif(
        not __import__('PIL.features').features.check('avif'), reason='this Pillow was built without AVIF'))])
def test_lossy_formats_are_close(tmp_path, end, options):
    got = read_picture(saved(tmp_path/f'a.{end}', SMOOTH, **options))
    assert got.shape == SMOOTH.shape and np.abs(got.astype(int) - SMOOTH).mean() < 8

def test_format_is_told_by_content_not_by_name(tmp_path):
    np.testing.assert_array_equal(read_picture(saved(tmp_path/'a.jpg', ROUGH, format='PNG')), ROUGH)

@pytest.mark.parametrize('end', ['gif', 'png', 'webp', 'tif'])
def test_first_frame_or_page(tmp_path, end):
    frames = [Image.new('RGB', (W, H), c) for c in ('red', 'blue')]
    options = dict(lossless=True) if end == 'webp' else {}
    frames[0].save(tmp_path/f'a.{end}', save_all=True, append_images=frames[1:], **options)
    assert (read_picture(tmp_path/f'a.{end}') == (255, 0, 0)).all()

def test_result_is_writable_contiguous_uint8(tmp_path):
    got = read_picture(saved(tmp_path/'a.png', ROUGH))
    assert got.dtype == np.uint8 and got.flags.writeable and got.flags.c_contiguous

def test_str_path_and_one_pixel(tmp_path):
    assert read_picture(str(saved(tmp_path/'a.png', ROUGH[:1, :1]))).tolist() == ROUGH[:1, :1].tolist()

def test_heic(tmp_path):
    heif = pytest.importorskip('pillow_heif', reason='pillow-heif is optional')
    heif.from_pillow(Image.fromarray(SMOOTH)).save(tmp_path/'a.heic', quality=95)
    assert np.abs(read_picture(tmp_path/'a.heic').astype(int) - SMOOTH).mean() < 8

def test_heic_without_its_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    (tmp_path/'a.HEIC').write_bytes(b'\0\0\0\x18ftypheic')
    assert 'pip install pillow-heif' in refused(lambda: read_picture(tmp_path/'a.HEIC'), tmp_path/'a.HEIC')

# Modes

@pytest.mark.parametrize('mode, value, want', [
    ('1', 1, (255, 255, 255)), ('1', 0, (0, 0, 0)), ('L', 77, (77, 77, 77)),
    ('LA', (0, 255), (0, 0, 0)), ('LA', (0, 51), (204, 204, 204)), ('LA', (9, 0), (255, 255, 255)),
    ('RGB', (1, 2, 3), (1, 2, 3)), ('RGBA', (255, 0, 0, 255), (255, 0, 0)), ('RGBA', (255, 0, 0, 0), (255, 255, 255)),
    ('RGBA', (255, 0, 0, 51), (255, 204, 204))])
def test_png_modes(tmp_path, mode, value, want):
    got = read_picture(saved(tmp_path/'a.png', Image.new(mode, (3, 2), value)))
    assert got.shape == (2, 3, 3) and (got == want).all()

@pytest.mark.parametrize('mode, transparent', [('L', 7), ('RGB', (7, 7, 7)), ('P', 7)])
def test_transparent_color_becomes_white(tmp_path, mode, transparent):
    im = Image.new('L', (2, 1), 50)
    im.putpixel((0, 0), 7)
    if mode == 'P': im.putpalette([v for v in range(256) for _ in 'rgb'])
    got = read_picture(saved(tmp_path/'a.png', im if mode == 'P' else im.convert(mode), transparency=transparent))
    assert got.tolist() == [[[255]*3, [50]*3]]

def test_palette(tmp_path):
    im = Image.fromarray(BLOCKS).quantize(8)
    for end in ('png', 'gif', 'bmp', 'tif'): np.testing.assert_array_equal(read_picture(saved(tmp_path/f'a.{end}', im)), BLOCKS)

def test_palette_with_an_alpha_per_color(tmp_path):
    im = Image.frombytes('P', (3, 1), bytes([0, 1, 2]))
    im.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    got = read_picture(saved(tmp_path/'a.png', im, transparency=bytes([255, 51, 0])))
    assert got.tolist() == [[[255, 0, 0], [204, 255, 204], [255, 255, 255]]]

@pytest.mark.parametrize('end', ['jpg', 'tif'])
def test_cmyk(tmp_path, end):
    for ink, want in [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((0, 0, 0, 0), (255, 255, 255))]:
        got = read_picture(saved(tmp_path/f'a.{end}', Image.new('CMYK', (16, 16), ink)))
        assert np.abs(got.astype(int) - want).max() <= 2

def test_lab_tiff(tmp_path):
    "L*=54.3, a*=80.8, b*=69.9 is sRGB's red relative to D50, ICC's white; 8-bit TIFF stores L*2.55 and a, b as signed bytes (TIFF 6.0, 23)."
    lab = np.array([[[138, 81, 70]]], np.uint8).repeat(4, 0).repeat(4, 1)
    got = read_picture(saved(tmp_path/'a.tif', Image.frombytes('LAB', (4, 4), lab.tobytes())))
    assert np.abs(got.astype(int) - (255, 0, 0)).max() <= 6   # a step of L in 8 bits is .4

# Grey with more than 8 bits

@pytest.mark.parametrize('end', ['png', 'tif'])
def test_16_bit_grey_is_scaled_and_rounded(tmp_path, end):
    values = np.array([[0, 128, 129, 257, 30000, 65406, 65407, 65535]], np.uint16)
    got = read_picture(saved(tmp_path/f'a.{end}', values))
    assert got[0, :, 0].tolist() == [0, 0, 1, 1, 117, 254, 255, 255]

def test_dark_16_bit_grey_stays_dark(tmp_path):
    for level, want in [(257*9, 9), (200, 1)]:
        assert (read_picture(saved(tmp_path/f'{level}.png', np.full((4, 4), level, np.uint16))) == want).all()

def test_16_bit_grey_big_endian_tiff(tmp_path):
    np.testing.assert_array_equal(read_picture(saved(tmp_path/'a.tif', (GREY.astype(np.uint16)*257).astype('>u2'))), grey3(GREY))

@pytest.mark.parametrize('values, bits, photometric, kind', [
    (GREY.astype('<u2')*257, 16, 1, 1), ((255 - GREY).astype('<u2')*257, 16, 0, 1), (GREY.astype('<u2')*16 + GREY//16, 12, 1, 1),
    ((GREY.astype(float)*32767/255).round().astype('<i2'), 16, 1, 2), (GREY.astype('<u4')*16843009, 32, 1, 1), (GREY.astype('<i4'), 32, 1, 2),
    (GREY.astype('<i4')*257, 32, 1, 2), ((GREY.astype(float)*(2**31-1)/255).astype('<i4'), 32, 1, 2)],
    ids=['16', '16 white is zero', '12', '16 signed', '32 unsigned full', '32 holding 8', '32 holding 16', '32 signed full'])
def test_grey_tiff_kinds(tmp_path, values, bits, photometric, kind):
    np.testing.assert_array_equal(read_picture(tiff(tmp_path/'a.tif', values, bits, photometric, kind)), grey3(GREY))

@pytest.mark.parametrize('scale', [1/255, 1, 257])
def test_float_tiff(tmp_path, scale):
    values = GREY.astype(np.float32)*np.float32(scale)
    values[0, 0] = 255*scale
    np.testing.assert_array_equal(read_picture(saved(tmp_path/'a.tif', values))[1:], grey3(GREY)[1:])

def test_float_tiff_with_odd_values(tmp_path):
    got = read_picture(saved(tmp_path/'a.tif', np.array([[np.nan, np.inf, -np.inf, -3, .2, 1]], np.float32)))
    assert got[0, :, 0].tolist() == [0, 255, 0, 0, 51, 255]
    for value in (0, np.nan): assert (read_picture(saved(tmp_path/'b.tif', np.full((2, 2), value, np.float32))) == 0).all()

# Orientation

def stored(upright, orientation):
    "How a camera stores `upright` under this tag (EXIF 2.3, 4.6.4: which side of the picture the stored first row and column are)."
    a = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1), 6: np.rot90(upright),
         7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, -1)}[orientation]
    return np.ascontiguousarray(a)

@pytest.mark.parametrize('end', ['jpg', 'png', 'webp', 'tif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(tmp_path, orientation, end):
    exif = Image.Exif()
    exif[274] = orientation
    upright = BLOCKS[:, :16] if orientation % 2 else BLOCKS
    options = dict(lossless=True) if end == 'webp' else dict(quality=95, subsampling=0) if end == 'jpg' else {}
    got = read_picture(saved(tmp_path/f'a.{end}', stored(upright, orientation), exif=exif, **options))
    assert got.shape == upright.shape and np.abs(got.astype(int) - upright).max() <= 4

@pytest.mark.parametrize('exif', [b'Exif\0\0II*\0\x08\0\0\0\xff\xff', b'Exif\0\0rubbish', b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0'])
def test_broken_exif_is_no_refusal(tmp_path, exif):
    assert read_picture(saved(tmp_path/'a.jpg', SMOOTH, exif=exif)).shape == SMOOTH.shape

def test_exif_that_pillow_fails_on_is_no_refusal(tmp_path):
    text = PngInfo()
    text.add_text('Raw profile type exif', '\nexif\n4\nno hex')
    path = saved(tmp_path/'a.png', ROUGH, pnginfo=text)
    with pytest.raises(ValueError), Image.open(path) as im: im.getexif()
    np.testing.assert_array_equal(read_picture(path), ROUGH)

# Profiles

@pytest.mark.parametrize('stored, want', [((234, 51, 35), (255, 0, 0)), ((255, 255, 255), (255, 255, 255)), ((117, 251, 76), (0, 255, 0))])
@pytest.mark.parametrize('end', ['png', 'tif', 'jpg', 'webp'])
def test_profile_is_applied(tmp_path, end, stored, want):
    "sRGB's red and green in Display P3's numbers (CSS Color 4, the gamut conversion of its sample code)."
    options = dict(lossless=True) if end == 'webp' else dict(quality=100, subsampling=0) if end == 'jpg' else {}
    got = read_picture(saved(tmp_path/f'a.{end}', Image.new('RGB', (8, 8), stored), icc_profile=profile(), **options))
    assert np.abs(got.astype(int) - want).max() <= 6

@pytest.mark.parametrize('mode, value', [('L', 55), ('LA', (55, 255)), ('I;16', 55*257)])
def test_grey_profile_is_applied(tmp_path, mode, value):
    "55/255 of the light of white is 128 in sRGB (IEC 61966-2-1: 255*(1.055*(55/255)^(1/2.4) - .055) = 128.2)."
    got = read_picture(saved(tmp_path/'a.png', Image.new(mode, (8, 8), value), icc_profile=grey_profile()))
    assert np.abs(got.astype(int) - 128).max() <= 1

def test_profile_and_transparency(tmp_path):
    got = read_picture(saved(tmp_path/'a.png', Image.new('RGBA', (8, 8), (234, 51, 35, 51)), icc_profile=profile()))
    assert np.abs(got.astype(int) - (255, 204, 204)).max() <= 2

@pytest.mark.parametrize('icc', [b'rubbish', profile()[:200], profile('CMYK'), profile('GRAY')], ids=['rubbish', 'cut', 'cmyk', 'grey'])
def test_profile_that_does_not_work_is_ignored(tmp_path, icc):
    np.testing.assert_array_equal(read_picture(saved(tmp_path/'a.png', ROUGH, icc_profile=icc)), ROUGH)

def test_srgb_profile_changes_nothing(tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    assert np.abs(read_picture(saved(tmp_path/'a.png', ROUGH, icc_profile=icc)).astype(int) - ROUGH).max() <= 1

# Refusals

def pipe(p): os.mkfifo(p)
def unix_socket(p):
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(p.parent)                              # a socket's path may have 108 bytes at most
        s.bind(p.name)
def link_loop(p): p.symlink_to(p)
def dangling(p): p.symlink_to(p.parent/'gone.jpg')
def encoded(form, **options):
    data = io.BytesIO()
    Image.fromarray(ROUGH).save(data, form, **options)
    return data.getvalue()

HOSTILE = {
    'missing': lambda p: None, 'empty': lambda p: p.touch(), 'folder': lambda p: p.mkdir(), 'pipe': pipe, 'socket': unix_socket,
    'link loop': link_loop, 'dangling link': dangling, 'device': lambda p: p.symlink_to('/dev/zero'), 'pipe behind a link': lambda p: (pipe(p.with_name('q')), p.symlink_to('q')),
    'text': lambda p: p.write_text('Dear grandmother'), 'html': lambda p: p.write_text('<!doctype html>404'), 'noise': lambda p: p.write_bytes(rng.bytes(4000)),
    'zeros': lambda p: p.write_bytes(bytes(4000)), 'one byte': lambda p: p.write_bytes(b'\xff'), 'jpeg magic only': lambda p: p.write_bytes(b'\xff\xd8\xff'),
    'png magic only': lambda p: p.write_bytes(b'\x89PNG\r\n\x1a\n'), 'tiff magic only': lambda p: p.write_bytes(b'II*\0\x08\0\0\0'),
    'eps': lambda p: p.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n'),
    'ppm': lambda p: p.write_bytes(b'P6 2 2 255\n' + bytes(12)), 'wrong crc': lambda p: p.write_bytes(encoded('PNG')[:-6] + b'\0\0\0\0\0\0'),
    'png without data': lambda p: p.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>2I5B', 4, 4, 8, 2, 0, 0, 0)) + chunk(b'IEND', b'')),
    'png chunk of 2 GB': lambda p: p.write_bytes(encoded('PNG')[:33] + b'\x7f\xff\xff\xffIDAT'),
    'no width': lambda p: claimed_png(p, 0, 9), 'tiff directory loop': lambda p: p.write_bytes(b'II*\0\x08\0\0\0\0\0\x08\0\0\0'),
}

REASON = {'missing': 'No such file', 'empty': 'is empty', 'folder': 'is a folder', 'pipe': 'is a pipe', 'socket': 'is a pipe, a socket', 'device': 'or a device',
          'link loop': 'symbolic links', 'text': 'is no picture', 'eps': 'is no picture', 'ppm': 'is no picture'}

@pytest.mark.parametrize('kind', HOSTILE)
def test_hostile_file_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)                         # put back afterwards, whatever the maker did
    path = tmp_path/'photo.jpg'
    HOSTILE[kind](path)
    assert REASON.get(kind, '') in refused(lambda: read_picture(path), path)

def test_reading_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path/'a.jpg')
    seen = []
    t = threading.Thread(target=lambda: seen.append(refused(lambda: read_picture(tmp_path/'a.jpg'), tmp_path/'a.jpg')), daemon=True)
    t.start()
    t.join(5)
    assert not t.is_alive() and 'pipe' in seen[0]

@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'TIFF', 'WEBP', 'BMP', 'GIF'])
@pytest.mark.parametrize('part', [.001, .02, .1, .3, .5, .7, .9, .99])
def test_cut_file_is_refused(tmp_path, form, part):
    data, path = encoded(form), tmp_path/'cut.jpg'
    path.write_bytes(data[:max(1, int(len(data)*part))])
    refused(lambda: read_picture(path), path)

@pytest.mark.parametrize('progressive', [False, True])
def test_jpeg_cut_anywhere(tmp_path, progressive):
    data, path = encoded('JPEG', progressive=progressive), tmp_path/'cut.jpg'
    for n in (*range(1, len(data) - 2, 37), len(data) - 3):
        path.write_bytes(data[:n])
        refused(lambda: read_picture(path), path)

def test_cut_file_is_refused_though_another_library_tolerates_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    (tmp_path/'cut.jpg').write_bytes(encoded('JPEG')[:-200])
    refused(lambda: read_picture(tmp_path/'cut.jpg'), tmp_path/'cut.jpg')
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True

def test_png_with_any_byte_changed_is_refused(tmp_path):
    data, path = encoded('PNG'), tmp_path/'a.png'
    for at in range(0, len(data) - 12, 41):
        path.write_bytes(data[:at] + bytes([data[at] ^ 64]) + data[at+1:])
        refused(lambda: read_picture(path), path)

@pytest.mark.parametrize('form', ['JPEG', 'TIFF', 'WEBP', 'BMP', 'GIF'])
def test_changed_bytes_give_a_picture_or_a_refusal(tmp_path, form):
    data, path, gen = encoded(form), tmp_path/'a.jpg', np.random.default_rng(1)
    for _ in range(60):
        broken = np.frombuffer(data, np.uint8).copy()
        broken[gen.integers(0, min(len(data), 400), 4)] = gen.integers(0, 256, 4)
        path.write_bytes(broken.tobytes())
        try: assert read_picture(path, max_megapixels=5).dtype == np.uint8
        except UserError as e: assert str(path) in str(e) and '\n' not in str(e)

@pytest.mark.parametrize('error', [OSError('x'), ValueError('two\nlines. And more.'), SyntaxError('x'), EOFError(), struct.error('x'), MemoryError(),
                                   ZeroDivisionError('x'), KeyError('x'), AttributeError('x'), OverflowError('x'), zlib.error('x'),
                                   Image.DecompressionBombError('x'), RuntimeError('x'), PermissionError(13, 'Permission denied')], ids=lambda e: type(e).__name__)
def test_whatever_pillow_raises_becomes_a_sentence(tmp_path, monkeypatch, error):
    path = saved(tmp_path/'a.png', ROUGH)
    def fail(*a, **k): raise error
    monkeypatch.setattr(Image, 'open', fail)
    refused(lambda: read_picture(path), path)

def test_ctrl_c_is_not_swallowed(tmp_path, monkeypatch):
    path = saved(tmp_path/'a.png', ROUGH)
    def fail(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(Image, 'open', fail)
    with pytest.raises(KeyboardInterrupt): read_picture(path)
    monkeypatch.undo()
    assert read_picture(path).shape == ROUGH.shape      # the lock was given back

@pytest.mark.parametrize('name, shown', [('two\nlines.jpg', r'two\nlines.jpg'), ('\x1b[31mred.jpg', r'\x1b[31mred.jpg'),
                                         (os.fsdecode(b'caf\xe9.jpg'), r'caf\udce9.jpg'), ('a.jpg\0b', r'a.jpg\x00b'), ('n'*300 + '.jpg', 'n'*300)])
def test_odd_names_are_shown_on_one_line(tmp_path, name, shown):
    assert refused(lambda: read_picture(tmp_path/name), shown).encode()

@contextmanager
def as_nobody():
    "Runs the block without root's right to read and write everything."
    if os.geteuid() == 0:
        try: os.seteuid(65534)
        except OSError: pytest.skip('root here may not become another user')
        try: yield
        finally: os.seteuid(0)
    else: yield

@pytest.fixture
def open_folder():
    "A folder that another user may enter, unlike pytest's own."
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        yield Path(d)

def test_no_permission_to_read(open_folder):
    path = saved(open_folder/'a.png', ROUGH)
    path.chmod(0)
    with as_nobody(): assert 'ermission' in refused(lambda: read_picture(path), path)

# The limit

@pytest.mark.parametrize('size', [(40_000, 40_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_claimed_gigapixels_are_refused_without_allocating(tmp_path, size):
    path = claimed_png(tmp_path/'bomb.png', *size)
    tracemalloc.start()
    try: assert 'max_megapixels' in refused(lambda: read_picture(path), path)
    finally: peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert peak < 5e6

def test_claimed_gigapixels_are_refused_before_decoding(tmp_path, monkeypatch):
    def fail(self): raise AssertionError('decoded')
    path = claimed_png(tmp_path/'bomb.png', 40_000, 40_000)
    monkeypatch.setattr(ImageFile.ImageFile, 'load', fail)
    assert 'max_megapixels' in refused(lambda: read_picture(path), path)

def test_the_limit_is_ours(tmp_path, monkeypatch):
    path = saved(tmp_path/'a.png', np.zeros((100, 100, 3), np.uint8))
    assert read_picture(path, max_megapixels=.01).shape == (100, 100, 3)
    assert 'max_megapixels' in refused(lambda: read_picture(path, max_megapixels=.0099), path)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    assert read_picture(path).shape == (100, 100, 3)
    assert Image.MAX_IMAGE_PIXELS == 10

def test_warnings_do_not_leak_and_filters_are_put_back(tmp_path):
    path = saved(tmp_path/'a.jpg', SMOOTH, exif=b'Exif\0\0II*\0\x08\0\0\0\xff\xff')
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        filters = list(warnings.filters)
        read_picture(path)
        assert warnings.filters == filters
    assert seen == []

def test_threads_read_right(tmp_path):
    paths = [saved(tmp_path/f'{i}.png', np.full((50, 50, 3), i, np.uint8)) for i in range(20)]
    limit, wrong = Image.MAX_IMAGE_PIXELS, []
    def read(i):
        for _ in range(5):
            if (read_picture(paths[i]) != i).any(): wrong.append(i)
    threads = [threading.Thread(target=read, args=(i,)) for i in range(20)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert wrong == [] and Image.MAX_IMAGE_PIXELS == limit

def test_threads_decode_at_the_same_time(tmp_path, monkeypatch):
    "Two reads meet in the middle of decoding: with one lock around it they would wait for each other for ever."
    path, meet, load = saved(tmp_path/'a.png', ROUGH), threading.Barrier(2), ImageFile.ImageFile.load
    def both(im):
        meet.wait(10)
        return load(im)
    monkeypatch.setattr(ImageFile.ImageFile, 'load', both)
    got = []
    threads = [threading.Thread(target=lambda: got.append(read_picture(path))) for _ in 'ab']
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(got) == 2 and not meet.broken

def test_each_thread_has_its_own_limit(tmp_path, monkeypatch):
    "While one read with a high limit is at work, another's low limit still holds."
    path, begun, go, load = saved(tmp_path/'a.png', np.zeros((100, 100, 3), np.uint8)), threading.Event(), threading.Event(), ImageFile.ImageFile.load
    def slow(im):
        begun.set()
        go.wait(10)
        return load(im)
    monkeypatch.setattr(ImageFile.ImageFile, 'load', slow)
    t = threading.Thread(target=read_picture, args=(path,))
    t.start()
    begun.wait(10)
    refused(lambda: read_picture(path, max_megapixels=.006), path)
    go.set()
    t.join()

# What a result keeps

def test_alpha_is_kept_and_read_picture_lays_it_on_white(tmp_path):
    path = saved(tmp_path/'a.png', Image.new('RGBA', (3, 2), (255, 0, 0, 51)))
    picture = open_picture(path)
    assert (picture.pixels == (255, 0, 0)).all() and (picture.alpha == 51).all() and (read_picture(path) == (255, 204, 204)).all()
    assert open_picture(saved(tmp_path/'b.png', Image.new('RGBA', (3, 2), (255, 0, 0, 255)))).alpha is None

@pytest.mark.parametrize('orientation', range(1, 9))
def test_alpha_and_resolution_are_turned_with_the_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    upright = np.dstack([BLOCKS[:, :16], np.arange(32, dtype=np.uint8)[:, None].repeat(16, 1)])
    path = saved(tmp_path/'a.png', stored(upright, orientation), exif=exif, dpi=(300, 150))
    picture = open_picture(path)
    np.testing.assert_array_equal(picture.alpha, upright[..., 3])
    assert [round(v) for v in picture.dpi] == ([300, 150] if orientation < 5 else [150, 300])

def test_comment_and_text_come_along(tmp_path):
    comment = saved(tmp_path/'a.jpg', SMOOTH, comment='by the river')
    text = PngInfo()
    text.add_text('Title', 'Großmutter')
    for path in (comment, saved(tmp_path/'b.png', ROUGH, pnginfo=text)): write_picture(open_picture(path), path.with_stem('result'))
    with Image.open(tmp_path/'result.jpg') as im: assert im.info['comment'] == b'by the river' and im.getexif()[270] == 'by the river'
    with Image.open(tmp_path/'result.png') as im: assert im.text['Title'] == 'Großmutter'

@pytest.mark.parametrize('exif', [b'Exif\0\0II*\0\x08\0\0\0\xff\xff', b'Exif\0\0rubbish', b'Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\4\0\1\0\0\0\xff\xff\xff\x7f\0\0\0\0'])
def test_broken_exif_is_left_behind(tmp_path, exif):
    picture = open_picture(saved(tmp_path/'a.jpg', SMOOTH, exif=exif))
    assert len(picture.notices) <= 1 and write_picture(picture, tmp_path/'b.jpg').is_file()

def test_huge_exif_is_no_refusal(tmp_path):
    exif = Image.Exif()
    exif.update({270: 'x'*60_000, 306: '1950:07:01 10:00:00'})
    write_picture(open_picture(saved(tmp_path/'a.png', ROUGH, exif=exif.tobytes())), tmp_path/'b.jpg')
    with Image.open(tmp_path/'b.jpg') as im: assert im.getexif()[306] == '1950:07:01 10:00:00'

@pytest.mark.parametrize('end', ['jpg', 'png', 'webp', 'tif', 'avif'])
def test_results_are_tagged_srgb_and_the_same_every_time(tmp_path, end):
    a, b = (write_picture(SMOOTH, tmp_path/f'{i}.{end}') for i in 'ab')
    with Image.open(a) as im: assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(im.info['icc_profile']))).startswith('sRGB')
    assert a.read_bytes() == b.read_bytes()

# Nothing goes wrong in silence: the right page, every kind of number, long texts, damage, words

def test_a_page_that_calls_itself_reduced_is_never_the_photograph(tmp_path):
    "Tag 254 with bit 1, or 255 with 2 in old files; whichever page comes first."
    tifffile = pytest.importorskip('tifffile')
    for order in ([1, 0], [0, 1], [1, 1, 0]):
        with tifffile.TiffWriter(tmp_path/'a.tif') as tif:
            for kind in order: tif.write(ROUGH[:6, :8] if kind else ROUGH, photometric='rgb', subfiletype=kind, metadata=None)
        np.testing.assert_array_equal(read_picture(tmp_path/'a.tif'), ROUGH)
    with tifffile.TiffWriter(tmp_path/'old.tif') as tif:
        tif.write(ROUGH[:6, :8], photometric='rgb', metadata=None, extratags=[(255, 3, 1, 2, True)])
        tif.write(ROUGH, photometric='rgb', metadata=None)
    with Image.open(tmp_path/'old.tif') as im: assert im.tag_v2[255] == 2
    np.testing.assert_array_equal(read_picture(tmp_path/'old.tif'), ROUGH)

def test_a_whole_page_below_a_reduced_one_is_found(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    with tifffile.TiffWriter(tmp_path/'a.tif') as tif:
        tif.write(ROUGH[:6, :8], photometric='rgb', subfiletype=1, subifds=1, metadata=None)
        tif.write(ROUGH, photometric='rgb', subfiletype=0, metadata=None)
    np.testing.assert_array_equal(read_picture(tmp_path/'a.tif'), ROUGH)

def test_only_a_reduced_page_is_refused(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    tifffile.imwrite(tmp_path/'a.tif', ROUGH, photometric='rgb', subfiletype=1, metadata=None)
    assert 'reduced copy' in refused(lambda: read_picture(tmp_path/'a.tif'), tmp_path/'a.tif')

def raw_file(path):
    "A DNG as cameras write it: a small RGB thumbnail first, what the sensor measured below it."
    tifffile = pytest.importorskip('tifffile')
    version = (50706, 1, 4, bytes([1, 4, 0, 0]), True)
    with tifffile.TiffWriter(path) as tif:
        tif.write(ROUGH[:6, :8], photometric='rgb', subfiletype=1, subifds=1, metadata=None, extratags=[version])
        tif.write(np.linspace(9000, 60000, 64*96).astype(np.uint16).reshape(64, 96), photometric=32803, subfiletype=0, metadata=None, extratags=[(33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes([0, 1, 1, 2]), True)])
    return path

@pytest.mark.parametrize('name', ['a.dng', 'a.NEF', 'a.tif', 'a.jpg'])
def test_raw_without_its_package_names_it(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, 'rawpy', None)
    sentence = refused(lambda: read_picture(raw_file(tmp_path/name)), tmp_path/name)
    assert 'pip install rawpy' in sentence and 'export it' in sentence

def test_raw_is_developed_in_full_size(tmp_path):
    pytest.importorskip('rawpy', reason='rawpy is optional')
    got = read_picture(raw_file(tmp_path/'a.dng'))
    assert min(got.shape[:2]) >= 60 and max(got.shape[:2]) >= 92 and got.min() > 0

@pytest.mark.parametrize('cut', [False, True])
def test_a_raw_file_keeps_its_date_its_bits_and_says_what_it_loses(tmp_path, cut, monkeypatch):
    pytest.importorskip('rawpy', reason='rawpy is optional')
    tifffile, path = pytest.importorskip('tifffile'), raw_file(tmp_path/'a.dng')
    def unread(self, file): raise SyntaxError('not a TIFF file') # as Pillow says of Olympus, Panasonic and Fuji
    if cut: monkeypatch.setattr(Image.Exif, 'load_from_fp', unread)
    else:
        with tifffile.TiffFile(path, mode='r+') as tif: tif.pages[0].tags['Software'].overwrite('camera 1.2')
    got = open_picture(path)
    exif = Image.Exif(); exif.load(got.exif)
    assert got.pixels.dtype == np.uint16 and len(np.unique(got.pixels)) > 256 and got.bits == 16
    assert (exif.get(305), len(got.notices)) == ((None, 1) if cut else ('camera 1.2', 0)) and exif[274] == 1

@pytest.mark.parametrize('start', [b'FUJIFILMCCD-RAW 0201', b'IIRO\x08\0\0\0', b'\0\0\0\x18ftypcrx \0\0\0\1', b'IIU\0\x18\0\0\0'])
def test_raw_is_known_by_its_first_bytes(tmp_path, monkeypatch, start):
    monkeypatch.setitem(sys.modules, 'rawpy', None)
    (tmp_path/'a.jpg').write_bytes(start + bytes(99))
    assert 'rawpy' in refused(lambda: read_picture(tmp_path/'a.jpg'), tmp_path/'a.jpg')

@pytest.mark.parametrize('start, package', [(b'\0\0\0\x18ftypheic', 'pillow-heif'), (b'\xff\x0a\0', 'pillow-jxl-plugin'), (b'\0\0\0\x0cJXL \r\n\x87\n', 'pillow-jxl-plugin')])
def test_heic_and_jxl_named_jpg_name_their_package(tmp_path, monkeypatch, start, package):
    for name in ('pillow_heif', 'pillow_jxl'): monkeypatch.setitem(sys.modules, name, None)
    (tmp_path/'a.jpg').write_bytes(start + bytes(99))
    assert f'pip install {package}' in refused(lambda: read_picture(tmp_path/'a.jpg'), tmp_path/'a.jpg')

def test_jpeg_xl(tmp_path):
    pytest.importorskip('pillow_jxl', reason='pillow-jxl-plugin is optional')
    np.testing.assert_array_equal(read_picture(saved(tmp_path/'a.jxl', ROUGH, lossless=True)), ROUGH)

def test_jpeg_2000(tmp_path):
    if not __import__('PIL.features').features.check('jpg_2000'): pytest.skip('this Pillow was built without JPEG 2000')
    for end in ('jp2', 'j2k'): np.testing.assert_array_equal(read_picture(saved(tmp_path/f'a.{end}', ROUGH)), ROUGH)
    assert picture_files(tmp_path) == [tmp_path/'a.j2k', tmp_path/'a.jp2']

def scaled(values, kind):
    "8-bit values as numbers of this type, white to white."
    kind = np.dtype(kind)
    if kind.kind == 'f': return (values/255).astype(kind)
    return (values.astype(np.float64)*np.iinfo(kind).max/255).round().astype(kind)

ALPHA, INK = rng.integers(60, 256, (H, W), dtype=np.uint8), np.dstack([255 - ROUGH, GREY//3])
PRINTED = ((255 - INK[..., :3].astype(float))*(255 - INK[..., 3:])/255).round()
TIFFS = {'grey': (GREY, 'minisblack', (), grey3(GREY)), 'white is zero': (255 - GREY, 'miniswhite', (), grey3(GREY)), 'rgb': (ROUGH, 'rgb', (), ROUGH),
         'rgba': (np.dstack([ROUGH, ALPHA]), 'rgb', ('unassalpha',), ROUGH), 'multiplied': (np.dstack([(ROUGH*(ALPHA/255)[..., None]).round(), ALPHA]).astype(np.uint8), 'rgb', ('assocalpha',), ROUGH),
         'more': (np.dstack([ROUGH, ALPHA]), 'rgb', ('unspecified',), ROUGH), 'grey alpha': (np.dstack([GREY, ALPHA]), 'minisblack', ('unassalpha',), grey3(GREY)),
         'cmyk': (INK, 'separated', (), PRINTED), 'cmyk alpha': (np.dstack([INK, ALPHA]), 'separated', ('unassalpha',), PRINTED)}

@pytest.mark.parametrize('number', ['u1', 'u2', 'u4', 'i1', 'i2', 'f2', 'f4', 'f8'])
@pytest.mark.parametrize('kind', TIFFS)
def test_every_kind_of_tiff_is_what_tifffile_wrote(tmp_path, kind, number):
    "Strips and tiles, packed and not, in both byte orders, samples side by side and in separate planes."
    tifffile = pytest.importorskip('tifffile')
    samples, photometric, extra, want = TIFFS[kind]
    values, path = scaled(samples, number), tmp_path/'a.tif'
    for order, planes, tile, packed in ((o, p, t, c) for o in '<>' for p in ('contig', 'separate') for t in (None, (16, 16)) for c in (None, 'zlib')):
        if values.ndim == 2 and planes == 'separate': continue
        how = dict(planarconfig=planes) if values.ndim == 3 else {}
        stored_as = np.moveaxis(values, -1, 0) if planes == 'separate' else values
        tifffile.imwrite(path, stored_as, photometric=photometric, extrasamples=extra or None, byteorder=order, tile=tile, compression=packed, metadata=None, **how)
        got, label = open_picture(path), (kind, number, order, planes, tile, packed)
        assert np.abs(eight(got.pixels).astype(int) - want).max() <= (9 if kind == 'multiplied' else 2), label
        if 'alpha' in kind or kind in ('rgba', 'multiplied'): assert np.abs(eight(got.alpha).astype(int) - ALPHA).max() <= 1, label
        else: assert got.alpha is None, label
        said = [n for n in pictures.fitted(got, 'a.png').notices if 'bits' in n]
        by_pillow = kind == 'multiplied' and number == 'u2' and planes == 'contig' # which divides the alpha out, and loses the lower bytes
        assert got.pixels.dtype == (np.uint8 if number[1] == '1' or kind.startswith('cmyk') or by_pillow else np.uint16), label
        assert [n.split('became ')[1][:2] for n in said] == ([] if number[1] == '1' else ['8,'] if got.pixels.dtype == np.uint8 else ['16'] if number[1] in '48' else []), label

FINE = rng.integers(0, 65536, (H, W, 4), dtype=np.uint16)     # all 16 bits differ from pixel to pixel
@pytest.mark.parametrize('kind, channels, extra', [('minisblack', 1, ()), ('miniswhite', 1, ()), ('rgb', 3, ()), ('rgb', 4, ('unassalpha',)), ('rgb', 4, ('unspecified',)), ('minisblack', 2, ('unassalpha',))])
def test_every_bit_of_a_16_bit_tiff_is_read(tmp_path, kind, channels, extra):
    "Strips and tiles, packed and not, in both byte orders, samples side by side and in separate planes."
    tifffile = pytest.importorskip('tifffile')
    values, path = FINE[..., :channels], tmp_path/'a.tif'
    for order, planes, tile, packed in ((o, p, t, c) for o in '<>' for p in ('contig', 'separate') for t in (None, (16, 16)) for c in (None, 'zlib')):
        if channels == 1 and planes == 'separate': continue
        stored_as = values[..., 0] if channels == 1 else np.moveaxis(values, -1, 0) if planes == 'separate' else values
        how = dict(planarconfig=planes) if channels > 1 else {}
        tifffile.imwrite(path, stored_as, photometric=kind, extrasamples=extra or None, byteorder=order, tile=tile, compression=packed, metadata=None, rowsperstrip=None if tile else 7, **how)
        got, label = open_picture(path), (order, planes, tile, packed)
        want = values[..., :3] if kind == 'rgb' else (65535 - values if kind == 'miniswhite' else values)[..., :1].repeat(3, 2)
        np.testing.assert_array_equal(got.pixels, want, str(label))
        if 'unassalpha' in extra: np.testing.assert_array_equal(got.alpha, values[..., -1], str(label))
        else: assert got.alpha is None, label
        assert got.pixels.dtype == np.uint16 and got.notices == [], label

@pytest.mark.parametrize('color, channels', [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_every_bit_of_a_16_bit_png_is_read(tmp_path, color, channels):
    values = FINE[..., :channels]
    (tmp_path/'a.png').write_bytes(png(depth=16, color=color, data=values.astype('>u2')))
    got = open_picture(tmp_path/'a.png')
    np.testing.assert_array_equal(got.pixels, values[..., :3] if channels > 2 else values[..., :1].repeat(3, 2))
    if channels in (2, 4): np.testing.assert_array_equal(got.alpha, values[..., -1])
    else: assert got.alpha is None
    assert got.notices == []

@pytest.mark.parametrize('compression', ['tiff_lzw', 'tiff_adobe_deflate', 'packbits'])
def test_packed_16_bit_color_needs_no_further_package(tmp_path, compression):
    "LZW is what scanners write, and tifffile alone cannot read it: here a TIFF of two 8-bit numbers for one of 16."
    halves = np.ascontiguousarray(FINE[..., :3], '<u2').view(np.uint8).reshape(H, 2*W, 3)
    tifffile, path = pytest.importorskip('tifffile'), saved(tmp_path/'a.tif', halves, compression=compression)
    with tifffile.TiffFile(path, mode='r+') as tif:
        for name, value in (('ImageWidth', W), ('BitsPerSample', (16, 16, 16))): tif.pages[0].tags[name].overwrite(value)
    np.testing.assert_array_equal(open_picture(path).pixels, FINE[..., :3])

@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('end', ['png', 'tif'])
def test_16_bits_are_turned_like_8(tmp_path, end, orientation):
    upright = FINE[:, :16] if orientation % 2 else FINE
    values, path = stored(upright, orientation), tmp_path/f'a.{end}'
    exif = Image.Exif(); exif[274] = orientation
    if end == 'png': path.write_bytes(png(chunk(b'eXIf', exif.tobytes()[6:]), depth=16, color=6, size=values.shape[1::-1], data=values.astype('>u2')))
    else: pytest.importorskip('tifffile').imwrite(path, values, photometric='rgb', extrasamples=('unassalpha',), metadata=None, extratags=[(274, 3, 1, orientation, True)])
    got = open_picture(path)
    np.testing.assert_array_equal(np.dstack([got.pixels, got.alpha]), upright)

@pytest.mark.parametrize('icc, most', [(profile(), 9), (grey_profile(), None), (b'rubbish', 0)], ids=['Display P3', 'grey', 'rubbish'])
def test_a_profile_is_applied_to_16_bits(tmp_path, icc, most):
    "Gray stays gray through a profile for colors, level by level; one for gray or rubbish does not fit colors; and a gray scan in linear light is brightened."
    ramp = np.linspace(0, 65535, H*W).astype(np.uint16).reshape(H, W)
    (tmp_path/'rgb.png').write_bytes(png(chunk(b'iCCP', b'x\0\0' + zlib.compress(icc)), depth=16, data=ramp[..., None].repeat(3, 2).astype('>u2')))
    assert np.abs(open_picture(tmp_path/'rgb.png').pixels.astype(int) - ramp[..., None]).max() <= (most or 0)
    if most is not None: return
    got = open_picture(saved(tmp_path/'grey.png', ramp, icc_profile=icc)).pixels[..., 0]
    linear = ramp/65535
    assert np.abs(got - np.where(linear <= .0031308, linear*12.92, 1.055*linear**(1/2.4) - .055)*65535).max() < 2

def test_a_profile_that_is_a_table_is_applied_in_8_bits_and_said(tmp_path, monkeypatch):
    "No such profile is at hand, so the question whether it is curves and a matrix is answered with no."
    monkeypatch.setattr(pictures, 'to_srgb16', lambda values, icc: None)
    (tmp_path/'a.png').write_bytes(png(chunk(b'tRNS', struct.pack('>3H', *FINE[0, 0, :3])), depth=16, data=FINE[..., :3].astype('>u2')))
    got = open_picture(tmp_path/'a.png')
    np.testing.assert_array_equal(got.pixels, FINE[..., :3] >> 8)
    assert got.alpha[0, 0] == 0 and got.alpha.sum() == 255*(H*W - 1) and len(got.notices) == 1 and 'its 16 bits for each color became 8' in got.notices[0]

@pytest.mark.parametrize('end', ['png', 'tif', 'jpg', 'webp', 'avif', 'bmp'])
@pytest.mark.parametrize('clear', [False, True])
def test_16_bits_are_written_where_the_format_holds_them(tmp_path, end, clear):
    picture = Picture(FINE[..., :3].copy(), FINE[..., 3].copy() if clear else None, dpi=(300., 150.), text={'Title': 'at the fair'}, xmp=b'', bits=16)
    result, kept = write_picture(picture, tmp_path/f'a.{end}'), pictures.fitted(picture, f'a.{end}')
    back, holds = open_picture(result), end in ('png', 'tif')
    assert any('its 16 bits for each color became 8' in n for n in kept.notices) != holds
    assert kept.pixels.dtype == back.pixels.dtype == (np.uint16 if holds else np.uint8) and back.is_result == (end != 'bmp')
    if end not in ('jpg', 'avif'): np.testing.assert_array_equal(back.pixels, kept.pixels)
    if clear and end not in ('jpg', 'bmp'): assert back.alpha.dtype == kept.alpha.dtype and np.abs(back.alpha.astype(int) - kept.alpha).max() <= (9 if end == 'avif' else 0)
    else: assert back.alpha is None
    if end not in ('webp', 'avif', 'bmp'): assert [round(v) for v in back.dpi] == [300, 150]
    if holds:
        with Image.open(result) as im: assert im.info['icc_profile'] == SRGB and (end == 'tif' or im.text['Title'] == 'at the fair')
        tifffile = pytest.importorskip('tifffile')
        if end == 'tif': np.testing.assert_array_equal(tifffile.imread(result), FINE if clear else FINE[..., :3])

def test_every_number_a_16_bit_png_may_hold_comes_back_from_libpng_too(tmp_path):
    "Pillow's own decoder checks sums and filters, and gives the upper bytes."
    picture = np.arange(65536, dtype=np.uint16).reshape(128, 512)[..., None].repeat(3, 2)
    with Image.open(write_picture(picture, tmp_path/'a.png')) as im: im.verify()
    with Image.open(tmp_path/'a.png') as im: np.testing.assert_array_equal(np.asarray(im), picture >> 8)
    assert open_picture(tmp_path/'a.png').notices == []

def test_a_cut_16_bit_scan_is_refused_or_accepted_like_others(tmp_path):
    smooth = np.linspace(0, 65535, 200*150).astype(np.uint16).reshape(200, 150)[..., None].repeat(3, 2)
    whole = write_picture(smooth, tmp_path/'whole.png').read_bytes()
    (tmp_path/'cut.png').write_bytes(whole[:len(whole)*3//4])
    refused(lambda: open_picture(tmp_path/'cut.png'), tmp_path/'cut.png')
    got = open_picture(tmp_path/'cut.png', accept_damaged=True)
    np.testing.assert_array_equal(got.pixels[:20], smooth[:20])
    assert got.pixels.dtype == np.uint16 and got.notices == ['it is damaged or cut short, and colored as far as it goes']

@pytest.mark.parametrize('number', ['u2', 'f4', 'f8'])
def test_tiffs_that_pillow_does_not_read_are_turned_cut_and_limited_like_others(tmp_path, number):
    tifffile = pytest.importorskip('tifffile')
    path, how = tmp_path/'a.tif', dict(photometric='rgb', planarconfig='separate', metadata=None)
    tifffile.imwrite(path, np.moveaxis(scaled(np.rot90(ROUGH), number), -1, 0), extratags=[(274, 3, 1, 6, True)], resolution=(300, 150), **how)
    np.testing.assert_array_equal(read_picture(path), ROUGH)
    assert [round(v) for v in open_picture(path).dpi] == [150, 300]
    assert 'max_megapixels' in refused(lambda: read_picture(path, max_megapixels=.0009), path)
    tifffile.imwrite(path, np.moveaxis(scaled(ROUGH, number), -1, 0), **how)
    whole = path.read_bytes()
    for part in (.3, .6, .9, .99):
        path.write_bytes(whole[:int(len(whole)*part)])
        refused(lambda: read_picture(path), path)

def png(*chunks, depth=8, color=2, size=(W, H), data=None):
    "A PNG of `ROUGH` with these chunks before its pixels."
    rows = b''.join(b'\0' + row.tobytes() for row in (ROUGH if data is None else data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>2I5B', *size, depth, color, 0, 0, 0)) + b''.join(chunks) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')

LONG = zlib.compress(b'words '*400_000)
@pytest.mark.parametrize('big, what', [(chunk(b'zTXt', b'Comment\0\0' + LONG), 'text'), (chunk(b'iTXt', b'Comment\0\1\0\0\0' + LONG), 'text'),
                                       (chunk(b'iCCP', b'odd\0\0' + zlib.compress(bytes(20_000_000))), 'color profile')], ids=['zTXt', 'iTXt', 'iCCP'])
@pytest.mark.parametrize('last', [False, True])
def test_long_texts_of_a_png_are_left_out_and_said(tmp_path, big, what, last):
    if last and what == 'color profile': return       # a profile comes before the pixels
    short = chunk(b'tEXt', b'Title\0at the fair')
    whole = png(short) if last else png(big, short)
    if last: whole = whole[:-12] + big + whole[-12:]
    (tmp_path/'a.png').write_bytes(whole)
    got = open_picture(tmp_path/'a.png')
    np.testing.assert_array_equal(got.pixels, ROUGH)
    assert got.notices == [f'a {what} in it is left out, because it is too long'] and got.text == {'Title': 'at the fair'}

def test_a_long_profile_still_counts(tmp_path):
    "Display P3 in a profile of 2 MB: ICC profiles of scanners are that long."
    icc = bytearray(profile() + bytes(2**21))
    icc[:4] = len(icc).to_bytes(4)
    (tmp_path/'a.png').write_bytes(png(chunk(b'iCCP', b'P3\0\0' + zlib.compress(bytes(icc))), data=np.full((H, W, 3), (234, 51, 35), np.uint8)))
    got = open_picture(tmp_path/'a.png')
    assert np.abs(got.pixels.astype(int) - (255, 0, 0)).max() <= 6 and got.notices == []

def test_a_damaged_png_with_long_texts_is_still_damaged(tmp_path):
    whole = bytearray(png(chunk(b'zTXt', b'Comment\0\0' + LONG)))
    whole[-40] ^= 1
    (tmp_path/'a.png').write_bytes(whole)
    refused(lambda: read_picture(tmp_path/'a.png'), tmp_path/'a.png')

def test_16_bit_grey_keeps_its_transparency(tmp_path):
    "The transparent grey is compared with all 16 bits: its neighbour, the same in 8, is opaque."
    values = np.array([[30000, 30001, 0, 65535]], '>u2')
    (tmp_path/'a.png').write_bytes(png(chunk(b'tRNS', struct.pack('>H', 30000)), depth=16, color=0, size=(4, 1), data=values))
    got = open_picture(tmp_path/'a.png')
    assert got.alpha.tolist() == [[0, 65535, 65535, 65535]] and got.pixels[0, :, 0].tolist() == [30000, 30001, 0, 65535]
    assert got.notices == []

def test_10_bit_heic_says_what_is_lost(tmp_path):
    heif = pytest.importorskip('pillow_heif', reason='pillow-heif is optional')
    values = (np.linspace(0, 65535, 64*64*3).astype(np.uint16)).reshape(64, 64, 3)
    heif.encode('RGB;16', (64, 64), values.tobytes(), tmp_path/'a.heic', quality=90) # it is kept with 10 bits or 12
    got = open_picture(tmp_path/'a.heic')
    assert sum('bits for each color became 8' in n for n in got.notices) == 1 and not any('8 bits for' in n for n in got.notices)
    Image.fromarray((values//256).astype(np.uint8)).save(tmp_path/'b.heic', format='HEIF')
    assert open_picture(tmp_path/'b.heic').notices == []

def test_16_bit_color_keeps_its_transparent_color(tmp_path):
    "Compared at all 16 bits, too."
    values = np.array([[[0x1234, 0x5678, 0x9abc], [0x1235, 0x5678, 0x9abc]]], '>u2')
    (tmp_path/'a.png').write_bytes(png(chunk(b'tRNS', struct.pack('>3H', 0x1234, 0x5678, 0x9abc)), depth=16, size=(2, 1), data=values))
    got = open_picture(tmp_path/'a.png')
    assert got.alpha.tolist() == [[0, 65535]] and got.pixels.tolist() == values.tolist() and got.notices == []

@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'TIFF', 'BMP', 'GIF'])
def test_damage_is_accepted_where_that_is_asked_for(tmp_path, form):
    "Five sixths of the file: the rows that were stored first are there."
    path = tmp_path/'cut.jpg'
    path.write_bytes(encoded(form))
    want, there = read_picture(path), slice(-6, None) if form == 'BMP' else slice(6)
    path.write_bytes(encoded(form)[:-len(encoded(form))//6])
    with pytest.raises(Damaged): read_picture(path)
    try: got = open_picture(path, accept_damaged=True)
    except Damaged: assert form == 'TIFF'; return # its directory comes last
    np.testing.assert_array_equal(got.pixels[there], want[there])
    assert got.notices == ['it is damaged or cut short, and colored as far as it goes']

def test_a_jpeg_without_its_last_bytes(tmp_path):
    path = saved(tmp_path/'a.jpg', SMOOTH, quality=95)
    want = read_picture(path)
    path.write_bytes(path.read_bytes()[:-2])
    refused(lambda: read_picture(path), path)
    np.testing.assert_array_equal(open_picture(path, accept_damaged=True).pixels[:16], want[:16])

def test_what_is_whole_needs_no_notice_and_what_is_none_stays_refused(tmp_path):
    assert open_picture(saved(tmp_path/'a.jpg', SMOOTH), accept_damaged=True).notices == []
    (tmp_path/'letter.jpg').write_text('Dear grandmother')
    assert 'is no picture' in refused(lambda: open_picture(tmp_path/'letter.jpg', accept_damaged=True), tmp_path/'letter.jpg')
    refused(lambda: open_picture(claimed_png(tmp_path/'bomb.png', 40_000, 40_000), accept_damaged=True), tmp_path/'bomb.png')

def test_who_accepts_damage_does_not_make_others_accept_it(tmp_path):
    "Strict and lenient reads at the same time: Pillow has one switch for all threads."
    cut, seen = saved(tmp_path/'a.jpg', SMOOTH), []
    cut.write_bytes(cut.read_bytes()[:-60])
    def read(lenient):
        for _ in range(10):
            try: open_picture(cut, accept_damaged=lenient); seen.append((lenient, True))
            except UserError: seen.append((lenient, False))
    threads = [threading.Thread(target=read, args=(i%2 == 0,)) for i in range(6)]
    for t in threads: t.start()
    for t in threads: t.join(30)
    assert len(seen) == 60 and set(seen) == {(True, True), (False, False)} and ImageFile.LOAD_TRUNCATED_IMAGES is False

XMP = ('<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
       'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" xmp:Rating="5" tiff:Orientation="6" crs:Exposure="2" exif:GPSLatitude="50,6.0N">'
       '<dc:subject><rdf:Bag><rdf:li>Großmutter</rdf:li><rdf:li>Wedding 1932</rdf:li></rdf:Bag></dc:subject><dc:title><rdf:Alt><rdf:li xml:lang="x-default">The wedding</rdf:li></rdf:Alt></dc:title></rdf:Description></rdf:RDF></x:xmpmeta>').encode()
IPTC = b''.join(b'\x1c\x02' + bytes([number]) + len(words).to_bytes(2) + words for number, words in ((25, b'wedding'), (25, b'Rhine'), (105, b'The wedding')))
APP13 = b'Photoshop 3.0\x008BIM\x04\x04\0\0' + len(IPTC).to_bytes(4) + IPTC + b'\0'*(len(IPTC)%2)

@pytest.mark.parametrize('end', ['jpg', 'png', 'webp', 'tif', 'avif'])
def test_keywords_title_and_rating_come_along(tmp_path, end):
    path = saved(tmp_path/'a.jpg', SMOOTH, xmp=XMP, extra=b'\xff\xed' + (len(APP13) + 2).to_bytes(2) + APP13)
    picture = open_picture(path)
    result = write_picture(picture, tmp_path/f'b.{end}')
    back, holds = open_picture(result), end not in ('webp', 'avif')
    for words in ('Großmutter', 'Wedding 1932', 'The wedding', 'Rating="5"'): assert words in back.xmp.decode()
    for words in (b'GPS', b'Orientation', b'Exposure'): assert words not in result.read_bytes()
    assert back.iptc == (IPTC if holds else b'') and any('IPTC' in n for n in pictures.fitted(picture, result).notices) != holds

def test_the_place_in_xmp_stays_only_if_asked_for(tmp_path):
    path = saved(tmp_path/'a.jpg', SMOOTH, xmp=XMP)
    assert b'GPS' not in open_picture(path).xmp and b'GPSLatitude' in open_picture(path, keep_gps=True).xmp

@pytest.mark.parametrize('xmp', [b'<x', b'\0', b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', b'<a>' + b' '*2**21 + b'</a>', '<a/>'.encode('utf-16')])
def test_xmp_that_cannot_be_read_is_no_refusal(tmp_path, xmp):
    picture = open_picture(saved(tmp_path/'a.webp', ROUGH, lossless=True, xmp=xmp))
    np.testing.assert_array_equal(picture.pixels, ROUGH)
    assert picture.xmp == b'' and len(picture.notices) <= 1

# In color already, and names that look like results'

def color_command(tmp_path, *args):
    "The command with a network that always answers orange; its exit code."
    from colorization_pix2pix.inference.cli import main
    from colorization_pix2pix.inference.colorizer import Colorizer
    from colorization_pix2pix.inference.backend import Network
    orange = Colorizer(Network(lambda x: np.broadcast_to(np.float32([.2, .5])[None, :, None, None], (1, 2, *x.shape[2:])), dict(space='lab', size=32)))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(Colorizer, 'load', lambda *a, **k: orange)
        return main([*map(str, args)])

@pytest.mark.parametrize('named', [True, False])
def test_a_photograph_in_color_is_left_alone_and_named(tmp_path, capsys, named):
    saved(tmp_path/'dress.jpg', SMOOTH); saved(tmp_path/'grey.jpg', grey3(GREY))
    given = [tmp_path/'dress.jpg', tmp_path/'grey.jpg'] if named else [tmp_path]
    assert color_command(tmp_path, *given) == 0
    out, err = capsys.readouterr()
    assert 'dress.jpg is in color already' in err and '--recolor' in err and '1 left as they are' in out and '1 of 2 photos colorized' in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ['dress.jpg', 'grey.jpg', 'grey_colorized.jpg']
    assert color_command(tmp_path, '--recolor', *given) == 0 and (tmp_path/'dress_colorized.jpg').exists()

def test_somebodys_own_photograph_with_a_results_name_is_colored(tmp_path, capsys):
    "The mark in the file decides: a result is left out, and what only has its name is a photograph."
    saved(tmp_path/'photo_colorized.jpg', grey3(GREY)); saved(tmp_path/'a.png', GREY)
    assert color_command(tmp_path, tmp_path) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.png', 'a_colorized.png', 'photo_colorized.jpg', 'photo_colorized_colorized.jpg']
    capsys.readouterr()
    assert color_command(tmp_path, tmp_path) == 0
    assert '2 left out' in capsys.readouterr().out and len(list(tmp_path.iterdir())) == 4
    (tmp_path/'a_colorized.png').rename(tmp_path/'renamed.png')
    assert color_command(tmp_path, tmp_path/'renamed.png') == 0 and 'renamed.png was colored by this program' in capsys.readouterr().err

def test_the_command_accepts_damage_if_asked_to(tmp_path, capsys):
    cut = saved(tmp_path/'a.jpg', grey3(GREY))
    cut.write_bytes(cut.read_bytes()[:-2])
    assert color_command(tmp_path, cut) == 1 and '--accept-damaged' in capsys.readouterr().err
    assert color_command(tmp_path, cut, '--accept-damaged') == 0 and 'as far as it goes' in capsys.readouterr().err

@pytest.mark.parametrize('dark, light', [((0, 0, 0), (255, 255, 255)), ((40, 20, 8), (252, 240, 205)), ((10, 30, 70), (240, 248, 250)), ((80, 66, 50), (236, 222, 180))], ids=['grey', 'sepia', 'blue', 'faded'])
def test_toned_prints_pass_and_photographs_do_not(dark, light):
    from colorization_pix2pix.inference.colorizer import is_colored
    pytest.importorskip('sklearn.datasets')
    for name, photo in demo_pictures().items():
        t = np.asarray(Image.fromarray(photo).convert('L'))[..., None]/255
        data = io.BytesIO()
        Image.fromarray(np.uint8(np.array(dark)*(1 - t) + np.array(light)*t + .5)).save(data, 'JPEG', quality=85)
        assert is_colored(photo) and not is_colored(np.array(Image.open(data))), name

# Folders

def test_picture_files(tmp_path):
    for name in ('z.JPG', 'a.jpeg', 'sub/deep/b.Tiff', 'sub/c.webp', 'd.gif', 'e.bmp', 'f.avif', 'g.heic', 'h.png', 'notes.txt', 'jpg', 'x.jpg.txt',
                 '.hidden.jpg', '._a.jpg', '.git/i.jpg', 'sub/.thumbs/j.jpg'):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).touch()
    (tmp_path/'sub/loop').symlink_to(tmp_path)
    (tmp_path/'folder.jpg').mkdir()
    want = ['a.jpeg', 'd.gif', 'e.bmp', 'f.avif', 'g.heic', 'h.png', 'sub/c.webp', 'sub/deep/b.Tiff', 'z.JPG']
    assert picture_files(str(tmp_path)) == [tmp_path/w for w in want]

def test_picture_files_of_an_empty_folder(tmp_path): assert picture_files(tmp_path) == []

@pytest.mark.parametrize('name', ['nowhere', 'file.jpg', 'loop', 'nul\0', 'two\nlines'])
def test_no_folder_is_refused(tmp_path, name):
    (tmp_path/'file.jpg').touch()
    (tmp_path/'loop').symlink_to('loop')
    refused(lambda: picture_files(tmp_path/name), pictures.plain(tmp_path/name))

def test_a_folder_that_may_not_be_listed_is_named(open_folder):
    (open_folder/'secret').mkdir(0o700)
    (open_folder/'secret').chmod(0)
    with as_nobody(): refused(lambda: picture_files(open_folder), open_folder/'secret')

# Result paths

@pytest.mark.parametrize('photo, want', [('b.jpg', 'b_colorized.jpg'), ('b.JPEG', 'b_colorized.jpg'), ('b.jfif', 'b_colorized.jpg'), ('b.png', 'b_colorized.png'),
                                         ('b.gif', 'b_colorized.png'), ('b.tif', 'b_colorized.png'), ('b.heic', 'b_colorized.png'), ('a.b.c.jpg', 'a.b.c_colorized.jpg')])
def test_result_path_beside_the_photo(tmp_path, photo, want): assert result_path(tmp_path/photo) == tmp_path/want

def test_result_path_counts_on(tmp_path):
    for want in ('b_colorized.jpg', 'b_colorized_2.jpg', 'b_colorized_3.jpg'):
        got = result_path(tmp_path/'b.jpg')
        assert got == tmp_path/want
        got.symlink_to('gone')                          # a dangling link is a name that is taken, too

def test_result_path_never_names_the_photo(tmp_path):
    (tmp_path/'b.jpg').touch()
    assert result_path(tmp_path/'b.jpg', suffix='') == tmp_path/'b_2.jpg'

def test_result_path_with_out(tmp_path):
    assert result_path('elsewhere/b.tif', out=tmp_path) == tmp_path/'b_colorized.png'
    assert result_path('elsewhere/b.jpg', out=str(tmp_path/'new.png')) == tmp_path/'new.png'

@pytest.mark.parametrize('out', ['taken.png', 'dangling.png', 'nowhere/new.png', 'new.gif', 'new', 'new.txt', '.png', 'nul\0.png'])
def test_out_that_cannot_be_used(tmp_path, out):
    (tmp_path/'taken.png').touch()
    (tmp_path/'dangling.png').symlink_to('gone')
    if '\0' in out: refused(lambda: write_picture(ROUGH, result_path('b.jpg', out=tmp_path/out)), pictures.plain(tmp_path/out))
    else: refused(lambda: result_path('b.jpg', out=tmp_path/out), tmp_path/out)

# Writing

def left_over(folder): return [p.name for p in folder.iterdir() if p.name.startswith('.')]

@pytest.mark.parametrize('end', ['png', 'PNG', 'webp', 'tif', 'tiff', 'bmp'])
def test_write_is_lossless(tmp_path, end):
    assert write_picture(ROUGH, str(tmp_path/f'a.{end}')) == tmp_path/f'a.{end}'
    np.testing.assert_array_equal(read_picture(tmp_path/f'a.{end}'), ROUGH)
    assert left_over(tmp_path) == []

@pytest.mark.parametrize('end', ['jpg', 'JPG', 'jpeg'])
def test_write_jpeg_keeps_full_size_color(tmp_path, end):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255, 0, 0
    stripes[:, 1::2] = 0, 0, 255
    got = read_picture(write_picture(stripes, tmp_path/f'a.{end}'))
    assert np.abs(got.astype(int) - stripes).mean() < 4  # 4:2:0 would mix the stripes to purple
    with Image.open(tmp_path/f'a.{end}') as im: assert im.format == 'JPEG' and max(im.quantization[0]) <= 12

def test_write_takes_views_and_one_pixel(tmp_path):
    np.testing.assert_array_equal(read_picture(write_picture(ROUGH[::-1, ::2], tmp_path/'a.png')), ROUGH[::-1, ::2])
    np.testing.assert_array_equal(read_picture(write_picture(ROUGH[:1, :1], tmp_path/'b.png')), ROUGH[:1, :1])

@pytest.mark.parametrize('mask, want', [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_follows_umask(tmp_path, mask, want):
    old = os.umask(mask)
    try: write_picture(ROUGH, tmp_path/'a.png')
    finally: os.umask(old)
    assert stat.S_IMODE((tmp_path/'a.png').stat().st_mode) == want

def no_links(*a, **k): raise PermissionError(1, 'Operation not permitted')

@pytest.mark.parametrize('links', [True, False])
@pytest.mark.parametrize('taken', ['file', 'dangling link', 'folder'])
def test_write_never_replaces(tmp_path, monkeypatch, taken, links):
    if not links: monkeypatch.setattr(os, 'link', no_links)
    path = tmp_path/'a.png'
    {'file': lambda: path.write_text('mine'), 'dangling link': lambda: path.symlink_to('gone'), 'folder': path.mkdir}[taken]()
    before = os.lstat(path)
    assert 'already exists' in refused(lambda: write_picture(ROUGH, path), path)
    with pytest.raises(Taken): write_picture(ROUGH, path)
    assert os.lstat(path) == before and sorted(os.listdir(tmp_path)) == ['a.png']

@pytest.mark.parametrize('links', [True, False])
def test_of_many_writers_one_wins(tmp_path, monkeypatch, links):
    if not links: monkeypatch.setattr(os, 'link', no_links)
    done, start = [], threading.Barrier(8)
    def write(i):
        start.wait()
        try: write_picture(np.full((64, 64, 3), i, np.uint8), tmp_path/'a.png'); done.append(i)
        except UserError: pass
    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(done) == 1 and (read_picture(tmp_path/'a.png') == done[0]).all() and os.listdir(tmp_path) == ['a.png']

def test_write_without_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'link', no_links)
    np.testing.assert_array_equal(read_picture(write_picture(ROUGH, tmp_path/'a.png')), ROUGH)
    assert os.listdir(tmp_path) == ['a.png']

def test_nothing_is_left_if_the_last_step_fails(tmp_path, monkeypatch):
    def fail(*a): raise OSError(5, 'Input/output error')
    monkeypatch.setattr(os, 'link', no_links)
    monkeypatch.setattr(os, 'replace', fail)
    refused(lambda: write_picture(ROUGH, tmp_path/'a.png'), tmp_path/'a.png')
    assert os.listdir(tmp_path) == []

@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), OSError(30, 'Read-only file system'), KeyboardInterrupt()])
def test_nothing_is_left_if_flushing_fails(tmp_path, monkeypatch, error):
    def fail(*a): raise error
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt): write_picture(ROUGH, tmp_path/'a.png')
    assert os.listdir(tmp_path) == []

FULL = """
import resource, sys, numpy as np
from colorization_pix2pix.data.image_files import write_picture
from colorization_pix2pix.core.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
write_picture(noise[:20, :20], sys.argv[1] + '/small.' + sys.argv[2])
try: write_picture(noise, sys.argv[1] + '/big.' + sys.argv[2])
except UserError as e: print(e)
"""

@pytest.mark.parametrize('end', ['jpg', 'png', 'tif'])
def test_full_disk(tmp_path, end):
    uncounted = {k: v for k, v in os.environ.items() if k != 'COVERAGE_PROCESS_CONFIG'} # its data file would not fit either
    done = subprocess.run([sys.executable, '-c', FULL, tmp_path, end], capture_output=True, text=True, timeout=20, env=uncounted)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'{tmp_path}/big.{end} cannot be written (') and done.stdout.count('\n') == 1
    assert os.listdir(tmp_path) == [f'small.{end}']

def test_read_only_folder(open_folder):
    with as_nobody(): assert 'cannot be written (Permission denied)' in refused(lambda: write_picture(ROUGH, open_folder/'a.png'), open_folder/'a.png')
    assert os.listdir(open_folder) == []

@pytest.mark.parametrize('name', ['a', 'a.gif', 'a.txt', '.jpg', 'nowhere/a.png', 'n'*300 + '.png', 'nul\0.png', 'two\nlines/a.png'])
def test_names_that_cannot_be_written(tmp_path, name):
    refused(lambda: write_picture(ROUGH, tmp_path/name), pictures.plain(tmp_path/name))
    assert os.listdir(tmp_path) == []

def test_longest_name_can_be_written(tmp_path): assert write_picture(ROUGH, tmp_path/('n'*251 + '.png')).is_file()

def test_too_wide_for_the_format(tmp_path):
    wide = np.zeros((1, 20_000, 3), np.uint8)
    assert '20000 x 1' in refused(lambda: write_picture(wide, tmp_path/'a.webp'), tmp_path/'a.webp')
    assert os.listdir(tmp_path) == []

@pytest.mark.parametrize('picture', [GREY, ROUGH/255, ROUGH[..., :1], ROUGH[None], ROUGH.astype(np.int64)])
def test_what_is_no_picture_is_a_programming_error(tmp_path, picture):
    with pytest.raises(ValueError, match='uint8'): write_picture(picture, tmp_path/'a.png')

# The rest

def adobe_to_srgb(stored):
    "sRGB, 0 to 255, of Adobe RGB (1998): its gamma of 563/256 and both spaces' matrices to and from XYZ, without any ICC library."
    adobe = np.array([[.57667, .18556, .18823], [.29734, .62736, .07529], [.02703, .07069, .99134]])
    srgb = np.linalg.inv([[.4124564, .3575761, .1804375], [.2126729, .7151522, .0721750], [.0193339, .1191920, .9503041]])
    linear = ((stored/255)**(563/256) @ (srgb @ adobe).T).clip(0, 1)
    return 255*np.where(linear <= .0031308, 12.92*linear, 1.055*linear**(1/2.4) - .055)

def test_demo_pictures():
    sklearn, skimage = pytest.importorskip('sklearn.datasets'), pytest.importorskip('skimage.data')
    got = demo_pictures()
    assert list(got) == ['china', 'flower', 'rocket', 'coffee', 'chelsea', 'astronaut']
    for name in ('china', 'flower'): assert np.abs(got[name].astype(int) - sklearn.load_sample_image(f'{name}.jpg')).max() <= 1
    for name in ('coffee', 'chelsea', 'astronaut'): np.testing.assert_array_equal(got[name], getattr(skimage, name)())
    assert np.abs(got['rocket'] - adobe_to_srgb(skimage.rocket())).mean() < 1   # scikit-image ignores the profile in its file

def test_demo_pictures_name_the_missing_package(monkeypatch):
    monkeypatch.setattr(pictures, 'find_spec', lambda name: None)
    assert 'pip install' in refused(demo_pictures, 'sklearn')

def test_import_is_light():
    code = 'import sys, colorization_pix2pix.data.image_files; print([m for m in ("torch", "fastai", "skimage", "sklearn", "matplotlib", "fastcore") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60).stdout.strip() == '[]'
