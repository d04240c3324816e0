"""Change one thing at a time in the rooms that all numbers rest on, and look whether a test notices it.

    python tests/mutants.py          250 changes, written to results/robustness/mutants.json (`make test-mutants`)
    python tests/mutants.py again        only those that lived when it was written, with new assertions

A mutant is a room with one number a little larger, one operator, comparison or condition turned round, one keyword, call or function exchanged or left out. Each is run through its
own notebook's test cells and, if it lives, through the pytest files that concern the room. Who lives shows a missing assertion, or is no different: then `EQUIVALENT` says why.

Why not a tool: mutmut 3.8 leaves everything outside of functions as it is, and in these rooms half of the numbers stand there; cosmic-ray 8.7 changes numbers by one only, and
starts each mutant in a process that first imports torch. Here everything is imported once, and each mutant is a fork."""
import ast, copy, json, os, random, resource, sys, time, types
from pathlib import Path

ROOT, PACKAGE = Path(__file__).resolve().parents[1], 'colorization_pix2pix'
ROOMS = {'core.color': ('course/01_color_spaces', ['tests/test_properties.py', '-k', 'color_space or scikit or neighbours or lightness or fitting']),
         'data.decode': ('reference/data/decode', ['tests/test_properties.py', 'tests/test_pictures.py', '-k', 'test_pictures or lossless or sixteen or floats or written or paper or words or source']),
         'metrics.image': ('course/08_metrics', ['tests/test_measures.py']), 'metrics.distribution': ('reference/metrics/distribution', ['tests/test_measures.py'])} # room: its notebook, and what pytest is asked for
BEFORE = {'colorspace': 'core.color', 'pixels': 'data.decode', 'metrics': 'metrics.image', 'realism': 'metrics.distribution'} # what the record of an older run calls them
PATIENCE = 200 # seconds of the processor's time after which a mutant counts as noticed: it never ends
SEED, MOST = 0, 250
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
             ast.And: ast.Or, ast.Or: ast.And}
COMPARISONS = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
               ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,)}
FUNCTIONS = {a: b for pair in ('min max', 'amin amax', 'minimum maximum', 'sin cos', 'mean sum', 'any all') for a, b in (pair.split(), pair.split()[::-1])}
EQUIVALENT = { # (room, change): why nobody can tell
    ('metrics.distribution', "alike = seen['ab_spread_ratio'] < ALIKE or seen['hue_concentration'] > ONE_HUE > hue_concentration(each, '_truth')  ->  alike = seen['ab_spread_ratio'] < ALIKE or seen['hue_concentration'] > ONE_HUE >= hue_concentration(each, '_truth')"):
        'two floating-point numbers of pictures are never equal to ONE_HUE',
    ('data.decode', "if im.mode[0] in 'IF':  ->  if im.mode[0] in 'IFx':"):
        'no mode of Pillow begins with x',
    ('core.color', '_SLACK = 1e-05  ->  _SLACK = 1.0100000000000002e-05'):
        "any number a little above float32's rounding does: no 8-bit level depends on its third digit",
    ('data.decode', "xmp = im.info.get('xmp') or getattr(im, 'tag_v2', {}).get(700) or b''  ->  xmp = im.info.get('xmp') or getattr(im, 'tag_v2', {}).get(701) or b''"):
        "this version of Pillow puts a TIFF's tag 700 into info by itself; the second way is for older ones",
    ('data.decode', '_SAMPLE = Image.fromarray(np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3), -1).reshape(64, 64, 3))  ->  _SAMPLE = Image.fromarray(np.stack(np.meshgrid(*[np.arange(0, 257, 17, dtype=np.uint8)] * 3), -1).reshape(64, 64, 3))'):
        'the last step is 255 either way',
    ('data.decode', "return _converted(im, icc) if icc and (not (plain and _is_srgb(icc))) else plain or im.convert('RGB')  ->  return _converted(im, icc) if icc or not (plain and _is_srgb(icc)) else plain or im.convert('RGB')"):
        'without a profile the conversion fails and the picture is taken as it is, and through an sRGB profile it stays as it is; what is lost is time',
    ('core.color', 'f = torch.where(xyz > EPSILON, xyz.clamp(min=EPSILON) ** (1 / 3), KAPPA * xyz + 16 / 116)  ->  f = torch.where(xyz >= EPSILON, xyz.clamp(min=EPSILON) ** (1 / 3), KAPPA * xyz + 16 / 116)'):
        'at the seam both branches give the same to seven digits',
    ('data.decode', "bits = 32 if im.mode == 'F' else tags.get(258, (16 if ';' in im.mode else 32,))[0]  ->  bits = 33 if im.mode == 'F' else tags.get(258, (16 if ';' in im.mode else 32,))[0]"):
        'from 17 bits up the number is not used',
    ('data.decode', "plain = im if im.mode == 'RGB' else None  ->  plain = im if im.mode == 'RGBx' else None"):
        'a copy in the place of the picture itself, and the way through an sRGB profile, which changes nothing; what is lost is time',
    ('metrics.image', 'mean = torch.where(wraps, (total / 2 + math.pi) % (2 * math.pi), total / 2)  ->  mean = torch.where(wraps, (total / 2 + math.pi) % (3 * math.pi), total / 2)'):
        'the mean hue is only used in cosines, and in one Gaussian around 275 degrees that is below .0001 for what differs',
}


