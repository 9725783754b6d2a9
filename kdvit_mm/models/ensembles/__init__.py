"""Models that predict what several others predict together."""

from kdvit_mm.models.ensembles.ensemble import MERGERS, Ensemble

__all__ = ['MERGERS', 'Ensemble']
