"""What the package carries: the weights, their card and the numbers in it belong together, and the weights do what the card says on pictures that are here."""
import hashlib, json, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from PIL import Image
import torch
from colorization_pix2pix.inference.colorizer import Colorizer
from colorization_pix2pix.core.color import fit_gamut, lab_to_srgb, srgb_to_lab, to_uint8
from colorization_pix2pix.metrics.image import colorfulness, delta_e_2000
from colorization_pix2pix.inference.backend import default_weights
from colorization_pix2pix.data.image_files import GALLERY, demo_pictures, gallery_pictures
from colorization_pix2pix.data.photos import center_crop_resize
from colorization_pix2pix.experiments.release import COLORIZER, LARGEST, SEEN, SHARPNESS, card, hint_curve, limits
from colorization_pix2pix.models.io import load_generator, renamed_fields

FOLDER = default_weights().parent


@pytest.fixture(scope='module')
def found(root): return json.loads((root/'results'/'colorizer'/'release.json').read_text())


@pytest.fixture(scope='module')
def colorizer(): return Colorizer.load()


def lab(picture): return srgb_to_lab(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])


def test_card_weights_and_results_belong_together(root, found):
    weights = default_weights().read_bytes()
    assert hashlib.sha256(weights).hexdigest() == found['sha256'] and len(weights) == found['bytes'] <= LARGEST
    assert (FOLDER/'MODEL_CARD.md').read_text(encoding='utf-8') == card(found)
    assert (FOLDER/'LIMITS.txt').read_text(encoding='utf-8').strip() == found['limits'] == limits(found['rows'])
    run = json.loads((root/'results'/'colorizer'/f"{found['name']}.json").read_text())
    assert renamed_fields(found['experiment']) == renamed_fields(run['experiment']) | {k: found['experiment'][k] for k in ('size', 'mirrored', 'saturation')} | dict(sharpness=SHARPNESS) and found['data'] == run['data']
    assert run['experiment']['name'] == COLORIZER.name and found['trained_commit'] == run['commit']
    assert not any('changes' in commit for commit in (found['commit'], found['trained_commit']))


def test_weights_to_train_on_from_are_the_same(colorizer):
    net, _ = load_generator(FOLDER/'weights.safetensors')
    x = torch.from_numpy(colorizer._seen(next(iter(gallery_pictures(('lake',)).values())), ())[0])[None]
    with torch.no_grad(): y = net.eval()(x)
    assert (torch.from_numpy(colorizer.network.run(x.numpy())) - y).abs().max() < 2e-2 # both are stored in half precision, and the ONNX file has normalization folded in before


def test_every_kind_of_photograph_is_nearer_to_the_truth_than_gray(found):
    "Or is named in the line of limits; and people are, which is what families bring."
    for name, row in found['rows'].items():
        assert row['difference_interval'][1] < 0 or name in found['limits'], name
    assert found['rows']['people']['difference_interval'][1] < 0 and found['rows']['people']['skin']['ciede2000'] < found['rows']['people']['skin']['gray_ciede2000'] - 2


def test_more_hints_are_never_worse_and_hints_are_honored(colorizer, found):
    "Of the weights as they are, on ten pictures that come with the package; the card says the same of its photographs."
    squares = torch.from_numpy(np.stack([center_crop_resize(p, SEEN) for p in gallery_pictures(GALLERY).values()]))
    for curve in (hint_curve(colorizer, squares), found['hints']):
        errors = [row['ciede2000'] for row in curve.values()]
        assert list(curve) == ['0', '1', '5', '20', '100'] and errors == sorted(errors, reverse=True)
        assert all(curve[n]['at_points'] < 5 for n in list(curve)[1:])


