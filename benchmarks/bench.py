"""How fast each part is on this machine: `make bench`.

What is compared is measured in turns, so that a busy minute hits all of it; one round that is not counted comes first. The pictures are drawn here, so anybody can repeat it.
Writes benchmarks/<device>.json, and benchmarks/README.md from all such files."""
import argparse, json, re, sys, tempfile
from collections.abc import Callable
from pathlib import Path

from colorization_pix2pix.experiments.config import commit, machine
from colorization_pix2pix.core.storage import write_json
from bench_data import color, commands, data, stages, start
from bench_page import HOME, readme
from bench_steps import allocator, costs, encoder, epochs, peak, profiles, training, wins
from bench_timing import DEVICE


def in_folder(part: Callable[[int, Path], dict]) -> Callable[[int], dict]:
    "The same in a folder of its own, which is gone afterwards."
    def job(rounds):
        with tempfile.TemporaryDirectory() as folder: return part(rounds, Path(folder))
    return job


def once(part: Callable[[], dict]) -> Callable[[int], dict]: return lambda rounds: part()


PARTS = dict(peak=peak, training=training, epochs=epochs, costs=once(costs), encoder=encoder, allocator=allocator, wins=in_folder(wins), profiles=once(profiles), colour=color,
             data=in_folder(data), stages=in_folder(stages), start=in_folder(start), commands=in_folder(lambda rounds, folder: commands(folder)))
ONCE = ('costs', 'profiles', 'commands')


def measure(rounds: int, parts: list[str], home: Path=HOME):
    "These parts, into this device's file, which is written after each; the other parts in it stay as they are."
    about = machine(DEVICE)
    path = home/f"{re.sub(r'[^a-z0-9]+', '-', about['device'].lower()).strip('-')}.json"
    found = json.loads(path.read_text(encoding='utf-8')) if path.exists() else dict(format=1, commits={}, rounds={})
    for part in parts:
        found |= {part: PARTS[part](rounds), 'machine': about}
        found['commits'][part] = commit()
        if part not in ONCE: found['rounds'][part] = rounds
        write_json(path, found)


def main(args: list[str] | None=None) -> int:
    parser = argparse.ArgumentParser('bench', description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--page', action='store_true', help='measure nothing: only write README.md anew')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='measure only these anew (default: all)')
    asked = parser.parse_args(args)
    if not asked.page: measure(asked.rounds, asked.parts)
    (HOME/'README.md').write_text(readme(), encoding='utf-8')
    return 0


if __name__ == '__main__': sys.exit(main())
