"""The training step: how fast, what it costs, what one change brings, where its time goes."""
import os, statistics, subprocess, sys, tempfile, time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from fastai.callback.core import TrainEvalCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from colorization_pix2pix.core.device import amp_dtype
from colorization_pix2pix.data.photos import Photos
from colorization_pix2pix.experiments.config import PRESETS, Experiment, build, gallery, learner
from colorization_pix2pix.experiments.release import COLORIZER
from colorization_pix2pix.experiments.runner import train
from colorization_pix2pix.data.scenes import draw_scenes
from colorization_pix2pix.data.sources import load_photos
from colorization_pix2pix.experiments.speed import FirstBatches, Noise, OneByOne, images_per_second, peak_memory, short_learner
from colorization_pix2pix.training.optimization import ADAM
from colorization_pix2pix.training.callbacks import NoValidation
from bench_timing import DEVICE, pace, rate, turns
from gpu_speed import profile


def factors(n: int) -> tuple[Tensor, Tensor]:
    "Two matrices of n x n in the format in which a training on this device multiplies."
    return tuple(torch.rand(n, n, device=DEVICE).to(amp_dtype(DEVICE)) for _ in range(2))


def peak(rounds: int) -> dict:
    "What the device multiplies at best, with which the training is compared."
    a, b = factors(n := 4096 if DEVICE.type == 'cuda' else 2048)
    return turns({f"product of two {n}x{n} matrices of {str(a.dtype).removeprefix('torch.')}": rate(lambda: [a @ b for _ in range(8)], 8 * 2 * n ** 3 / 1e9)}, rounds)


def flop(e: Experiment) -> float:
    "GFLOP of a training step for each picture, counted."
    batches = Noise(replace(e, batch=2), 1)
    learn = learner(replace(e, batch=2), DataLoaders(batches, batches, device=DEVICE), default_cbs=False, cbs=[TrainEvalCallback(), NoValidation()])
    with FlopCounterMode(display=False) as counter, learn.no_logging(): learn.fit(1)
    return counter.get_total_flops() / 2 / 1e9


def arms() -> dict[int, list[Experiment]]:
    "What is trained, by picture size. On a processor the pictures of 256x256 come in batches of 4."
    few = dict(batch=4) if DEVICE.type == 'cpu' else {}
    quick, small, full = PRESETS['quick'], PRESETS['small'], replace(PRESETS['full'], **few)
    dynamic = lambda e, name: replace(e, name=name, generator='dynamic')
    return {64: [replace(quick, name='quick: 64x64, ngf 32, batch 16'), replace(small, name='small: 64x64, ngf 32, batch 32'),
                 replace(small, name='small, L1 alone', adversarial_weight=0.), dynamic(small, 'small, dynamic U-Net'), dynamic(quick, 'quick, dynamic U-Net')],
            128: [replace(FIRST, name='colorizer: 128x128, ngf 32, batch 16')],
            256: [replace(full, name=f'full: 256x256, ngf 64, batch {full.batch}'), dynamic(full, 'full, dynamic U-Net')]}


