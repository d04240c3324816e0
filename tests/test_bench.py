"""The benchmarks' page is made from the measured files, and what is compared as equal gives equal numbers. Nothing is timed here."""
import re, sys
import pytest
import torch
from torch import nn


@pytest.fixture(scope='module')
def bench(root):
    "benchmarks/bench.py, which stands beside the package."
    sys.path.insert(0, str(root/'benchmarks'))
    try:
        import bench
        yield bench
    finally: sys.path.remove(str(root/'benchmarks'))


def test_page_is_made_from_the_files(bench, root): assert (root/'benchmarks'/'README.md').read_text(encoding='utf-8') == bench.readme(), 'make it anew: bench.py --page'


def test_readme_claims_no_speed_without_its_row(root):
    section = (root/'README.md').read_text(encoding='utf-8').split('## How fast')[1].split('\n## ')[0].partition('All tables')[0]
    numbers, page = re.findall(r'\d+\.\d+|\d+%', section), (root/'benchmarks'/'README.md').read_text(encoding='utf-8')
    assert len(numbers) >= 6 and not [n for n in numbers if n not in page]


@pytest.mark.parametrize('bias', [True, False])
def test_sub_pixel_convolution_is_the_deconvolution(bench, bias):
    layer, x = nn.ConvTranspose2d(8, 2, 4, stride=2, padding=1, bias=bias), torch.rand(2, 8, 5, 7)
    assert (bench.SubPixel(layer)(x) - layer(x)).abs().max() < 1e-6


def test_other_loader_gives_lab(bench, tmp_path):
    "The comparison row reads what it says it reads."
    path = bench.photo(tmp_path/'a.jpg', 96, 128)
    x, y = bench.OneByOne([path], 64)[0]
    assert x.shape == (1, 64, 64) and -1 <= x.min() < x.max() <= 1 and y.abs().max() < .02 # a picture in black and white


def test_ratios_are_round_by_round(bench):
    assert bench.against([2., 4., 9.], [1., 2., 3.]) == '2.00 (2.00 to 3.00)'


def test_whole_epoch_is_more_than_its_steps(bench):
    from colorization_pix2pix.experiment import PRESETS
    from colorization_pix2pix.sources import load_photos
    row = bench.epoch(PRESETS['smoke'], load_photos('scenes:24', 64, 72))
    assert row['rate'] > 0 and 0 < row['steps'] < 1
    assert '| a    | 21                  | 3        | 2.000' in bench.whole_epochs(dict(a=dict(train=21, valid=3, rate=[1., 2., 3.], steps=.5)))
