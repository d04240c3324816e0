"""The web page as somebody uses it: a headless Chromium uploads, presses, compares and downloads. Networks are random, pictures made here."""
import importlib.util, io, os, re, shutil, signal, socket, subprocess, sys, time, urllib.error, urllib.parse, urllib.request
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from colorization_pix2pix.inference.cli import main
from colorization_pix2pix.inference.colorizer import Colorizer, colorize_file
from colorization_pix2pix.inference.backend import Network, onnx_bytes
from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.data.image_files import demo_pictures, gallery_pictures, open_picture, read_picture
from colorization_pix2pix.data.scenes import draw_scenes
from colorization_pix2pix.inference.render import srgb_to_lab
from colorization_pix2pix.inference.web import ColorizeService, SWATCHES, _at, _limits, _listen, _own_folder, launch, serve
from colorization_pix2pix.inference import web

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
MISSING = [m for m in ('gradio', 'playwright') if not importlib.util.find_spec(m)] + ['Chromium']*(CHROMIUM is None)
QUIET = '--no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
in_browser = pytest.mark.skipif(bool(MISSING), reason=f'{" and ".join(MISSING)} not installed: the page is not tried in a browser')
AXE = next((path for path in (os.environ.get('AXE', ''), *(str(folder/'node_modules/axe-core/axe.min.js') for folder in (Path.cwd(), Path(__file__).resolve().parents[1]))) if os.path.isfile(path)), None)
EXPERIMENT = dict(generator='unet', arch='resnet18', space='lab+hints', size=64, ngf=8, dropout=.5)

# The command, in a process that writes down every address it connects to or looks up
WATCHED = """
import sys
log = open(sys.argv.pop(1), 'a', buffering=1)
def watch(event, args):
    if event == 'socket.connect': print(args[1][0] if isinstance(args[1], tuple) else 'a local socket', file=log)
    if event == 'socket.getaddrinfo': print(args[0], file=log)
sys.addaudithook(watch)
from colorization_pix2pix.inference.cli import main
sys.exit(main())
"""


def test_without_gradio_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    monkeypatch.setattr(Colorizer, 'load', lambda *a, **k: Colorizer(Network(lambda x: x, dict(space='lab', size=32))))
    assert main(['--web']) == 1
    err = capsys.readouterr().err
    assert "pip install 'colorization_pix2pix[demo]'" in err and err.count('\n') == 1


@pytest.mark.parametrize('args, said', [([], '--web'), (['--web', 'a.jpg'], '--web'), (['--web', '--port', '0'], '--port: 0 is not a whole number from 1 to 65535')])
def test_photos_or_the_page(args, said, capsys):
    with pytest.raises(SystemExit) as e: main(args)
    assert e.value.code == 2 and said in capsys.readouterr().err


def test_the_service_works_without_the_page(tmp_path):
    "What is pressed on the page is what `colorize_file` does, for one visit at a time, and nothing stays."
    colorizer = Colorizer(Network(lambda x: 0*x[:, :2] + np.float32(.3), dict(space='lab+hints', size=32)))
    service, hints = ColorizeService(colorizer, tmp_path/'service'), [(5, 7, (200, 80, 60))]
    service.root.mkdir()
    own, upload = colorize_file(colorizer, photo(tmp_path/'a.jpg'), tmp_path/'own.jpg', .7, hints), service.take('visit', str(photo(tmp_path/'a.jpg')))
    for _ in range(2): before, after, result, notices = service.paint(upload, .7, hints)
    assert result.read_bytes() == own.read_bytes() and notices == [] and len(list(upload.file.parent.glob('result-*'))) == 1
    assert np.ptp(read_picture(before).astype(int), axis=2).max() < np.ptp(read_picture(after).astype(int), axis=2).max()
    assert service.show(upload, hints).read_bytes() != before.read_bytes()
    for bad in ([(240, 0, (1, 2, 3))], [(0, 0, (1, 2))]):
        with pytest.raises(UserError): service.paint(upload, 1., bad)
    (tmp_path/'text.jpg').write_text('Dear grandmother')
    for name, words in ('text.jpg', 'text.jpg'), ('own.jpg', 'name the original'):
        with pytest.raises(UserError, match=words): service.paint(service.take('other', str(tmp_path/name)))
    service.leave('visit'), service.leave('other')
    assert list(service.root.iterdir()) == []


