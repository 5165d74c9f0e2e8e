"""What leaves the loop: the corrected labels as a data set, and back in Label Studio."""

from pipeline.export.dataset import Exported, write_dataset

__all__ = ["Exported", "write_dataset"]
