"Makes every Python that finds this folder one in Colab, without the packages that the install cell does not ask for."
import os, sys
from importlib.machinery import PathFinder
import google.colab

MISSING = frozenset(os.environ['ALONE_MISSING'].split())


class Installed(PathFinder):
    "Finds what the install cell brings and nothing else."
    @classmethod
    def find_spec(cls, name, path=None, target=None): return None if name.partition('.')[0] in MISSING else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