def test_a_scan_of_16_bits_stays_one_on_the_page(tmp_path):
    "The browser gets JPEGs, the download all 20,000 levels of lightness."
    (tmp_path/'service').mkdir()
    service = ColorizeService(Colorizer(Network(lambda x: np.broadcast_to(np.float32([.2, .3])[None, :, None, None], (1, 2, *x.shape[2:])), dict(space='lab', size=64))), tmp_path/'service')
    Image.fromarray(np.linspace(0, 65535, 20_000).astype(np.uint16).reshape(100, 200)).save(tmp_path/'scan.tif')
    upload = service.take('visit', str(tmp_path/'scan.tif'))
    before, after, result, notices = service.paint(upload)
    light = srgb_to_lab(open_picture(result).pixels)[..., 0].ravel()
    assert result.name == 'scan_colorized.png' and (np.diff(light) > 0).all() and notices == [] and {before.suffix, after.suffix} == {'.jpg'}


def test_options_that_the_page_makes_no_use_of_are_named(capsys):
    with pytest.raises(SystemExit) as stopped: main(['--web', '--variants', '3', '--keep-gps', '--port', '9000'])
    assert stopped.value.code == 2 and 'nothing for --keep-gps, --variants to do' in capsys.readouterr().err


def test_the_page_listens_on_this_computer_only_unless_asked(monkeypatch):
    "And looks for weights before it is served."
    served = []
    monkeypatch.setattr(Colorizer, 'load', lambda *a, **k: 'colorizer')
    monkeypatch.setattr('colorization_pix2pix.inference.cli.serve', lambda *args: served.append(args))
    assert main(['--web']) == 0 and main(['--web', '--host', '0.0.0.0', '--port', '8000', '--max-megapixels', '50', '--no-browser']) == 0
    assert served == [('colorizer', '127.0.0.1', None, 200, True), ('colorizer', '0.0.0.0', 8000, 50, False)]


def test_weights_that_are_none_cost_a_sentence(tmp_path, capsys):
    assert main(['--web', '--weights', str(tmp_path/'absent.onnx')]) == 1
    assert 'absent.onnx' in capsys.readouterr().err


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "A random network that takes hints."
    import torch
    from colorization_pix2pix.models.io import build_generator
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights')/'hints.onnx'
    net = build_generator('unet', 4, 2, 64, ngf=8).eval()
    for m in net.modules(): # as after a training; with its first statistics BatchNorm leaves the answers almost grey
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.01, .1)
    path.write_bytes(onnx_bytes(net, EXPERIMENT))
    return path


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def hear_signals():
    "In a job in the background, or under nohup, some are ignored, and every process would inherit that."
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM): signal.signal(number, signal.SIG_DFL)


class Server:
    "`colorize --web` as a process of its own, with a temporary folder of its own."
    def __init__(self, folder, *args, path=()):
        self.log, self.tmp, self.port = folder/'addresses', folder/'tmp', free_port()
        self.tmp.mkdir()
        env = os.environ | {'TMPDIR': str(self.tmp), 'PYTHONPATH': os.pathsep.join(map(str, [*path, *sys.path]))}
        env = {k: v for k, v in env.items() if not k.startswith(('GRADIO_', 'HF_'))}
        self.process = subprocess.Popen([sys.executable, '-c', WATCHED, self.log, '--web', '--no-browser', '--port', str(self.port), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, preexec_fn=hear_signals)
        self.said = self.process.stdout.readline()
        assert f'http://127.0.0.1:{self.port}' in self.said, self.said + self.process.stdout.read()

    def files(self): return sorted(p.relative_to(self.tmp).as_posix() for p in self.tmp.rglob('*') if p.is_file() and p.stat().st_size)

    def stop(self):
        if self.process.poll() is None: self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=30)[0]


