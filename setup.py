"""Builds kdvit_mm with its ``.mim`` folder and its start-up file.

``.mim`` holds configs, tools and the model index for ``mim``: copies in a
wheel, links in an editable installation. The start-up file lets mmrazor be
imported by scripts that do not import kdvit_mm, see :mod:`kdvit_mm.compat`.
"""

import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
PACKAGE = 'kdvit_mm'
MIM = ('configs', 'tools', 'model-index.yml')
STARTUP_FILE = f'{PACKAGE}_startup.pth'
# ``site`` runs this line with ``sitedir`` set. It loads kdvit_mm.compat alone,
# without its parent package, so that an interpreter which never imports
# mmrazor pays next to nothing.
STARTUP_LINE = (
    'import os, sys, _frozen_importlib as b, _frozen_importlib_external as e; '
    'd = os.path.join({root}, "kdvit_mm", "compat"); '
    'f = os.path.join(d, "__init__.py"); '
    's = "kdvit_mm.compat" not in sys.modules and '
    'os.environ.get("KDVIT_MM_STARTUP") != "0" and os.path.isfile(f) and '
    'e.spec_from_file_location("kdvit_mm.compat", f, '
    'submodule_search_locations=[d]); '
    'm = s and sys.modules.setdefault(s.name, b.module_from_spec(s)); '
    's and (s.loader.exec_module(m), m.install(m.AT_STARTUP))\n'
)


def link_mim():
    """Links what mim looks for into the source tree."""
    mim = ROOT / PACKAGE / '.mim'
    shutil.rmtree(mim, ignore_errors=True)
    mim.mkdir()
    for name in MIM:
        (mim / name).symlink_to(Path('..', '..', name))


class BuildPy(build_py):
    """Adds ``.mim`` and the start-up file to what is built."""

    def run(self):
        """Builds, then copies or links."""
        super().run()
        if getattr(self, 'editable_mode', False):
            link_mim()
            return
        build = Path(self.build_lib)
        mim = build / PACKAGE / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(source, mim / name, ignore=ignore)
            else:
                shutil.copy2(source, mim / name)
        line = STARTUP_LINE.format(root='sitedir')
        (build / STARTUP_FILE).write_text(line)


class EditableWheel(editable_wheel):
    """Adds the start-up file to a PEP 660 editable installation."""

    def _run_build_commands(self, dist_name, unpacked_wheel, *args):
        line = STARTUP_LINE.format(root=repr(str(ROOT)))
        Path(unpacked_wheel, STARTUP_FILE).write_text(line)
        return super()._run_build_commands(dist_name, unpacked_wheel, *args)


class Develop(develop):
    """Does the same for ``setup.py develop`` of setuptools before 80."""

    def run(self):
        """Links before, writes the start-up file after."""
        link_mim()
        super().run()
        if getattr(self, 'install_dir', None):
            line = STARTUP_LINE.format(root=repr(str(ROOT)))
            Path(self.install_dir, STARTUP_FILE).write_text(line)


def read_requirements(*names):
    """Reads requirement files of ``requirements/``."""
    lines = []
    for name in names:
        text = (ROOT / 'requirements' / f'{name}.txt').read_text()
        lines += [line.split('#')[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


setup(
    name=PACKAGE,
    version=runpy.run_path(str(ROOT / PACKAGE / 'version.py'))['__version__'],
    description='Knowledge distillation for the OpenMMLab 2.x family',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='kdvit_mm contributors',
    license='Apache-2.0',
    keywords='knowledge distillation, model compression, object detection, '
    'semantic segmentation, image classification, OpenMMLab, PyTorch',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    python_requires='>=3.10',
    package_dir={'': '.'},  # lets an editable installation be a plain path
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['datasets/README.md', 'weights/*', 'py.typed']},
    install_requires=read_requirements('mminstall', 'runtime'),
    extras_require={
        'optional': read_requirements('optional'),  # not openmim, see there
        'tests': read_requirements('tests'),
        'docs': read_requirements('docs'),
    },
    cmdclass={
        'build_py': BuildPy,
        'develop': Develop,
        'editable_wheel': EditableWheel,
    },
    zip_safe=False,
)
