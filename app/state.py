"""What the pages and the HTTP routes of one server process share."""

from __future__ import annotations

import os
from functools import cache

from percept.store import Store, open_store


@cache
def store() -> Store:
    """Open the database that ``PERCEPT_DB`` names, once."""
    return open_store(os.environ["PERCEPT_DB"])