@pytest.fixture(scope='module')
def server(weights, tmp_path_factory):
    running = Server(tmp_path_factory.mktemp('server'), '--weights', weights, '--max-megapixels', '1')
    yield running
    running.stop()


@pytest.fixture(scope='module')
def several(tmp_path_factory):
    "A page whose random network knows several colorings of a photograph, and its weights."
    import torch
    from colorization_pix2pix.models.io import build_generator
    torch.manual_seed(0)
    folder, experiment = tmp_path_factory.mktemp('several'), EXPERIMENT | dict(generator='unet+classes')
    path = folder/'classes.onnx'
    path.write_bytes(onnx_bytes(build_generator('unet+classes', 4, 2, 64, ngf=8).eval(), experiment))
    running = Server(folder, '--weights', path)
    yield running, path
    running.stop()


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


class Page:
    "A visit. Requests to any other computer are refused and noted."
    def __init__(self, browser, address, width=1280, **options):
        self.context = browser.new_context(viewport={'width': width, 'height': 900}, accept_downloads=True, **options)
        self.asked = []
        self.context.route('**/*', self.guard)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.goto(address, timeout=120_000) # the port is open before Gradio has been imported
        for part in ('#file input[type=file]', '#said [role=status]'): self.page.locator(part).wait_for(state='attached')

    def guard(self, route):
        url = urllib.parse.urlparse(route.request.url)
        self.asked.append(route.request.url)
        if url.scheme in ('http', 'https', 'ws', 'wss') and url.hostname != '127.0.0.1': route.abort()
        else: route.continue_()

    def said(self): return self.page.locator('#said').inner_text().strip()

    def wait_for(self, words):
        self.page.wait_for_function("words => document.querySelector('#said').innerText.includes(words)", arg=words)
        return self.said()

    def click_photo(self, x, y):
        "Shares of its width and height."
        image = self.page.locator('#photo img')
        box = image.bounding_box()
        image.click(position={'x': box['width']*x, 'y': box['height']*y})

    def hinted(self, words):
        "The list of hints that the result is made of."
        self.page.wait_for_function("words => document.querySelector('#hinted').innerText.includes(words)", arg=words)
        self.wait_for('is ready')
        return self.page.locator('#hinted').inner_text().strip()

    def upload(self, path, words): self.page.locator('#file input[type=file]').set_input_files(path); return self.wait_for(words)
    def press(self, words): self.page.locator('#colorize').click(); return self.wait_for(words)

    def download(self):
        with self.page.expect_download() as waiting: self.page.locator('#result').click()
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()

    def pixels(self, selector, n=0):
        "Of the n-th picture that is shown there."
        image = self.page.locator(selector).nth(n)
        image.wait_for()
        data = image.evaluate("async image => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer()))")
        return np.asarray(Image.open(io.BytesIO(bytes(data))).convert('RGB')).astype(int)


@pytest.fixture
def page(server, browser):
    visit = Page(browser, f'http://127.0.0.1:{server.port}')
    yield visit
    visit.context.close()


def photo(path, shape=(160, 240), **options):
    Image.fromarray(draw_scenes(1, 240, seed=4)[0][:shape[0], :shape[1]]).convert('L').save(path, **options)
    return path


def dated(orientation=6):
    exif = Image.Exif()
    exif.update({274: orientation, 306: '1987:06:05 12:00:00', 270: 'Aunt Ada'})
    exif[0x8825] = {1: 'N', 2: (50., 6., 0.)}
    return exif.tobytes()


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end: time.sleep(.1)
    return true()