def scenes(size: int) -> Photos: return load_photos('scenes:128', size, size * 9 // 8)


def training(rounds: int) -> dict:
    "Pictures a second, loader included."
    found = {}
    for size, experiments in arms().items(): found |= images_per_second(experiments, scenes(size), rounds, steps=2 if size == 64 else 1)
    return found


EPOCH = {64: 600, 128: 320, 256: 32} # pictures of an epoch that is timed whole; for the dynamic U-Net an eighth, at 256x256 a quarter


def epoch(e: Experiment, photos: Photos) -> dict:
    "Pictures a second of a run's only epoch, from its first line to its saved checkpoint, and which part of that time its steps take."
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        _, record = train(replace(e, epochs=1, report=(1,)), photos, gallery(photos.source), Path(folder), tqdm(disable=True))
        took = time.perf_counter() - start
    return dict(rate=len(photos.train) / took, steps=record['seconds'] / took)


def epochs(rounds: int) -> dict:
    "Whole epochs of each arm in turns: pictures trained on and measured, pictures a second, share of the steps."
    found = {}
    for size, experiments in arms().items():
        for e in experiments:
            wanted = EPOCH[size] // (1 if e.generator != 'dynamic' else 8 if size == 64 else 4)
            photos = load_photos(f'scenes:{wanted}', size, size * 9 // 8)
            found[e.name] = dict(train=len(photos.train), valid=len(photos.valid), seen=[], of=(e, photos))
    for _ in range(rounds):
        for row in found.values(): row['seen'].append(epoch(*row['of']))
    return {name: dict(train=row['train'], valid=row['valid'], rate=[r['rate'] for r in row['seen']], steps=statistics.median(r['steps'] for r in row['seen'])) for name, row in found.items()}


def costs() -> dict:
    "GFLOP a picture and step, and megabytes that a training adds at its peak."
    return {e.name: dict(gflop=round(flop(e), 2), megabytes=peak_memory(e)) for experiments in arms().values() for e in experiments}


def profiles() -> dict:
    "Which operations take the time of a step, for every row of `training`."
    row = dict(precision='float32' if DEVICE.type == 'cpu' else 'half', mode='eager')
    return {e.name: profile(scenes(size), row | dict(generator=e.generator, batch=e.batch), e, top=8) for size, experiments in arms().items() for e in experiments}


# The colorizer

FIRST = replace(COLORIZER, generator='unet+classes', arch='resnet18', pretrained=False, ngf=32, ndf=32, l1_weight=100., losses={k: w for k, w in COLORIZER.losses if k != 'ciede2000'}, old_prints=0., lr=2e-4, sample_fraction=.25)


def at_128(e: Experiment) -> Experiment: return replace(e, pretrained=False, size=128, load_size=160)


def measuring(learn: Learner):
    "Let the encoder's normalization measure each batch, as it does in a network that is trained from the start."
    net = learn.model.generator
    net.train = lambda mode=True: nn.Module.train(net, mode)


def thawed(learn: Learner):
    "Train the encoder from its first layer on."
    learn.model.generator.frozen = 0
    learn.model.generator.requires_grad_()


def encoder(rounds: int) -> dict:
    "Pictures a second at 128x128, loader, old prints, hints and running mean included: the first colorizer, the one around a pretrained encoder, and that one with one of its savings taken back."
    ours = lambda e=COLORIZER: short_learner(at_128(e), scenes(128), 4)
    learners = {'first colorizer: pix2pix U-Net, ngf 32': ours(FIRST), 'colorizer: pretrained encoder': ours(), 'and not in channels-last': ours(), 'and no level of the encoder frozen': ours(), 'and normalization measured in each batch': ours()}
    learners['and not in channels-last'].model.to(memory_format=torch.contiguous_format)
    thawed(learners['and no level of the encoder frozen'])
    measuring(learners['and normalization measured in each batch'])
    return turns({name: pace(learn) for name, learn in learners.items()}, rounds)


# The allocator

def whole_pace(name: str) -> float:
    "Pictures a second in this process, after a round that is not counted: of `small`, or of the colorizer at 128x128."
    e = PRESETS['small'] if name == 'small' else at_128(COLORIZER)
    job = pace(short_learner(e, scenes(e.size), 4))
    return statistics.median([job() for _ in range(6)][1:])


def child(name: str, tunables: str) -> Callable[[], float]:
    "`whole_pace` in a process of its own, because glibc reads its settings when a process starts; '': none."
    env = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'} | ({'GLIBC_TUNABLES': tunables} if tunables else {})
    command = [sys.executable, '-W', 'ignore', '-c', f'from bench_steps import whole_pace; print(whole_pace({name!r}))']
    return lambda: float(subprocess.run(command, cwd=Path(__file__).parent, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def allocator(rounds: int) -> dict:
    "Pictures a second with glibc's allocator as it comes and as the Makefile sets it for a training; empty where ALLOCATOR, which `make bench` gives, is not set."
    if not (tunables := os.environ.get('ALLOCATOR')): return {}
    return {name: turns({'as it comes': child(name, ''), 'as `make reproduce` and `make weights` set it': child(name, tunables)}, rounds) for name in ('small', 'colorizer')}


# One thing changed

class SubPixel(nn.Module):
    "What a 4x4 deconvolution of stride 2 and padding 1 gives, exactly: one 2x2 convolution to four times its channels, whose answers are put beside each other."
    def __init__(self, layer: nn.ConvTranspose2d):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        w, (n, m) = self.layer.weight, self.layer.weight.shape[:2]
        w = w.view(n, m, 2, 2, 2, 2).flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(4 * m, n, 2, 2)
        bias = None if self.layer.bias is None else self.layer.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, w, bias, padding=1), 2)[..., 1:-1, 1:-1]


def sub_pixel(learn: Learner):
    "Exchange the generator's last deconvolution, which has two output channels."
    net = learn.model.generator
    name, layer = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.ConvTranspose2d) and m.out_channels == 2)
    net.set_submodule(name, SubPixel(layer))


