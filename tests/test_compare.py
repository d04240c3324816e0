"""The slider between before and after, as a browser shows it."""
import shutil, subprocess
import numpy as np, pytest
from PIL import Image
from colorization_pix2pix.inference.compare import before_after

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
MOVE = "<script>addEventListener('load', () => { const s = document.querySelector('input'); s.value = VALUE; s.dispatchEvent(new Event('input')) })</script>"


@pytest.fixture
def show(tmp_path):
    "Two comparisons of red with blue on one page, the first one's slider moved; what is seen, without any network."
    def _show(value):
        red, blue = (np.full((100, 200, 3), c, np.uint8) for c in ([255, 0, 0], [0, 0, 255]))
        page = '<body style="margin:0">' + before_after(red, blue) + before_after(red, blue) + MOVE.replace('VALUE', str(value))
        (tmp_path/'page.html').write_text('<!doctype html>' + page, encoding='utf-8')
        shown = tmp_path/'shown.png'
        subprocess.run([CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars', f'--user-data-dir={tmp_path/"profile"}', '--host-resolver-rules=MAP * ~NOTFOUND',
                        '--window-size=400,500', f'--screenshot={shown}', (tmp_path/'page.html').as_uri()], capture_output=True, check=True, timeout=90)
        return np.asarray(Image.open(shown).convert('RGB')).astype(int)
    return _show


def red_part(row): return (row[:200, 0] > row[:200, 2]).mean()


@pytest.mark.skipif(CHROMIUM is None, reason='Chromium not installed: the slider is not tried in a browser')
@pytest.mark.parametrize('value', [0, 25, 100])
def test_the_slider_moves_the_edge_of_its_own_pictures(value, show):
    seen = show(value)
    second = next(y for y in range(110, 400) if red_part(seen[y]) > .3) # where the other comparison begins
    assert abs(red_part(seen[50]) - value/100) < .02 and abs(red_part(seen[second + 50]) - .5) < .02
    assert seen[50, 210:].min() > 240, 'wider than the pictures'