@in_browser
def test_upload_press_compare_download(page, tmp_path, weights):
    "The download is byte for byte what the command writes: upright, with its date and without its place."
    path = photo(tmp_path/'aunt.jpg', exif=dated(), dpi=(300, 300))
    assert 'aunt.jpg: 160 x 240 pixels' in page.upload(path, 'aunt.jpg')
    assert page.pixels('#photo img').shape == (240, 160, 3)
    page.press('aunt_colorized.jpg is ready')
    before, after = (page.pixels('#both img', n) for n in (0, 1))
    if np.ptp(before, axis=2).max() > np.ptp(after, axis=2).max(): before, after = after, before
    assert before.shape == after.shape and np.ptp(before, axis=2).max() < 12 and np.abs(before - after).max() > 12
    name, got = page.download()
    assert main([str(path), '--weights', str(weights)]) == 0
    assert (name, got) == ('aunt_colorized.jpg', (tmp_path/'aunt_colorized.jpg').read_bytes())
    with Image.open(io.BytesIO(got)) as im: assert im.size == (160, 240) and im.getexif()[306] == '1987:06:05 12:00:00' and not im.getexif().get_ifd(0x8825)


@in_browser
def test_saturation_and_a_second_photo(page, tmp_path):
    page.upload(photo(tmp_path/'a.png'), 'a.png')
    page.page.locator('#saturation input[type=number]').fill('0')
    page.page.locator('#saturation input[type=number]').press('Tab')
    page.press('a_colorized.png is ready')
    with Image.open(io.BytesIO(page.download()[1])) as im: assert np.ptp(np.asarray(im).astype(int), axis=2).max() == 0
    page.upload(photo(tmp_path/'b.png'), 'b.png')
    assert page.page.locator('#both img').count() == 0, 'the result of the photograph before'


@in_browser
def test_hints_by_clicks(page, tmp_path, weights):
    "A click means the pixel under it: the same result as with --hint on the command line. Undo and clear take it back."
    path = photo(tmp_path/'a.png')
    page.upload(path, 'a.png')
    page.press('is ready')
    without = page.download()[1]
    page.click_photo(.25, .5)
    x, y, color = re.fullmatch(r'Hints: (\d+), (\d+) (#\w{6})', page.hinted('#c03020')).groups()
    assert abs(int(x) - 60) <= 2 and abs(int(y) - 80) <= 2 and color == '#c03020'
    assert main([str(path), '--weights', str(weights), '--hint', f'{x},{y},{color}']) == 0
    hinted = page.download()[1]
    assert hinted == (tmp_path/'a_colorized.png').read_bytes() != without, 'applied at once'
    page.page.locator('#picker button', has_text='blue sky').click()
    assert page.page.locator('#picker [aria-pressed=true]').inner_text() == 'blue sky'
    page.click_photo(.75, .5)
    assert page.hinted(SWATCHES['blue sky']).count('#') == 2
    assert page.download()[1] not in (hinted, without)
    page.page.locator('#undo').click()
    page.page.wait_for_function("document.querySelector('#hinted').innerText.split('#').length == 2")
    page.wait_for('is ready')
    assert page.download()[1] == hinted
    page.page.locator('#clear').click()
    page.hinted('none')
    assert page.download()[1] == without


@in_browser
def test_no_click_is_lost_while_another_is_applied(page, tmp_path):
    page.upload(photo(tmp_path/'a.png'), 'a.png')
    for x in .2, .4, .6, .8: page.click_photo(x, .5)
    page.page.wait_for_function("document.querySelector('#hinted').innerText.split('#').length == 5")


@in_browser
def test_by_keyboard(page, tmp_path, weights):
    "The photograph is colored, a hint is put into it, and the line between before and after is moved without a mouse."
    keys, path = page.page.keyboard, photo(tmp_path/'a.png')
    page.upload(path, 'a.png')
    page.page.locator('#colorize').focus()
    keys.press('Enter')
    page.wait_for('is ready')
    page.page.locator('#photo [role=application]').focus()
    for key in ['ArrowLeft']*10 + ['Shift+ArrowDown']*4: keys.press(key)
    assert page.page.locator('.where').inner_text() == 'Cross: 96, 112'
    keys.press('Enter')
    assert page.hinted('#c03020') == 'Hints: 96, 112 #c03020'
    assert page.page.evaluate("document.activeElement.getAttribute('role')") == 'application', 'the next hint needs no search for the photograph'
    assert main([str(path), '--weights', str(weights), '--hint', '96,112,#c03020']) == 0
    assert page.download()[1] == (tmp_path/'a_colorized.png').read_bytes()
    page.page.locator('#both input[type=range]').focus()
    for _ in range(20): keys.press('ArrowLeft')
    assert page.page.locator('#both .compare').evaluate("e => getComputedStyle(e).getPropertyValue('--at')") == '30%'


