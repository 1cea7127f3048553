"""Files that survive a crash: atomic writes, append-only points, and run folders."""

from .files import lock, make_folder, read_json, sync_folder, write_atomic, write_json
from .points_file import PointsFile, append_point, append_record, read_points
from .run_folder import COMPLETE, RunFolder

__all__ = [
    "COMPLETE",
    "PointsFile",
    "RunFolder",
    "append_point",
    "append_record",
    "lock",
    "make_folder",
    "read_json",
    "read_points",
    "sync_folder",
    "write_atomic",
    "write_json",
]
