"""Statistics of stores (Tables 1, 3 and 5): counts by reason, camera entropy, cameras by view augmentation."""

from chorus.evaluate.statistics.entropy import camera_entropy
from chorus.evaluate.statistics.stores import StoreStatistics, store_statistics
from chorus.evaluate.statistics.views import ViewStatistics, view_statistics

__all__ = ["StoreStatistics", "ViewStatistics", "camera_entropy", "store_statistics", "view_statistics"]