@in_browser
def test_variants_are_those_of_the_command(several, browser, tmp_path):
    server, weights = several
    visit, path = Page(browser, f'http://127.0.0.1:{server.port}'), photo(tmp_path/'a.jpg')
    visit.upload(path, 'a.jpg')
    visit.page.locator('#more').click()
    visit.wait_for('seed 0')
    assert main([str(path), '--weights', str(weights), '--variants', '3']) == 0
    links = visit.page.locator('#variants a')
    assert links.count() == 4
    for i in range(4):
        with visit.page.expect_download() as waiting: links.nth(i).click()
        name = waiting.value.suggested_filename
        assert Path(waiting.value.path()).read_bytes() == (tmp_path/name).read_bytes(), name
    first = visit.pixels('#variants img')
    visit.page.locator('#more').click()
    visit.wait_for('seed 1')
    assert np.abs(visit.pixels('#variants img') - first).max() > 3
    visit.press('is ready')
    assert visit.page.locator('#variants img').count() == 0, 'variants of other settings'
    visit.context.close()


@in_browser
def test_on_a_phone(browser, server, tmp_path):
    "390 pixels wide: nothing sticks out, and no control is between the photograph and the button."
    visit = Page(browser, f'http://127.0.0.1:{server.port}', width=390)
    visit.upload(photo(tmp_path/'a.jpg'), 'a.jpg')
    visit.press('is ready')
    assert visit.page.evaluate('document.documentElement.scrollWidth') <= 390
    photo_box, button = (visit.page.locator(what).bounding_box() for what in ('#photo img', '#colorize'))
    middles = visit.page.evaluate("""Array.from(document.querySelectorAll('button, input, a, select, textarea')).map(e => e.getBoundingClientRect())
        .filter(box => box.width && box.height).map(box => box.top + box.height/2)""")
    assert photo_box['width'] > 300 and photo_box['y'] + photo_box['height'] <= button['y'] < photo_box['y'] + photo_box['height'] + 100
    assert [m for m in middles if photo_box['y'] + photo_box['height'] < m < button['y']] == []
    assert visit.page.locator('#both img').first.bounding_box()['y'] < visit.page.locator('#picker').bounding_box()['y']
    visit.context.close()


@in_browser
@pytest.mark.skipif(not AXE, reason='axe-core is not installed (npm install axe-core, or AXE names its axe.min.js): the page is not searched for barriers')
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_no_barriers(several, browser, tmp_path, scheme):
    "axe finds nothing serious, before and after, on a service and on a phone; and each picture has a text."
    visit = Page(browser, f'http://127.0.0.1:{several[0].port}', color_scheme=scheme)
    assert barriers(visit.page) == []
    visit.upload(photo(tmp_path/'a.jpg'), 'a.jpg')
    visit.press('is ready')
    visit.page.locator('#more').click()
    visit.wait_for('seed 0')
    assert barriers(visit.page) == []
    visit.page.set_viewport_size(dict(width=390, height=844))
    assert barriers(visit.page) == []
    assert visit.page.locator('img').count() == 7 and visit.page.evaluate("Array.from(document.images).every(image => image.alt.includes('a.jpg'))")
    assert visit.page.locator('#said [role=status]').inner_text().startswith('3 variants of a.jpg')
    visit.context.close()


def barriers(page):
    "What axe finds that is serious or critical."
    page.mouse.move(5, 5)
    page.wait_for_timeout(500) # colors fade when a pointer leaves a button
    page.evaluate(Path(AXE).read_text(encoding='utf-8'))
    return [(v['id'], [node['html'][:200] for node in v['nodes']]) for v in page.evaluate('axe.run()')['violations'] if v['impact'] in ('serious', 'critical')]