def larger(value):
    "A number that is a little larger."
    return value + 1 if isinstance(value, int) else value*1.01 if value else .01


def changes(node):
    "What can be changed in this node itself: a list of (attribute, new value)."
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool): return [('value', not node.value)]
        return [('value', larger(node.value))] if isinstance(node.value, (int, float)) else [('value', node.value + 'x')] if isinstance(node.value, str) else []
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)): return [('op', OPERATORS[type(node.op)]())] if type(node.op) in OPERATORS else []
    if isinstance(node, ast.Compare): return [('ops', [*node.ops[:i], new(), *node.ops[i + 1:]]) for i, op in enumerate(node.ops) for new in COMPARISONS[type(op)]]
    if isinstance(node, ast.UnaryOp): return [('op', ast.UAdd())] if isinstance(node.op, ast.USub) else []
    if isinstance(node, (ast.If, ast.IfExp, ast.While)): return [('test', ast.UnaryOp(ast.Not(), node.test))]
    if isinstance(node, ast.comprehension): return [('ifs', [])] if node.ifs else []
    if isinstance(node, ast.Call): return [('keywords', node.keywords[:i] + node.keywords[i + 1:]) for i, k in enumerate(node.keywords) if k.arg]
    if isinstance(node, ast.Attribute): return [('attr', FUNCTIONS[node.attr])] if node.attr in FUNCTIONS else []
    if isinstance(node, ast.Name): return [('id', FUNCTIONS[node.id])] if node.id in FUNCTIONS else []
    if isinstance(node, ast.Expr): return [('value', ast.Constant(None))] if isinstance(node.value, ast.Call) else []
    return []


def worth_changing(node):
    "This node and those in it; not what only people read (annotations, docstrings, messages) and not what nbdev writes."
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)): return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant): return
    if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__': return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ('annotation', 'returns', 'decorator_list'): continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST): yield from worth_changing(child)


def source_of(room): return (ROOT/PACKAGE/room.replace('.', '/')).with_suffix('.py')


def mutants(room):
    "All of a room: (room, line, what the code was and has become, the source of the module)."
    tree = ast.parse(source_of(room).read_text(encoding='utf-8'))
    for i, node in enumerate(worth_changing(tree)):
        for name, new in changes(node):
            other = copy.deepcopy(tree)
            twin = next(n for j, n in enumerate(worth_changing(other)) if j == i)
            before = ast.unparse(statement(other, twin))
            setattr(twin, name, new)
            line = getattr(node, 'lineno', None) or node.target.lineno
            yield room, line, difference(before, ast.unparse(ast.fix_missing_locations(statement(other, twin)))), ast.unparse(ast.fix_missing_locations(other))


def statement(tree, node):
    "The smallest statement that `node` is a part of, without the statements in it."
    holds = [s for s in ast.walk(tree) if isinstance(s, ast.stmt) and any(n is node for n in ast.walk(s))]
    return min(holds, key=lambda s: len(list(ast.walk(s))))


def difference(before, after):
    "'a + b -> a - b': the first line that differs, or what is left of it."
    pairs = zip(before.splitlines(), [*after.splitlines(), *['nothing']*99])
    return next(f'{a.strip()}  ->  {b.strip()}' for a, b in pairs if a != b)


