"""Recorders, which pass results of a network to the distill losses."""

from kdvit_mm.models.recorders.matching_queries import MatchingQueriesRecorder
from kdvit_mm.models.recorders.module import ModuleRecorder
from kdvit_mm.models.recorders.module_tuple import ModuleTupleRecorder
from kdvit_mm.models.recorders.pooled_map import PooledMapRecorder

__all__ = [
    'MatchingQueriesRecorder',
    'ModuleRecorder',
    'ModuleTupleRecorder',
    'PooledMapRecorder',
]
