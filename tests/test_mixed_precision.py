"""The graphics card's code path, run on the CPU: autocast and loss scalers for 'cpu' in the place of those for 'cuda'.

It shows that the step is right in bf16 and fp16, that an interrupted fit leaves no autocast behind, and that a checkpoint brings the scalers back.
It says nothing about speed, nor about CUDA's own kernels."""
import fastai.callback.fp16 as fp16
import random
import pytest, torch, torch.nn.functional as F
from fastai.callback.core import Callback, CancelValidException, TrainEvalCallback
from fastai.data.core import DataLoaders
from colorization_pix2pix.training import optimization, resume as checkpoints
from colorization_pix2pix.training.gan import pix2pix_learner
from colorization_pix2pix.models.color_bins import ClassLoss, grid_points
from colorization_pix2pix.models.patchgan import PatchGAN
from colorization_pix2pix.models.unet import unet_generator
from colorization_pix2pix.training.losses import AdversarialLoss
from colorization_pix2pix.models.io import build_generator

Autocast, Scaler = torch.amp.autocast, torch.amp.GradScaler
DTYPES = {fp16.AMPMode.BF16: torch.bfloat16, fp16.AMPMode.FP16: torch.float16}


class Batches(list):
    "A list of batches in the place of a loader."
    device, rng = torch.device('cpu'), random.Random(0)
    def to(self, device): pass


class NoValidation(Callback):
    def before_validate(self): raise CancelValidException()


@pytest.fixture(params=DTYPES, ids=lambda mode: mode.value)
def mode(request, monkeypatch):
    "Mixed precision as on a card, but for the CPU."
    monkeypatch.setattr(fp16, 'autocast', lambda device, dtype: Autocast('cpu', dtype=dtype))
    monkeypatch.setattr(fp16, 'GradScaler', lambda device, **kwargs: Scaler('cpu', **kwargs))
    monkeypatch.setattr(optimization, 'precision', lambda device: [fp16.MixedPrecision(request.param)])
    return request.param


@pytest.fixture
def batches():
    torch.manual_seed(0)
    return Batches((torch.rand(4, 1, 64, 64) * 2 - 1, torch.rand(4, 2, 64, 64) * 2 - 1) for _ in range(4))


def networks(seed=1):
    torch.manual_seed(seed)
    return unet_generator(size=64, ngf=8, dropout=0.), PatchGAN(ndf=8)


def learner(batches, adversarial='bce', seed=1, **kwargs):
    dls = DataLoaders(batches, Batches())
    return pix2pix_learner(dls, *networks(seed), adversarial=adversarial, default_cbs=False, cbs=[TrainEvalCallback(), NoValidation()], **kwargs)


def by_hand(batches, dtype, adversarial):
    "pix2pix with autocast and a scaler for each network, as PyTorch's own documentation writes it."
    g, d = networks()
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), 2e-4, (.5, .999), fused=True) for net in (g, d))
    scale_g, scale_d = (Scaler('cpu', enabled=dtype == torch.float16) for _ in range(2))
    for x, y in batches:
        with Autocast('cpu', dtype=dtype): fake = g(x)
        for opt, scaler, loss in ((opt_d, scale_d, lambda: adversarial.discriminator(d(x, y), d(x, fake.detach()))),
                                  (opt_g, scale_g, lambda: adversarial.generator(d(x, fake.float())) + 100 * F.l1_loss(fake.float(), y))):
            opt.zero_grad()
            with Autocast('cpu', dtype=dtype): value = loss()
            scaler.scale(value).backward()
            scaler.step(opt)
            scaler.update()
    return g, d


@pytest.mark.parametrize('adversarial', ['bce', 'lsgan'])
def test_step_equals_a_loop_by_hand(mode, batches, adversarial):
    learn = learner(batches, adversarial)
    learn.fit(1)
    g, d = by_hand(batches, DTYPES[mode], AdversarialLoss(adversarial))
    for ours, theirs in ((learn.model.generator, g), (learn.model.discriminator, d)):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))


def test_interrupted_fit_leaves_no_autocast(mode, batches):
    class Stop(Callback):
        def after_pred(self): raise KeyboardInterrupt
    learn = learner(batches)
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Stop())
    assert torch.is_autocast_enabled('cpu'), 'fastai leaves mixed precision by itself now: leave_autocast can go'
    optimization.leave_autocast(learn)
    assert not torch.is_autocast_enabled('cpu') and (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_checkpoint_brings_the_scalers_back(mode, batches, tmp_path):
    "Two epochs in one go, and the same two with a checkpoint between: equal scales, equal weights."
    whole, first = learner(batches), learner(batches)
    scales = []
    class NoteScales(Callback):
        order = 60
        def after_train(self): scales.append([s.get_scale() for s in self.learn.pix2_pix_step.scalers()])
    for learn in (whole, first): learn.add_cb(NoteScales())
    class Lower(Callback):
        "Another scale than the one every run begins with."
        order = 20
        def before_train(self):
            for scaler in self.learn.pix2_pix_step.scalers():
                if self.epoch == 0: scaler.load_state_dict(scaler.state_dict() | {'scale': 64.})
    whole.fit(2, cbs=Lower())
    class Save(Callback):
        def after_epoch(self): checkpoints.save_checkpoint(tmp_path/'checkpoint', self.learn, {})
    first.fit(1, cbs=[Lower(), Save()])
    second = learner(batches, seed=5)
    second.add_cb(NoteScales())
    checkpoints.load_checkpoint(tmp_path/'checkpoint', second)
    second.fit(2, start_epoch=1)
    assert scales[-1] == scales[1] and (mode == fp16.AMPMode.BF16 or scales[-1] == [64., 64.])
    assert all(torch.equal(a, b) for a, b in zip(second.model.state_dict().values(), whole.model.state_dict().values()))


def test_gradients_lie_as_their_parameters(batches):
    "Fused Adam on a card refuses other strides (pytorch/pytorch#106951), also those of a side of 1; the 1x1 convolution over classes has such ones in channels-last."
    net = build_generator('unet+classes', 1, 2, 64, ngf=8).to(memory_format=torch.channels_last)
    before, after = [], [] # of both halves of the step
    class Look(Callback):
        order = -50
        def after_backward(self): before.extend(self._odd())
        def _odd(self): return [n for n, p in self.model.named_parameters() if p.grad is not None and p.grad.stride() != p.stride()]
    class LookAgain(Look):
        order = 50
        def after_backward(self): pass
        def before_step(self): after.extend(self._odd())
    learn = pix2pix_learner(DataLoaders(batches, Batches()), net, PatchGAN(ndf=8).to(memory_format=torch.channels_last), class_loss=ClassLoss(net, torch.ones(len(grid_points()))),
                            class_weight=1., default_cbs=False, cbs=[TrainEvalCallback(), NoValidation(), Look(), LookAgain()])
    learn.fit(1)
    assert before, 'torch lays them out by itself now: lay_out_gradients can go'
    assert not after