@pytest.mark.parametrize('name, level', [(name, level) for level in (250, 8) for name in ('beach-walk', 'girl', 'migrant-mother-1936-bw', 'lake')])
def test_paper_stays_paper(colorizer, name, level):
    "A white mount or a black frame around a picture, as a scan has it, gets no color."
    picture = gallery_pictures((name,))[name]
    edge = min(picture.shape[:2]) // 8
    framed = np.pad(picture, ((edge, edge), (edge, edge), (0, 0)), constant_values=level)
    chroma = lab(colorizer(framed))[0, 1:].norm(dim=0)
    paper = torch.ones_like(chroma, dtype=torch.bool)
    near = edge * 3 // 4 # the color is a small picture, and what is next to the photograph gets a part of its
    paper[near:-near, near:-near] = False
    assert chroma[paper].mean() < 2


@pytest.mark.parametrize('name', ['girl', 'migrant-mother-1936-bw'])
def test_skin_stays_skin_in_every_variant(colorizer, name):
    "Of the middle of a face: toward red and yellow, never toward green or blue."
    picture = gallery_pictures((name,))[name]
    h, w = picture.shape[:2]
    top, left = (.48, .75) if name == 'girl' else (.26, .44)
    face = (slice(int(top * h), int((top + .1) * h)), slice(int(left * w), int((left + .12) * w)))
    for result in [colorizer(picture), *colorizer.variants(picture, 3)]:
        a, b = lab(result)[0, 1:, face[0], face[1]].flatten(1).median(1).values.tolist()
        assert a > 0 and b > 0, (a, b)


def error(picture, truth): return delta_e_2000(lab(picture), lab(truth)).mean().item()


def test_colors_photographs_it_never_saw(colorizer):
    "Their own lightness; nearer to the truth than grey in the mean of all, and outdoors, which is what it has learned, nearer as well than the same colors with an axis turned round or the two exchanged."
    results = {name: (colorizer(picture), picture) for name, picture in demo_pictures().items()}
    for name, (result, picture) in results.items():
        assert result.shape == picture.shape and colorfulness(torch.from_numpy(result).permute(2, 0, 1)[None]).item() > 5, name
        assert (lab(result) - lab(picture))[:, 0].abs().mean() < .3, name # of 0 to 100; storing 8 bits changes it by about .07
    def changed(result, change):
        other = lab(result)
        return to_uint8(lab_to_srgb(fit_gamut(torch.cat([other[:, :1], change(other[:, 1:])], 1))))[0].permute(1, 2, 0).numpy()
    grey = lambda ab: 0*ab
    assert np.mean([error(*pair) for pair in results.values()]) < np.mean([error(changed(r, grey), p) for r, p in results.values()])
    for name in 'china', 'rocket':
        result, picture = results[name]
        for change in (grey, lambda ab: -ab, lambda ab: ab.flip(1), lambda ab: ab*torch.tensor([1., -1])[:, None, None], lambda ab: ab*torch.tensor([-1., 1])[:, None, None]):
            assert error(result, picture) < error(changed(result, change), picture) - .5, name # the least of what was found is .9


@pytest.mark.parametrize('rgb', [(200, 60, 50), (60, 90, 190), (90, 150, 60)])
def test_a_hint_is_honoured_at_its_point(colorizer, rgb):
    for name, picture in demo_pictures().items():
        x, y = picture.shape[1]//2, picture.shape[0]//3
        asked = torch.cat([lab(picture)[:, :1, y:y + 1, x:x + 1], lab(np.uint8([[rgb]]))[:, 1:]], 1) # its lightness stays the photograph's
        asked = fit_gamut(asked) # and sRGB may have no such color there
        got = lab(colorizer(picture, hints=[(x, y, rgb)]))[:, :, y:y + 1, x:x + 1]
        assert delta_e_2000(asked, got).item() < 5, name


def test_the_command_needs_no_weights_of_ones_own(tmp_path):
    Image.fromarray(next(iter(demo_pictures().values()))).convert('L').save(tmp_path/'photo.jpg')
    done = subprocess.run([Path(sys.executable).parent/'colorize', tmp_path/'photo.jpg'], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, '')
    assert colorfulness(torch.from_numpy(np.array(Image.open(tmp_path/'photo_colorized.jpg').convert('RGB'))).permute(2, 0, 1)[None]).item() > 5
