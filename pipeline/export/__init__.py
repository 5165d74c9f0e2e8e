"""What leaves the loop: the corrected labels as a data set, and back in Label Studio."""

from pipeline.export.dataset import Exported, write_dataset
from pipeline.export.machine_users import machine_users
from pipeline.export.write_back import Written, write_as_user, write_project

__all__ = ["Exported", "Written", "machine_users", "write_as_user", "write_dataset", "write_project"]