def unfused(learn: Learner): learn.opt_func = partial(ADAM, fused=False)


class Plain:
    "pix2pix's networks and losses in a step as tutorials write it: a loop without fastai, two optimizers of torch as they come, the losses read after each step."
    def __init__(self, e: Experiment, batches: Iterable, steps: int, again: bool=False): # `again`: fakes are made anew for the generator's half
        self.e, self.batches, self.again = e, FirstBatches(batches, steps, e.batch), again
        self.generator, self.discriminator = (net.to(DEVICE).train() for net in build(e))
        self.g, self.d = (torch.optim.Adam(net.parameters(), lr=e.lr, betas=(.5, .999)) for net in (self.generator, self.discriminator))

    def adversarial_loss(self, x: Tensor, y: Tensor, target: float) -> Tensor:
        logits = self.discriminator(x, y)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def step(self, x: Tensor, y: Tensor) -> tuple[float, float]: # losses of discriminator and generator
        fake = self.generator(x)
        self.discriminator.requires_grad_(True)
        self.d.zero_grad()
        (d_loss := (self.adversarial_loss(x, fake.detach(), 0.) + self.adversarial_loss(x, y, 1.)) / 2).backward()
        self.d.step()
        self.discriminator.requires_grad_(False)
        if self.again: fake = self.generator(x)
        self.g.zero_grad()
        (g_loss := self.adversarial_loss(x, fake, 1.) + self.e.l1_weight * F.l1_loss(fake, y)).backward()
        self.g.step()
        return d_loss.item(), g_loss.item()

    def epoch(self) -> int: # pictures
        for batch in self.batches: self.step(*batch)
        return len(self.batches) * self.batches.bs


def as_files(folder: Path, n: int, side: int=256) -> list[Path]:
    "So many drawn scenes as JPEGs."
    for i, scene in enumerate(draw_scenes(n, side)): Image.fromarray(scene).save(folder/f'{i:03}.jpg', quality=90)
    return sorted(folder.iterdir())


def variants(e: Experiment, steps: int, files: list[Path]) -> dict:
    "Jobs for `turns`: our step, the same with one thing changed, and the tutorials'."
    one_by_one = DataLoader(OneByOne(files, e.size), e.batch, shuffle=True, drop_last=True)
    ours = lambda changed=e, loader=None: short_learner(changed, scenes(e.size), steps, loader=loader)
    learners = {'as it is': ours(), 'Adam not fused': ours(), 'last deconvolution as sub-pixel convolution': ours(), 'pictures one by one with scikit-image': ours(loader=one_by_one)}
    unfused(learners['Adam not fused'])
    sub_pixel(learners['last deconvolution as sub-pixel convolution'])
    if e.size == 64: learners['ndf 64 in the place of 32'] = ours(replace(e, ndf=64))
    plain = {'as tutorials write it': Plain(e, one_by_one, steps), 'as tutorials write it, fakes made twice': Plain(e, one_by_one, steps, again=True)}
    return {name: pace(learn) for name, learn in learners.items()} | {name: rate(p.epoch) for name, p in plain.items()}


def wins(rounds: int, folder: Path) -> dict:
    "Pictures a second with one thing changed in the training step."
    files = as_files(folder, 128)
    return {e.name: turns(variants(e, steps, files), rounds) for e, steps in ((arms()[64][1], 3), (arms()[256][0], 1))}
