"""Trainings in one process and the same in two, on the CPU, for tests/test_distributed.py: `python tests/together.py FOLDER`.

What each process ends with lies in FOLDER afterwards: `<run>-<process>.safetensors` with all networks and the optimizer, and the runs' own results."""
import json, os, shutil, signal, socket, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
import torch
from accelerate import notebook_launcher
from safetensors.torch import save_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
import colorization_pix2pix.experiments.runner as room
from colorization_pix2pix.experiments.config import PRESETS
from colorization_pix2pix.training.distributed import rank

DATA = 'scenes:24'
TINY = replace(PRESETS['smoke'], dropout=0.) # dropout draws other units in each process
EXPERIMENTS = {'instance': replace(TINY, name='instance', norm='instance', average=.9, decay=.5), 'batch': replace(TINY, name='batch'),
               'cycle': replace(TINY, name='cycle', method='cyclegan', generator='resnet9', ngf=4, norm='instance', adversarial='lsgan'),
               'killed': replace(TINY, name='killed', norm='instance', dropout=.5)}


def free_port():
    "A port that nobody listens at."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def noting(folder, fit):
    "After each training, what this process has ended with goes to `folder`."
    def noting_fit(e, learn, *args):
        fit(e, learn, *args)
        moments = {f'{i}.{k}': v for i, state in learn.opt.opt.state_dict()['state'].items() for k, v in state.items()}
        save_file({k: v.clone().contiguous() for k, v in (learn.model.state_dict() | moments).items()}, folder/f'{e.name}-{rank()}.safetensors')
    return noting_fit


def deadly(fit):
    "The second process is killed in its fifth batch."
    class Death(room.Callback):
        def after_pred(self):
            if rank() and self.training and self.epoch == 1 and self.iter == 1: os.kill(os.getpid(), signal.SIGKILL)
    return lambda e, learn, *args: fit(e, learn.add_cb(Death()), *args)


def train(experiments, root, fit, processes):
    "In so many processes; how it ended."
    room._fit = fit
    try: notebook_launcher(room.train_together, (experiments, DATA, root), num_processes=processes, use_port=str(free_port()))
    except ChildFailedError: return 'failed'
    return 'done'


def main(folder):
    places = {name: folder/name for name in ('one', 'two', 'after')}
    for place in places.values(): place.mkdir()
    room.SAVE_EVERY, plain, told = -1, room._fit, {}
    compared = [e for e in EXPERIMENTS.values() if e.name != 'killed']
    told['one'] = train(compared, places['one'], noting(places['one'], plain), 1)
    told['two'] = train([*EXPERIMENTS.values()], places['two'], noting(places['two'], plain), 2)
    start = time.monotonic()
    told['killed'] = train([EXPERIMENTS['killed']], places['after'], deadly(plain), 2)
    told['seconds to the end'] = time.monotonic() - start
    shutil.copytree(places['after'], folder/'alone')
    for name, place, processes in (('goes on in two', places['after'], 2), ('goes on in one', folder/'alone', 1)):
        told[name] = train([EXPERIMENTS['killed']], place, noting(place, plain), processes)
    (folder/'told.json').write_text(json.dumps(told))


if __name__ == '__main__':
    os.environ['COLORIZATION_CACHE'] = tempfile.mkdtemp()
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