def cells(notebook):
    "Code of the cells that test; not the exported ones, and not the second cell, which installs on Colab."
    import nbformat
    from IPython.core.inputtransformer2 import TransformerManager
    found = [c.source for i, c in enumerate(nbformat.read(ROOT/'nbs'/f'{notebook}.ipynb', 4).cells) if c.cell_type == 'code' and i > 1]
    return [compile(TransformerManager().transform_cell(c), notebook, 'exec') for c in found if '#| export' not in c and '#| default_exp' not in c]


def live(room, source, notebook, asked, told):
    "In a fork: install the mutant as the room, run its notebook, then pytest. Raises if a test notices."
    name = f'{PACKAGE}.{room}'
    module = sys.modules[name] = types.ModuleType(name)
    module.__package__, module.__file__ = name.rpartition('.')[0], str(source_of(room))
    exec(compile(source, module.__file__, 'exec'), vars(module))
    setattr(sys.modules[module.__package__], room.rpartition('.')[2], module)
    os.chdir(ROOT/'nbs'/'course')
    names = dict(vars(module), __name__='__main__')
    for cell in notebook: exec(cell, names)
    os.write(told, b'n') # nothing in the notebook noticed it
    os.chdir(ROOT)
    import pytest
    return asked and pytest.main(['-q', '-x', '-p', 'no:cacheprovider', *asked])


def fate(room, source, notebook, asked):
    "'notebook' or 'pytest', which noticed the mutant, or 'lives'."
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            for stream in (1, 2): os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
            code = bool(live(room, source, notebook, asked, write))
        finally: os._exit(code)
    os.close(write)
    _, status = os.waitpid(child, 0)
    passed = os.read(read, 1)
    os.close(read)
    return 'lives' if status == 0 else 'pytest' if passed else 'notebook'


def lives_as_it_is(tests):
    "A test that always fails would notice everything: sys.exit."
    for room in tests:
        if (found := fate(room, source_of(room).read_text(encoding='utf-8'), *tests[room])) != 'lives': sys.exit(f'{room} as it is fails in its {found}')


def main(before=None):
    "The fate of 250 mutants drawn from all; given the record of them, of those that lived, because assertions are only ever added."
    every = [m for room in ROOMS for m in mutants(room)]
    drawn = random.Random(SEED).sample(every, min(MOST, len(every)))
    found = before or dict(format=1, of=len(every), seed=SEED, mutants=len(drawn), rooms={r: sum(m[0] == r for m in drawn) for r in ROOMS}, notebook=0, pytest=0, survivors=None)
    if (found['of'], found['mutants']) != (len(every), len(drawn)): sys.exit('The rooms are others than in the record: try all mutants.')
    tests = {room: (cells(notebook), asked) for room, (notebook, asked) in ROOMS.items()}
    lives_as_it_is(tests)
    tried = [m for m in drawn if not before or dict(room=m[0], line=m[1], change=m[2]) in [dict(room=BEFORE.get(s['room'], s['room']), line=s['line'], change=s['change']) for s in before['survivors']]]
    found['survivors'] = []
    for i, (room, line, change, source) in enumerate(tried, 1):
        if (what := fate(room, source, *tests[room])) != 'lives': found[what] += 1
        else:
            found['survivors'].append(dict(room=room, line=line, change=change, why=EQUIVALENT.get((room, change), '')))
            print(f'{i} of {len(tried)}: {room}.py:{line}: {change}', flush=True)
    return found


if __name__ == '__main__':
    os.environ |= dict(OMP_NUM_THREADS='1', MPLBACKEND='agg')
    sys.path.insert(0, str(ROOT))
    import colorization_pix2pix, fastai.callback.core, fastcore.test, hypothesis, matplotlib.pyplot, nbformat, PIL.Image, pytest, skimage.color, skimage.data, skimage.metrics, sklearn.datasets, torch # once, for all forks
    torch.set_num_threads(1)
    record, begin = ROOT/'results'/'robustness'/'mutants.json', time.monotonic()
    found = main(json.loads(record.read_text()) if sys.argv[1:] == ['again'] else None)
    from colorization_pix2pix.experiments.config import best_device, commit, machine
    from colorization_pix2pix.core.storage import write_json
    write_json(record, found | dict(seconds=round(found.get('seconds', 0) + time.monotonic() - begin), machine=machine(best_device()), commit=commit()))
    sys.exit(any(not s['why'] for s in found['survivors']))
