"""A training step asks its device for nothing: on a graphics card that would make the processor wait for the card, and then the card for the processor.

The step is run on the 'meta' device, whose tensors have shapes and no numbers, so that every question (`.item()`, an `if`, `.cpu()`, a mask's size) raises.
What a card would also wait for, and 'meta' does not mind, is refused by `NoWaiting`: a plain copy to the device, and an index that lies on the CPU."""
from dataclasses import replace
import pytest, torch
from fastai.callback.core import Callback, CancelFitException, TrainEvalCallback
from fastai.data.core import DataLoaders
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from colorization_pix2pix.data.loaders import PhotoLoader, UnpairedLoader
from colorization_pix2pix.core.color import colorspace
from colorization_pix2pix.experiments.config import PRESETS, learner
from colorization_pix2pix.training.callbacks import NoValidation
from colorization_pix2pix.training.callbacks import LossCurves

CARD, CPU = torch.device('meta'), torch.device('cpu')
SMOKE = replace(PRESETS['smoke'], batch=2)
CLASSES = dict(generator='unet+classes', class_weight=1., sample_fraction=.25, adversarial_weight=0.)
STEPS = {'pix2pix': {}, 'RGB': dict(space='rgb'), 'L1, averaged': dict(adversarial_weight=0., average=.9), 'hints and classes': dict(space='lab+hints', **CLASSES), 'dynamic': dict(generator='dynamic'),
         'scales and matching': dict(scales=2, matching_weight=10.), 'CycleGAN': dict(method='cyclegan', norm='instance', adversarial='lsgan')}


class NoWaiting(TorchDispatchMode):
    "Raises for what would make a processor wait for its card: tensors with sides that lie on the CPU and take part in what comes out on the card, unless it is a copy that nobody waits for."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if kwargs.get('non_blocking') or not any(on(CARD, t) for t in tree_leaves(out)): return out
        assert not any(on(CPU, t) and t.ndim for t in tree_leaves((args, kwargs))), f'{func} waits for the card'
        return out


def on(device, value): return isinstance(value, torch.Tensor) and value.device == device


class Steps(Callback):
    "A first batch, in which tables are sent to the card once, two without waiting, then the end: what an epoch ends with may wait."
    order = 200
    def __init__(self): self.watch, self.seen = NoWaiting(), 0

    def after_batch(self):
        self.seen += 1
        if self.seen == 1: self.watch.__enter__()
        if self.seen < 3: return
        self.watch.__exit__(None, None, None)
        raise CancelFitException


def train(experiment, cbs=(), resident=True):
    "Three steps, from pictures on the card or, where they do not fit there, from those on the CPU."
    space, pixels = colorspace(experiment.space), torch.zeros(8, 72, 72, 3, dtype=torch.uint8, device=CARD if resident else CPU)
    loader = (UnpairedLoader if experiment.method == 'cyclegan' else PhotoLoader)(pixels, space, 64, augment=True, bs=2, shuffle=True, drop_last=True, device=CARD)
    steps = Steps()
    learn = learner(experiment, DataLoaders(loader, loader, device=CARD), default_cbs=False, cbs=[TrainEvalCallback(), NoValidation(), LossCurves(), steps, *cbs])
    if experiment.method == 'cyclegan': learn.cycle_gan_step.pool = 2 # full in the second step, so that the third exchanges
    try:
        with learn.no_logging(): learn.fit(1)
    finally:
        if 0 < steps.seen < 3: steps.watch.__exit__(None, None, None)
    return steps.seen


@pytest.mark.parametrize('name', STEPS)
def test_steps_ask_for_nothing(name): assert train(replace(SMOKE, **STEPS[name])) == 3


def test_pictures_that_do_not_fit_ask_for_nothing(): assert train(SMOKE, resident=False) == 3


@pytest.mark.parametrize('question', [lambda x: x.mean().item(), lambda x: x.cpu(), lambda x: 1 if x.any() else 0, lambda x: x[x > 0], lambda x: torch.ones(3).to(x.device),
                                      lambda x: x[torch.zeros(1, dtype=torch.long)]], ids=['item', 'cpu', 'if', 'mask', 'copy', 'index'])
def test_questions_are_noticed(question):
    class Ask(Callback):
        def after_pred(self): question(self.x)
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)): train(SMOKE, [Ask()])
