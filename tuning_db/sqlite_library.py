"""sqlite-utils, imported without pandas: where that is installed it would be imported for a method that nothing here
calls, and a start would wait 0.2 s for it."""

import sys

_absent = "pandas" not in sys.modules
if _absent:
    sys.modules["pandas"] = None  # type: ignore[assignment]  # importing it then raises what sqlite-utils expects
try:
    from sqlite_utils import Database
finally:
    if _absent:
        del sys.modules["pandas"]

__all__ = ["Database"]
