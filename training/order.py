"""Which photographs a step trains on, and which process gets which.

The order is a pure function of seed, step and settings. An epoch is a permutation of the
photographs, epochs follow one another without a gap, and a step takes the next ``batch`` of that
stream; each process gets an equal, adjacent share. So nothing is padded, repeated or dropped,
whatever the number of processes. Samplers differ in the permutation alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.config import Sampler

_ORDER = 0  # a random stream of its own among those of one seed
_KEPT = 16  # permutations; an lru_cache could not be sent to loader processes


class Order:
    """Photographs of every step.

    Parameters
    ----------
    count : int
        Photographs.
    batch : int
        Views per step over all processes, a multiple of ``world``.
    seed : int
    sampler : str
        ``shuffle``: every epoch a random permutation, the same at any ``world``. ``repeated``: in
        each epoch that of the first, as by torch's ``DistributedSampler`` where ``set_epoch`` is
        forgotten. ``stratified``: a permutation in which the photographs of each stratum are spread
        evenly over the epoch, so that steps and processes alike get a fair mixture; also the same
        at any ``world``. ``contiguous``: as data are often divided beforehand: each process keeps
        to its own stretch of the manifest and shuffles within it. Where stretches cannot be equal,
        their ends move by a photograph or two from epoch to epoch, and still every photograph comes
        once in each.
    strata : sequence of int, optional
        Stratum of each photograph, for ``stratified``.
    buckets : sequence of int, optional
        Bucket of each photograph. All views of a step are of one bucket; each bucket is a stream
        with epochs of its own, and buckets take turns in proportion to their photographs.
    world : int
        Processes.
    """

    def __init__(
        self,
        count: int,
        *,
        batch: int,
        seed: int,
        sampler: Sampler = "shuffle",
        strata: Sequence[int] | None = None,
        buckets: Sequence[int] | None = None,
        world: int = 1,
    ) -> None:
        self._batch, self._seed, self._sampler, self._world = batch, seed, sampler, world
        self._strata = np.zeros(count, np.int64) if strata is None else np.asarray(strata)
        of = np.zeros(count, np.int64) if buckets is None else np.asarray(buckets)
        self._members = [np.flatnonzero(of == bucket) for bucket in range(int(of.max()) + 1)]
        self._turns: list[tuple[int, int]] = []  # bucket of a step, and its number in that bucket
        self._done = np.zeros(len(self._members), np.int64)  # turns of each bucket
        self._permutations: dict[tuple[int, int], NDArray[np.int64]] = {}  # the latest

    def bucket(self, step: int) -> int:
        """Bucket of all views of a step."""
        return self._turn(step)[0]

    def photographs(self, step: int) -> NDArray[np.int64]:
        """Photographs of a step, shape (batch,); process ``r`` gets the ``r``-th equal share."""
        bucket, turn = self._turn(step)
        members = self._members[bucket]
        positions = np.arange(turn * self._batch, (turn + 1) * self._batch)
        epochs, places = np.divmod(positions, len(members))
        return np.array(
            [
                members[self._permutation(bucket, int(epoch))[place]]
                for epoch, place in zip(epochs, places, strict=True)
            ]
        )

    def _turn(self, step: int) -> tuple[int, int]:
        if len(self._members) == 1:
            return 0, step
        sizes = np.array([len(members) for members in self._members])
        shares = sizes / sizes.sum()
        while len(self._turns) <= step:
            due = shares * (len(self._turns) + 1) - self._done
            bucket = int(due.argmax())
            self._turns.append((bucket, int(self._done[bucket])))
            self._done[bucket] += 1
        return self._turns[step]

    def _permutation(self, bucket: int, epoch: int) -> NDArray[np.int64]:
        key = bucket, epoch
        if key not in self._permutations:
            if len(self._permutations) == _KEPT:
                del self._permutations[next(iter(self._permutations))]
            self._permutations[key] = self._permute(bucket, epoch)
        return self._permutations[key]

    def _permute(self, bucket: int, epoch: int) -> NDArray[np.int64]:
        """Order of the members of a bucket in one of its epochs."""
        count = len(self._members[bucket])
        if self._sampler == "repeated":
            epoch = 0
        key = [self._seed, _ORDER, epoch] + ([bucket] if len(self._members) > 1 else [])
        rng = np.random.default_rng(key)
        if self._sampler in {"shuffle", "repeated"}:
            return rng.permutation(count)
        if self._sampler == "stratified":
            place = np.empty(count)
            strata = self._strata[self._members[bucket]]
            for stratum in np.unique(strata):
                own = rng.permutation(np.flatnonzero(strata == stratum))
                place[own] = (np.arange(len(own)) + rng.random()) / len(own)
            return np.argsort(place, kind="stable")
        # contiguous: places of the epoch by process, each filled from its stretch of the manifest
        share = self._batch // self._world
        positions = np.arange(epoch * count, (epoch + 1) * count)
        ranks = positions % self._batch // share
        order = np.empty(count, np.int64)
        first = 0
        for rank in range(self._world):
            places = np.flatnonzero(ranks == rank)
            order[places] = first + rng.permutation(len(places))
            first += len(places)
        return order
