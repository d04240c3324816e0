"""Metrics and realism on any pictures, against scikit-image and numpy, which do the same by other ways."""
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from skimage import color
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from colorization_pix2pix.metrics import image as metrics; from colorization_pix2pix.metrics import distribution as realism
from test_properties import examples

# Ours compute in single precision, the others in double: 6e-8 of numbers up to 100 is 6e-6, which CIEDE2000 multiplies where a color is nearly grey, since the
# angle of its hue is a quotient of small numbers. So an error in Lab is held to 1e-3, a thousandth of the least difference that an eye sees; SSIM, of 0 to 1, to 1e-4.

@st.composite
def pairs(draw):
    "Two batches of pictures that one can measure, as (B,3,H,W): near, far, or equal."
    shape = draw(st.integers(1, 3)), 3, draw(st.integers(16, 24)), draw(st.integers(16, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth, noise = rng.integers(0, 256, shape), rng.normal(0, draw(st.sampled_from([0, 1, 20, 200])), shape)
    return torch.from_numpy(np.uint8((truth + noise).round().clip(0, 255))), torch.from_numpy(np.uint8(truth))


@given(pairs())
@examples(.5)
def test_errors_are_those_of_scikit_image_and_know_no_order(pair):
    pred, truth = pair
    numpy = lambda pictures: pictures.permute(0, 2, 3, 1).numpy()
    for i, (p, t) in enumerate(zip(numpy(pred), numpy(truth))):
        assert abs(metrics.ciede2000(pred, truth)[i] - color.deltaE_ciede2000(color.rgb2lab(p), color.rgb2lab(t)).mean()) < 1e-3
        assert abs(metrics.lightness_error(pred, truth)[i] - np.abs(color.rgb2lab(p) - color.rgb2lab(t))[..., 0].mean()) < 1e-3
        want = structural_similarity(p, t, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=-1)
        assert abs(metrics.ssim(pred, truth)[i] - want) < 1e-4
        if (p != t).any(): assert abs(metrics.psnr(pred, truth)[i] - peak_signal_noise_ratio(t, p)) < 1e-3
    for measure in (metrics.psnr, metrics.ssim, metrics.ciede2000, metrics.lightness_error):
        assert torch.allclose(measure(pred, truth), measure(truth, pred), atol=1e-4)
        assert torch.allclose(measure(pred, truth), torch.cat([measure(p[None], t[None]) for p, t in zip(pred, truth)]), atol=1e-4), 'a picture changes another'


@given(pairs())
@examples(.5)
def test_a_row_is_the_mean_of_what_each_metric_says(pair):
    pred, truth = pair
    scores = metrics.Scores()
    for p, t in zip(pred, truth): scores.add(p[None], t[None])
    row, mean = scores.result(), lambda values: values.double().mean().item()
    want = {m.__name__: mean(m(pred, truth)) for m in (metrics.psnr, metrics.ssim, metrics.ciede2000, metrics.lightness_error)}
    for end, pictures in (('', pred), ('_truth', truth)):
        want |= {'colourfulness' + end: mean(metrics.colorfulness(pictures)), 'chroma' + end: mean(metrics.mean_chroma(pictures)),
                 'ab_spread' + end: metrics.ab_spread(metrics.mean_ab(pictures)).item()}
    want |= {'colourfulness_gap': want['colourfulness'] - want['colourfulness_truth'], 'pictures': len(pred)}
    assert row == pytest.approx(want, abs=2e-3) # measured one by one and together, the sums come in another order; a table shows two places


@given(pairs(), st.integers(0, 3))
@examples(.5)
def test_realism_of_all_is_that_of_its_batches(pair, at):
    "However a set is cut into batches, and whichever of the two is called the truth."
    pred, truth = pair
    at = min(at, len(pred))
    whole, parts, turned = realism.Realism(), realism.Realism(), realism.Realism()
    whole.add(pred, truth)
    turned.add(truth, pred)
    for part in (slice(at), slice(at, None)):
        if len(pred[part]): parts.add(pred[part], truth[part])
    found, other = whole.result(), turned.result()
    assert parts.result() == pytest.approx(found, abs=1e-4)
    assert all(other[k] == pytest.approx(found[k], abs=1e-4) for k in ('histogram_intersection', 'centred_intersection', 'step_distance')) and (other['step'], other['step_truth']) == (found['step_truth'], found['step'])
    assert 0 <= found['histogram_intersection'] <= 1 + 1e-9 and found['step_distance'] >= abs(found['step'] - found['step_truth']) - 1e-4
    for reach in (realism.REACH, realism.CENTRED):
        lab = np.stack([color.rgb2lab(p) for p in truth.permute(0, 2, 3, 1).numpy()])[..., 1:]
        bins = [np.arange(-reach, reach + 1, 10)]*2
        assert np.abs(realism.ab_histogram(truth, reach).reshape(2*reach//10, -1).numpy() - np.histogram2d(*lab.reshape(-1, 2).T, bins)[0]).sum() <= 2, 'but for a value on a border'
