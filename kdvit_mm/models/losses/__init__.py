"""Distill losses, one method a file."""

from kdvit_mm.models.losses.cwd import CWDLoss
from kdvit_mm.models.losses.defeat import DeFeatLoss, DeFeatRoILoss
from kdvit_mm.models.losses.dist import DISTLoss
from kdvit_mm.models.losses.dkd import DKDLoss
from kdvit_mm.models.losses.feature_l2 import FeatureL2Loss
from kdvit_mm.models.losses.fgd import FGDLoss
from kdvit_mm.models.losses.freekd import FreeKDLoss
from kdvit_mm.models.losses.hcl import HCLLoss
from kdvit_mm.models.losses.ld import LDLoss
from kdvit_mm.models.losses.mgd import MGDLoss
from kdvit_mm.models.losses.pkd import PKDLoss
from kdvit_mm.models.losses.selected_levels import SelectedLevelsLoss
from kdvit_mm.models.losses.shared_roi import SharedRoILoss

__all__ = [
    'CWDLoss',
    'DISTLoss',
    'DKDLoss',
    'DeFeatLoss',
    'DeFeatRoILoss',
    'FGDLoss',
    'FeatureL2Loss',
    'FreeKDLoss',
    'HCLLoss',
    'LDLoss',
    'MGDLoss',
    'PKDLoss',
    'SelectedLevelsLoss',
    'SharedRoILoss',
]
