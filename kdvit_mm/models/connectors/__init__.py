"""Connectors: what maps student features to the teacher's shape."""

from kdvit_mm.models.connectors.defeat import DeFeatAdapter
from kdvit_mm.models.connectors.mgd import MGDGenerator
from kdvit_mm.models.connectors.reviewkd import ReviewKDConnector

__all__ = ['DeFeatAdapter', 'MGDGenerator', 'ReviewKDConnector']
