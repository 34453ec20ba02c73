"""The database of studies, observers, trials and ratings.

``open_store`` and ``Store`` are loaded on first use; importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from percept.store.store import Store, Study, open_store

__all__ = ["Store", "Study", "open_store"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from percept.store import store

        return getattr(store, name)
    raise AttributeError(f"module 'percept.store' has no attribute {name!r}")
