"""Kill a training with SIGKILL at random moments, again and again, and look whether each start goes on and whether the end is the same to the last bit.

    python tests/kills.py          50 kills, written to results/robustness/kills.json (`make test-kills`)

A tiny pix2pix with a running mean and a tiny CycleGAN, on drawn scenes, which save after every batch, so that many kills come while a checkpoint is written.
`tests/test_robustness.py` does the same with three kills."""
import hashlib, json, os, random, signal, sys, tempfile, time
from dataclasses import replace
from pathlib import Path

HANG = 600 # seconds after which a training that should be over is an error


def experiments():
    "What is trained."
    from colorization_pix2pix.experiments.config import PRESETS
    tiny = replace(PRESETS['smoke'], batch=4, epochs=3, report=(1, 3))
    return [replace(tiny, name='killed', average=.9, decay=.5),
            replace(tiny, name='killed CycleGAN', method='cyclegan', generator='resnet9', ngf=4, norm='instance', adversarial='lsgan')]


def train(experiment, root, log):
    "In a child process: train to the end. The epochs and batches that lie behind it when its training begins, 0 and 0 where it starts over, are written to `log`."
    import colorization_pix2pix.experiments.runner as room
    from colorization_pix2pix.experiments.config import gallery
    from colorization_pix2pix.data.sources import load_photos
    def noting(e, learn, record, cbs):
        (part := log.with_name('.log')).write_text(json.dumps([record.get('epochs_done', 0), record.get('batches_done', 0)]))
        part.rename(log) # it may be killed here, too
        return fit(e, learn, record, cbs)
    fit, room._fit, room.SAVE_EVERY = room._fit, noting, -1
    room.run(experiment, load_photos('scenes:24', 64, load_size=72), gallery('scenes'), root)


def start(experiment, root, log):
    "A child process that trains; forked, because importing fastai would take most of the time."
    child = os.fork()
    if child: return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        train(experiment, root, log)
        code = 0
    finally: os._exit(code)


def wait(child, seconds):
    "The child's exit status if it ends within so many seconds, else None."
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid: return status
        if time.monotonic() >= end: return None
        time.sleep(.002)


def next_save(child, root):
    "Wait until a checkpoint is being written, or the child has ended; its exit status in that case."
    while True:
        if any(name.endswith('.part') for _, _, names in os.walk(root) for name in names): return None
        if (status := wait(child, 0)) is not None: return status


def place(folder):
    "[epochs, batches] of the newest whole checkpoint, read from its header alone; 'done' for a training that is over, [0, 0] if there is nothing to go on from."
    from colorization_pix2pix.training.resume import _header, earlier
    if (folder/'done').exists(): return 'done'
    path = folder/'checkpoint.safetensors'
    for file in (path, earlier(path)):
        if file.exists():
            record = json.loads(_header(file.read_bytes())['record'])
            return [record['epochs_done'], record['batches_done']]
    return [0, 0]


def outcome(root, experiment):
    "All that was measured, without time, and a hash of the weights."
    from safetensors.torch import load_file
    name = next((root/'runs'/experiment.preset).iterdir()).name
    found = json.loads((root/'results'/experiment.preset/f'{name}.json').read_text())
    weights = load_file(root/'runs'/experiment.preset/name/'weights.safetensors')
    digest = hashlib.sha256(b''.join(k.encode() + weights[k].numpy().tobytes() for k in sorted(weights))).hexdigest()
    return {k: found[k] for k in ('epochs', 'curves', 'per_picture', 'realism', 'monitor', 'floors', 'trouble') if k in found} | {'weights': digest}


def unbroken(experiment, root):
    "Seconds and outcome of a training that nobody disturbs."
    begin = time.monotonic()
    child = start(experiment, root, root/'log')
    status = wait(child, HANG)
    assert status == 0, f'the unbroken training ended with {status}'
    return time.monotonic() - begin, outcome(root, experiment)


def kill_all_along(experiment, root, seconds, chance, kills):
    "Start it, kill it at a random moment, or at the first save after one, start it again, until it is done or `kills` are used up. Tells of each kill."
    log, told = root/'log', []
    folder = lambda: next((root/'runs'/experiment.preset).iterdir(), root) if (root/'runs'/experiment.preset).exists() else root
    while True:
        expected = place(folder())
        log.unlink(missing_ok=True)
        child = start(experiment, root, log)
        status = wait(child, HANG if len(told) == kills else chance.uniform(0, seconds))
        if status is None and chance.random() < .5: status = next_save(child, root)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        began = json.loads(log.read_text()) if log.exists() else 'done' if status == 0 else None # none where it was killed before its training began
        if told: told[-1] |= dict(went_on=None if began is None else began == expected)
        if status is not None: break
        assert len(told) < kills, 'a training that nobody killed takes too long'
        told.append(dict(after=place(folder()), while_saving=bool(list(root.rglob('.*.part')) or (list(root.rglob('*-before*')) and not list(root.rglob('checkpoint.safetensors'))))))
    assert status == 0, f'a start after a kill ended with {status}'
    return told


def main(kills=50, seed=0):
    "All kills, and what became of them."
    chance, begin, told, same, runs = random.Random(seed), time.monotonic(), [], 0, 0
    plain = {}
    while len(told) < kills:
        e = experiments()[runs % 2]
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            if e not in plain: plain[e] = unbroken(e, Path(one))
            told += kill_all_along(e, Path(two), plain[e][0], chance, min(12, kills - len(told)))
            same += outcome(Path(two), e) == plain[e][1]
            runs += 1
    return dict(kills=len(told), before_the_first_checkpoint=sum(t['after'] == [0, 0] for t in told), while_saving=sum(t['while_saving'] for t in told),
                went_on_where_it_was=sum(t['went_on'] is True and t['after'] != [0, 0] for t in told), began_where_nothing_was=sum(t['went_on'] is True and t['after'] == [0, 0] for t in told),
                killed_again_before_it_began=sum(t['went_on'] is None for t in told), started_over=sum(t['went_on'] is False for t in told),
                trainings=runs, trainings_with_the_same_bits=same, seconds=round(time.monotonic() - begin))


if __name__ == '__main__':
    os.environ['COLORIZATION_CACHE'] = tempfile.mkdtemp()
    from colorization_pix2pix.experiments.config import best_device, commit, machine
    from colorization_pix2pix.core.storage import write_json
    found = dict(format=2, **main(int(sys.argv[1]) if len(sys.argv) > 1 else 50), machine=machine(best_device()), commit=commit())
    print(json.dumps(found, indent=1))
    if found['kills'] >= 50: write_json(Path(__file__).parents[1]/'results'/'robustness'/'kills.json', found)
    sys.exit(found['started_over'] or found['trainings'] != found['trainings_with_the_same_bits'])
