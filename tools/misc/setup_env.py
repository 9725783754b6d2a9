"""Creates or completes a virtual environment of the checkout.

``python tools/misc/setup_env.py torch211`` makes ``.venv`` (torch 2.11),
``torch21`` makes ``.venv-torch21`` (torch 2.1.2) and ``latest`` makes
``.venv-latest`` (the newest torch that mmcv builds against), each with the
first Python of ``ENVIRONMENTS`` that this machine has. Everything comes from
the package index in the versions of ``requirements/lock``. Nothing is done
when nothing has changed.

mmcv is built from source once per Python and torch and kept in the user's
cache: pip's own cache does not know which torch a wheel was built against.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
ENVIRONMENTS = {
    'torch211': (ROOT / '.venv', ('3.11', '3.12', '3.10', '3.13')),
    'torch21': (ROOT / '.venv-torch21', ('3.10', '3.11')),
    'latest': (ROOT / '.venv-latest', ('3.12',)),
}
MMCV = 'mmcv==2.1.0'
BUILD_HOOK = ROOT / 'tools' / 'misc' / 'mmcv_build'


def find_python(versions: tuple[str, ...]) -> str:
    """Finds the first of ``versions``, such as '3.11', that really starts."""
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'))
    check = 'import ensurepip, sys; print("%d.%d" % sys.version_info[:2])'
    for version in versions:
        candidates = [sys.executable, f'python{version}']
        candidates += map(str, pyenv.glob(f'versions/{version}.*/bin/python'))
        for candidate in candidates:
            try:
                found = subprocess.run(
                    [candidate, '-c', check], capture_output=True, text=True
                )
            except OSError:
                continue
            if found.stdout.strip() == version:
                return candidate
    names = ' or '.join(f'python{version}' for version in versions)
    sys.exit(
        f'{names} was not found. Install one of them, or put it on PATH, and '
        'run the command again.'
    )


def fingerprint(lock: Path) -> str:
    """Digest of everything that decides what the environment holds."""
    digest = hashlib.sha256()
    files = [lock, Path(__file__), *BUILD_HOOK.glob('*.py')]
    files += [ROOT / 'setup.py', ROOT / 'pyproject.toml']
    files += sorted(REQUIREMENTS.glob('*.txt'))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


class Environment:
    """A virtual environment and what is run in it.

    Args:
        name (str): A key of ``ENVIRONMENTS``.
    """

    def __init__(self, name: str) -> None:
        self.folder, self.versions = ENVIRONMENTS[name]
        self.lock = REQUIREMENTS / 'lock' / f'{name}.txt'
        self.stamp = self.folder / 'kdvit_mm.stamp'

    @property
    def python(self) -> str:
        """Path of the environment's interpreter."""
        return str(self.folder / 'bin' / 'python')

    def run(self, *command: str, **variables: str) -> None:
        """Runs the environment's interpreter; failing ends the set-up."""
        env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
        env |= variables
        done = subprocess.run([self.python, *command], cwd=ROOT, env=env)
        if done.returncode:
            sys.exit(
                f'set-up stopped at: {" ".join(command)}\nSee the lines '
                'above; the same command goes on from here.'
            )

    def pip(self, *arguments: str, **variables: str) -> None:
        """Runs pip."""
        pip = ('-m', 'pip', '--disable-pip-version-check')
        self.run(*pip, *arguments, **variables)

    def install(self, *arguments: str) -> None:
        """Installs packages in the versions of the lock file."""
        self.pip('install', '-q', '-c', str(self.lock), *arguments)

    def output(self, code: str) -> str:
        """What a line of Python prints in the environment."""
        command = [self.python, '-c', code]
        return subprocess.check_output(command, text=True).strip()

    def install_mmcv(self) -> Path:
        """Installs the mmcv built against this very torch; says from where."""
        key = self.output(
            'import platform, sys, torch; print("cp%d%d" % '
            'sys.version_info[:2], sys.platform, platform.machine(), '
            '"torch", torch.__version__, sep="-")'
        )
        cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
        wheels = cache / 'kdvit_mm' / 'wheels' / key
        if not list(wheels.glob('mmcv-*.whl')):
            print(f'building {MMCV} for {key}: about 10 minutes on 2 cores')
            self.build_mmcv(wheels)
        self.pip(
            'install', '-q', '--no-deps', '--no-index', '--find-links',
            str(wheels), '--force-reinstall', MMCV,
        )  # fmt: skip
        return wheels

    def build_mmcv(self, wheels: Path) -> None:
        """Builds mmcv's wheel with its compiled operators.

        Without debug information, with which the compiler takes twice as long.
        """
        wheels.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wheels.parent) as folder:
            self.pip(
                'wheel', '-q', '--no-build-isolation', '--no-deps',
                '--no-cache-dir', '--no-binary', 'mmcv', '-w', folder, MMCV,
                MMCV_WITH_OPS='1', PYTHONPATH=str(BUILD_HOOK),
                CFLAGS='-g0', CXXFLAGS='-g0',
            )  # fmt: skip
            wheels.mkdir(exist_ok=True)
            for wheel in Path(folder).glob('*.whl'):
                os.replace(wheel, wheels / wheel.name)

    def create(self) -> None:
        """Brings the environment to the state of the lock file."""
        state = fingerprint(self.lock)
        if self.stamp.is_file() and self.stamp.read_text() == state:
            return
        if not Path(self.python).exists():
            python = find_python(self.versions)
            command = [python, '-m', 'venv', '--clear', str(self.folder)]
            subprocess.run(command, check=True)
        print(f'setting up {self.folder.name}')
        self.install('pip', 'setuptools', 'wheel', 'ninja', 'psutil')
        self.install('torch', 'torchvision', 'numpy')
        wheels = self.install_mmcv()
        self.install(
            *(flag for name in ('mminstall', 'runtime', 'optional', 'tests')
              for flag in ('-r', str(REQUIREMENTS / f'{name}.txt')))
        )  # fmt: skip
        self.install('--no-deps', '-r', str(REQUIREMENTS / 'nodeps.txt'))
        self.pip(
            'install', '-q', '--no-deps', '--no-build-isolation', '-e', '.'
        )
        try:
            self.output('import mmcv.ops')
        except subprocess.CalledProcessError:
            shutil.rmtree(wheels)
            sys.exit(
                f'the mmcv kept in {wheels.name} does not load; it was '
                'deleted. Run the command again to build it.'
            )
        self.run('-c', 'import kdvit_mm')
        self.stamp.write_text(state)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('environment', choices=ENVIRONMENTS)
    Environment(parser.parse_args().environment).create()


if __name__ == '__main__':
    main()