@in_browser
@pytest.mark.skipif(not importlib.util.find_spec('pillow_heif'), reason='pillow-heif is optional')
def test_a_heic_photograph(page, tmp_path):
    import pillow_heif
    pillow_heif.from_pillow(Image.open(photo(tmp_path/'a.png')).convert('RGB')).save(tmp_path/'a.heic')
    assert 'HEIC' in page.page.locator('#file').inner_text()
    page.upload(tmp_path/'a.heic', 'a.heic: 240 x 160')
    page.press('a_colorized.png is ready')


@in_browser
def test_a_photograph_in_color_is_left_alone_unless_asked(page, tmp_path):
    Image.fromarray(demo_pictures()['china']).save(tmp_path/'china.jpg')
    page.upload(tmp_path/'china.jpg', 'in color already')
    page.page.locator('#photo [role=application]').click()
    page.page.wait_for_function("document.querySelector('#hinted').innerText.includes('#')")
    page.press('in color already')
    assert page.page.locator('#both img').count() == 0 and page.page.locator('#result').is_disabled()
    if AXE: assert barriers(page.page) == [] # with the box 'Color it anyway', which is not there otherwise
    page.page.locator('#anyway input').check()
    page.press('china_colorized.jpg is ready')
    page.upload(photo(tmp_path/'a.jpg'), 'a.jpg')
    assert 'color' not in page.said() and not page.page.locator('#anyway').is_visible()


BAD = {'empty.jpg': (b'', 'empty.jpg is empty'), 'text.jpg': (b'Dear grandmother', 'text.jpg is no picture'), 'cut.png': (None, 'cut.png is damaged or cut short'),
       'large.png': (None, 'more than 1 million pixels')}


@in_browser
@pytest.mark.parametrize('name', BAD)
def test_bad_uploads_cost_a_sentence_and_are_not_kept(page, server, tmp_path, name):
    content, words = BAD[name]
    (tmp_path/name).write_bytes(content or b'')
    if name == 'cut.png': photo(tmp_path/name); (tmp_path/name).write_bytes((tmp_path/name).read_bytes()[:2000])
    if name == 'large.png': Image.new('L', (1200, 1000)).save(tmp_path/name)
    sentence = page.upload(tmp_path/name, words)
    assert sentence.endswith('.') and str(server.tmp) not in sentence
    assert not [f for f in server.files() if name in f]
    page.page.locator('#colorize').click()
    page.wait_for('Upload a photograph first')
    page.upload(photo(tmp_path/'good.jpg'), 'good.jpg: 240 x 160')


@pytest.mark.skipif('gradio' in MISSING, reason='gradio is optional')
@pytest.mark.parametrize('size, status', [(5_000, 200), (50_000, 413)])
def test_files_over_the_limit_are_refused_before_they_are_kept(tmp_path, weights, size, status):
    listening = _listen('127.0.0.1', free_port())
    page, address = launch(Colorizer.load(weights), tmp_path, listening, max_megabytes=.02), _at(listening)
    body = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + b'x'*size + b'\r\n--edge--\r\n'
    request = urllib.request.Request(f'{address.rstrip("/")}/gradio_api/upload', body, {'Content-Type': 'multipart/form-data; boundary=edge'})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer: got = answer.status
    except urllib.error.HTTPError as e: got = e.code
    finally: page.close()
    assert got == status and bool([p for p in (tmp_path/'uploads').rglob('*') if p.is_file() and p.stat().st_size]) == (status == 200)


@in_browser
def test_a_result_is_not_colored_again(page, tmp_path):
    page.upload(photo(tmp_path/'a.jpg'), 'a.jpg')
    page.press('is ready')
    (tmp_path/'other.jpg').write_bytes(page.download()[1])
    page.upload(tmp_path/'other.jpg', 'other.jpg was colored by this program: name the original')
    page.press('Upload a photograph first')


