"""How many images a launch of one model takes: learned while running, in milliseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAXIMUM_BATCH = 256
CEILING_LIFE_S = 60.0
"""After running out of memory the ceiling holds this long, then doubles for as long again."""

# A larger batch must pay: one that is not faster by more than this only makes the next urgent
# image wait. On two cores, launches of two are 3 % faster than those of one; with a tolerance of
# 1.5 % they grew to four and more, and urgent images waited twice as long.
_SAME_SPEED = 0.975
_NEWEST_SHARE = 0.3
# The first launches of a size fill caches and tune kernels: the fastest of these counts.
_COLD_LAUNCHES = 3
# What differs more from what is known is an outlier, or the model got slower: then the next
# launches say so too.
_OUTLIER_FACTOR = 2.0
# The line passes through what was seen lately; older sizes only give it its slope.
_HALF_LIFE_LAUNCHES = 8
_LEAST_WEIGHT = 1e-6
# Every so many launches one of another size, so that a change of the device is noticed.
_LOOK_LAUNCHES = 16


@dataclass(slots=True)
class _Seen:
    """Launches of about one size: their mean size and time, and when the last one was."""

    images: float
    time_ms: float
    launches: int
    last: int


class LaunchBudget:
    """What is known of one model's launches; its caller guards it by a lock.

    Launches of 1, 2, 3-4, 5-8 ... images are timed apart. A straight line through them,
    `overhead_ms + n * ms_per_image`, says how many images the budget allows; the smallest size
    that is as fast as any says how many are worth it. A small CPU has little to share and gets
    launches of one or two images, a GPU gets as many as the budget allows.
    """

    def __init__(self, launch_budget_ms: float) -> None:
        self._launch_budget_ms = launch_budget_ms
        self._seen: dict[int, _Seen] = {}
        self._launches = 0
        self._ceiling = MAXIMUM_BATCH
        self._ceiling_until_s = math.inf
        self.overhead_ms = 0.0
        self.ms_per_image = 0.0

    def limit(self, now_s: float) -> int:
        """Images that the next launch may take, >= 1; grows by doubling.

        Args:
            now_s: On the monotonic clock.
        """
        if now_s >= self._ceiling_until_s:
            self._ceiling = min(2 * self._ceiling, MAXIMUM_BATCH)
            is_over = self._ceiling == MAXIMUM_BATCH
            self._ceiling_until_s = math.inf if is_over else now_s + CEILING_LIFE_S
        if not self._seen:
            return 1
        wanted = self._worthwhile()
        if self._launches % (2 * _LOOK_LAUNCHES) == 0:
            wanted *= 2
        elif self._launches % _LOOK_LAUNCHES == 0:
            wanted //= 2
        return max(1, min(wanted, self._fitting(), self._ceiling))

    def has_seen(self, images: int) -> bool:
        """Whether launches of about this size have been timed."""
        return _size_class(images) in self._seen

    def learn(self, images: int, time_ms: float) -> None:
        """Take note of a launch that went well."""
        self._launches += 1
        seen = self._seen.setdefault(_size_class(images), _Seen(images, time_ms, 0, self._launches))
        known_ms = max(seen.time_ms + self.ms_per_image * (images - seen.images), 1e-6)
        if seen.launches < _COLD_LAUNCHES:
            if time_ms < known_ms:
                seen.images, seen.time_ms = images, time_ms
        else:
            taken_ms = min(max(time_ms, known_ms / _OUTLIER_FACTOR), known_ms * _OUTLIER_FACTOR)
            seen.images += _NEWEST_SHARE * (images - seen.images)
            seen.time_ms += _NEWEST_SHARE * (taken_ms - seen.time_ms)
            # What holds up one size, a busy machine or a hot device, holds up all.
            change = 1 + _NEWEST_SHARE * (taken_ms / known_ms - 1)
            for other in self._seen.values():
                if other is not seen:
                    other.time_ms *= change
        seen.launches += 1
        seen.last = self._launches
        self._fit()

    def run_out_of_memory(self, images: int, now_s: float) -> None:
        """Allow half of what did not fit, for a time."""
        self._ceiling = max(1, min(self._ceiling, images // 2))
        self._ceiling_until_s = now_s + CEILING_LIFE_S

    def _fitting(self) -> int:
        left_ms = self._launch_budget_ms - self.overhead_ms
        return int(min(left_ms / max(self.ms_per_image, 1e-6), MAXIMUM_BATCH))

    def _worthwhile(self) -> int:
        """Smallest size that is about as fast as any; while the largest one is, the next."""
        largest = max(self._seen)
        speeds = {each: seen.images / max(seen.time_ms, 1e-6) for each, seen in self._seen.items()}
        best = max(speeds.values())
        chosen = min(each for each, speed in speeds.items() if speed >= _SAME_SPEED * best)
        if self._seen[largest].launches < _COLD_LAUNCHES:
            return 1 << largest  # not known yet
        return 1 << (largest + 1 if chosen == largest else chosen)

    def _fit(self) -> None:
        """Least squares of the relative error over the sizes; neither term becomes negative."""
        points = [
            (
                max(0.5 ** ((self._launches - each.last) / _HALF_LIFE_LAUNCHES), _LEAST_WEIGHT)
                / each.time_ms**2,
                each.images,
                each.time_ms,
            )
            for each in self._seen.values()
            if each.time_ms > 0
        ]
        if not points:
            return
        total = sum(weight for weight, _, _ in points)
        mean_images = sum(weight * images for weight, images, _ in points) / total
        mean_ms = sum(weight * time_ms for weight, _, time_ms in points) / total
        spread = sum(weight * (images - mean_images) ** 2 for weight, images, _ in points)
        slope = mean_ms / mean_images
        if spread > 0:
            slope = (
                sum(
                    weight * (images - mean_images) * (time_ms - mean_ms)
                    for weight, images, time_ms in points
                )
                / spread
            )
        self.ms_per_image = min(max(slope, 0.0), mean_ms / mean_images)
        self.overhead_ms = mean_ms - self.ms_per_image * mean_images


def _size_class(images: int) -> int:
    """Number of the smallest power of two that is not smaller."""
    return (images - 1).bit_length()
