"""A large file as parts that travel one by one, and back: `python benchmarks/parts.py FOLDER FILE` joins what lies in FOLDER, checks every part and the whole, and writes FILE."""
import hashlib, json, sys
from pathlib import Path

from safetensors import safe_open

from colorization_pix2pix.core.errors import UserError
from colorization_pix2pix.core.storage import write_json
from colorization_pix2pix.core.storage import write_safetensors, write_whole

LARGEST = 15 * 2 ** 20 # bytes of a part
LIST = 'parts.json'


def digest(content: bytes) -> str: return hashlib.sha256(content).hexdigest()


def halved(weights: Path, path: Path):
    "Write a generator's weights in half precision; `load_generator` reads them as it reads the others."
    with safe_open(weights, framework='pt') as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}
        write_safetensors(path, {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, f.metadata())


def split(file: Path, folder: Path, largest: int=LARGEST):
    "Write the file's parts and a list with their checksums into the folder."
    content = file.read_bytes()
    pieces = {f'{file.name}.part{i:02}': content[at:at + largest] for i, at in enumerate(range(0, len(content), largest))}
    folder.mkdir(parents=True, exist_ok=True)
    for name, piece in pieces.items(): write_whole(folder/name, [piece])
    write_json(folder/LIST, dict(format=1, file=file.name, bytes=len(content), sha256=digest(content), parts={name: digest(piece) for name, piece in pieces.items()}))


def join(folder: Path, file: Path):
    "Put the parts together. UserError for a part that is missing or damaged, before anything is written."
    try: about = json.loads((folder/LIST).read_text(encoding='utf-8'))
    except (OSError, ValueError) as e: raise UserError(f'{folder/LIST}, the list of the parts, cannot be read ({e}): fetch it again.') from e
    there = {name: (folder/name).read_bytes() for name in about['parts'] if (folder/name).is_file()}
    if wrong := [name for name, wanted in about['parts'].items() if name not in there or digest(there[name]) != wanted]:
        raise UserError(f"Missing or damaged in {folder}: {', '.join(wrong)}; fetch them again.")
    content = b''.join(there[name] for name in about['parts'])
    if digest(content) != about['sha256']: raise UserError(f'{folder/LIST} does not fit its parts: fetch all of them again.')
    write_whole(file, [content])


def main(args: list[str]) -> int:
    if len(args) != 2: print('parts: name the folder with the parts and the file to write.', file=sys.stderr); return 2
    try: join(Path(args[0]), Path(args[1]))
    except UserError as e: print(f'parts: {e}', file=sys.stderr); return 1
    return 0


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
