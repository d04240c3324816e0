"""What the package carries: the weights, their card and the numbers in it belong together, and the weights do what the card says on pictures that are here."""
import hashlib, json, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from PIL import Image
import torch
from colorization_pix2pix.colorizer import Colorizer
from colorization_pix2pix.colorspace import fit_gamut, srgb_to_lab
from colorization_pix2pix.metrics import colourfulness, delta_e_2000
from colorization_pix2pix.network import default_weights
from colorization_pix2pix.pictures import demo_pictures
from colorization_pix2pix.release import COLORIZER, LARGEST, SHARPNESS, card

FOLDER = default_weights().parent


@pytest.fixture(scope='module')
def found(root): return json.loads((root/'results'/'colorizer'/'release.json').read_text())


@pytest.fixture(scope='module')
def colorizer(): return Colorizer.load()


def lab(picture): return srgb_to_lab(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])


def test_card_weights_and_results_belong_together(root, found):
    weights = default_weights().read_bytes()
    assert hashlib.sha256(weights).hexdigest() == found['sha256'] and len(weights) == found['bytes'] <= LARGEST
    assert (FOLDER/'MODEL_CARD.md').read_text() == card(found)
    run = json.loads((root/'results'/'colorizer'/f"{found['name']}.json").read_text())
    assert found['experiment'] == run['experiment'] | dict(saturation=found['experiment']['saturation'], sharpness=SHARPNESS) and found['data'] == run['data']
    assert run['experiment']['name'] == COLORIZER.name and found['trained_commit'] == run['commit']
    assert not any('changes' in commit for commit in (found['commit'], found['trained_commit']))


def test_better_than_grey_and_than_multiplied_l1_and_as_colourful_as_photographs(found):
    rows = found['rows']
    ours, grey = rows['colorizer'], rows['grey copy']
    assert found['data']['valid'] == ours['pictures'] == 334
    assert abs(ours['colourfulness']/ours['colourfulness_truth'] - 1) < .1
    assert ours['ciede2000'] < grey['ciede2000'] - 1


def test_more_hints_are_never_worse_and_hints_are_honoured(found):
    numbers = list(found['hints'])
    errors = [found['hints'][n]['ciede2000'] for n in numbers]
    assert numbers == ['0', '1', '5', '20', '100'] and errors == sorted(errors, reverse=True)
    assert all(found['hints'][n]['at_points'] < 5 for n in numbers[1:])
    assert errors[0] == pytest.approx(found['rows']['colorizer']['ciede2000'], abs=1e-3)


def test_colours_photographs_it_never_saw(colorizer):
    for name, picture in demo_pictures().items():
        result = colorizer(picture)
        assert result.shape == picture.shape and colourfulness(torch.from_numpy(result).permute(2, 0, 1)[None]).item() > 5, name
        assert (lab(result) - lab(picture))[:, 0].abs().mean() < .3, name


@pytest.mark.parametrize('rgb', [(200, 60, 50), (60, 90, 190), (90, 150, 60)])
def test_a_hint_is_honoured_at_its_point(colorizer, rgb):
    for name, picture in demo_pictures().items():
        x, y = picture.shape[1]//2, picture.shape[0]//3
        asked = torch.cat([lab(picture)[:, :1, y:y + 1, x:x + 1], lab(np.uint8([[rgb]]))[:, 1:]], 1) # its lightness stays the photograph's
        asked = fit_gamut(asked) # and sRGB may have no such colour there
        got = lab(colorizer(picture, hints=[(x, y, rgb)]))[:, :, y:y + 1, x:x + 1]
        assert delta_e_2000(asked, got).item() < 5, name


def test_the_command_needs_no_weights_of_ones_own(tmp_path):
    Image.fromarray(next(iter(demo_pictures().values()))).convert('L').save(tmp_path/'photo.jpg')
    done = subprocess.run([Path(sys.executable).parent/'colorize', tmp_path/'photo.jpg'], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, '')
    assert colourfulness(torch.from_numpy(np.array(Image.open(tmp_path/'photo_colorized.jpg').convert('RGB'))).permute(2, 0, 1)[None]).item() > 5