@in_browser
def test_nothing_stays_when_the_page_is_closed(server, browser, tmp_path):
    visit = Page(browser, f'http://127.0.0.1:{server.port}')
    visit.upload(photo(tmp_path/'private.jpg'), 'private.jpg')
    visit.press('is ready')
    assert [f for f in server.files() if 'private' in f]
    visit.context.close()
    assert until(lambda: not [f for f in server.files() if 'private' in f]), server.files()
    assert not [f for f in server.files() if '/uploads/' in f], 'a copy of an upload under another name'


@in_browser
def test_no_request_leaves_the_machine(server, page, tmp_path):
    "Neither from the browser nor from the program."
    page.upload(photo(tmp_path/'a.jpg'), 'a.jpg')
    page.press('is ready')
    hosts = {urllib.parse.urlparse(url).hostname for url in page.asked if not url.startswith(('data:', 'blob:'))}
    assert hosts == {'127.0.0.1'}, page.asked
    assert set(server.log.read_text().split('\n')) <= {'', '127.0.0.1', 'localhost', '::1', 'a local socket'}


@in_browser
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP'])
def test_everything_goes_when_it_is_ended(browser, weights, tmp_path, name):
    "By a shutdown, or by a terminal that is closed."
    server = Server(tmp_path, '--weights', weights)
    try:
        visit = Page(browser, f'http://127.0.0.1:{server.port}')
        visit.upload(photo(tmp_path/'private.jpg'), 'private.jpg')
        visit.press('is ready')
        assert [f for f in server.files() if 'private' in f]
        server.process.send_signal(getattr(signal, name))
        said = server.process.communicate(timeout=30)[0]
    finally: server.process.kill()
    assert list(server.tmp.iterdir()) == [] and server.process.returncode == 128 + getattr(signal, name) and said.strip() == ''
    visit.context.close()


OWNER = "from colorization_pix2pix.inference.web import _own_folder\nwith _own_folder() as folder: (folder/'visits').mkdir(); (folder/'visits'/'private.jpg').touch(); print(folder, flush=True); input()"


def test_what_a_crash_left_goes_at_the_next_start(tmp_path, monkeypatch):
    "What belongs to a page that is open, or to nobody's page, stays."
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    owners = [subprocess.Popen([sys.executable, '-c', OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {'TMPDIR': str(tmp_path), 'PYTHONPATH': os.pathsep.join(sys.path)}) for _ in range(2)]
    crashed, open_one = (Path(owner.stdout.readline().strip()) for owner in owners)
    (tmp_path/'colorize-page-mine').mkdir()
    (tmp_path/'colorize-page-link').symlink_to(crashed)
    owners[0].kill(), owners[0].wait()
    try:
        assert (crashed/'visits'/'private.jpg').exists()
        with _own_folder() as own: assert {p.name for p in tmp_path.iterdir()} == {own.name, open_one.name, 'colorize-page-mine', 'colorize-page-link'}
        assert (open_one/'visits'/'private.jpg').exists() and not own.exists()
    finally: owners[1].communicate('\n', timeout=30)
    assert not open_one.exists()


@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='Windows has no such signals')
def test_the_address_is_said_before_gradio_is_there(tmp_path, weights):
    "Here it never comes; the port is open all the same, and SIGTERM finds nothing to leave behind."
    (tmp_path/'gradio').mkdir(), (tmp_path/'gradio'/'__init__.py').write_text('import time; time.sleep(600)')
    server = Server(tmp_path, '--weights', weights, path=[tmp_path])
    try:
        with socket.create_connection(('127.0.0.1', server.port), timeout=5): pass
        assert until(lambda: list(server.tmp.glob('colorize-page-*/uploads')))
        server.process.terminate()
        assert server.process.wait(30) == 143 and list(server.tmp.iterdir()) == []
    finally: server.process.kill()


