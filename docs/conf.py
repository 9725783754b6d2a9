"""Configuration of Sphinx; ``make docs`` builds ``docs/_build``."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = 'kdvit_mm'
author = 'kdvit_mm contributors'
# Not imported: the package would load mmrazor and torch.
release = runpy.run_path(str(ROOT / project / 'version.py'))['__version__']
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
autodoc_default_options = {'show-inheritance': True}
# The docstrings have the types.
autodoc_typehints = 'none'
napoleon_use_ivar = True
exclude_patterns = ['_build']
myst_heading_anchors = 3
# Links to files outside docs/ are for readers of the repository.
suppress_warnings = ['myst.xref_missing']
