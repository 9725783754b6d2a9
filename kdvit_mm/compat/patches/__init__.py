"""One mended fact a file; see :mod:`kdvit_mm.compat`."""