@pytest.mark.parametrize('env, browser, opened', [({'DISPLAY': ':0'}, True, True), ({'DISPLAY': ':0'}, False, False), ({}, True, False)])
def test_the_browser_is_opened_where_there_is_a_screen(monkeypatch, capsys, env, browser, opened):
    seen = []
    for name in ('DISPLAY', 'WAYLAND_DISPLAY', 'BROWSER'): monkeypatch.delenv(name, raising=False)
    for name, value in env.items(): monkeypatch.setenv(name, value)
    monkeypatch.setattr('sys.platform', 'linux')
    monkeypatch.setattr(web.webbrowser, 'open', seen.append)
    monkeypatch.setattr(web, '_check_extra', lambda: None)
    class Idle:
        def close(self): seen.append('closed')
    def launched(colorizer, root, listening, max_megapixels): signal.setitimer(signal.ITIMER_REAL, .5); return Idle()
    monkeypatch.setattr(web, 'launch', launched)
    def ring(*_): raise KeyboardInterrupt
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with pytest.raises(KeyboardInterrupt): serve(None, browser=browser)
    finally: signal.signal(signal.SIGALRM, before)
    address = re.search(r'http://127.0.0.1:\d+/', capsys.readouterr().out)[0]
    assert seen == [address]*opened + ['closed']


def test_the_line_of_limits_is_the_file_that_the_package_carries(monkeypatch, tmp_path):
    monkeypatch.setattr(web.resources, 'files', {'colorization_pix2pix': tmp_path}.get)
    assert _limits() == ''
    (tmp_path/'LIMITS.txt').write_text('It guesses.\nIt may be wrong.\n', encoding='utf-8')
    assert _limits() == 'It guesses. It may be wrong.'


@in_browser
def test_where_no_hints_are_taken_the_page_says_so_and_everything_goes_at_the_end(browser, tmp_path):
    from colorization_pix2pix.models.io import build_generator
    (tmp_path/'plain.onnx').write_bytes(onnx_bytes(build_generator('unet', 1, 2, 64, ngf=8).eval(), EXPERIMENT | dict(space='lab')))
    server = Server(tmp_path, '--weights', tmp_path/'plain.onnx')
    try:
        visit = Page(browser, f'http://127.0.0.1:{server.port}')
        assert 'take no hints' in visit.page.locator('#hints').inner_text() and not visit.page.locator('#picker').is_visible()
        visit.upload(photo(tmp_path/'a.jpg'), 'a.jpg')
        assert server.files()
    finally: said = server.stop()
    assert not server.files() and 'Traceback' not in said and server.process.returncode == 130
    visit.context.close()


@in_browser
def test_a_port_that_is_taken(server, weights):
    done = subprocess.run(
        [sys.executable, '-c', 'import sys; from colorization_pix2pix.inference.cli import main; sys.exit(main())', '--web', '--weights', weights, '--port', str(server.port)],
        capture_output=True, text=True, timeout=100, env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})
    assert done.returncode == 1 and re.fullmatch(r'colorize: The page cannot be served at .*--port.*\.', done.stderr.strip()), done.stderr


@in_browser
def test_screenshot(browser, tmp_path):
    """The picture in the README: COLORIZE_SCREENSHOT='WEIGHTS images/web.png' pytest tests/test_web.py -k screenshot."""
    if 'COLORIZE_SCREENSHOT' not in os.environ: pytest.skip('COLORIZE_SCREENSHOT does not name weights and a file')
    weights, file = os.environ['COLORIZE_SCREENSHOT'].split()
    Image.fromarray(gallery_pictures(('osprey',))['osprey']).convert('L').save(tmp_path/'osprey.jpg')
    server = Server(tmp_path, '--weights', weights)
    try:
        visit = Page(browser, f'http://127.0.0.1:{server.port}')
        visit.upload(tmp_path/'osprey.jpg', 'osprey.jpg')
        visit.press('is ready')
        visit.pixels('#both img', 1)
        visit.page.wait_for_timeout(1500)
        visit.page.screenshot(path=tmp_path/'web.png')
        Image.open(tmp_path/'web.png').convert('RGB').crop((0, 0, 1280, 830)).resize((1024, 664), Image.Resampling.LANCZOS).quantize(128).save(file, optimize=True)
        assert Path(file).stat().st_size < 200_000
        visit.context.close()
    finally: server.stop()
