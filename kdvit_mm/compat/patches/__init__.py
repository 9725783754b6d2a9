"""Compatibility patches, one fact per file; see :mod:`kdvit_mm.compat`."""
