"""The database of studies, observers, trials and ratings.

``from percept.store.store import open_store``; importing the package loads nothing.
"""
