"""The profiles that `autotune profile` stored: of each report the times of calls, and the counters of their kernels."""

from collections.abc import Sequence

from autotune.profiling import measured_times
from tuning_db.profile_records import Profile


def recorded_here(profile: Profile) -> bool:
    """Whether `autotune profile` made it: kernels of problems side by side, no program."""
    return profile.provenance.fingerprint is not None


def is_timed(profile: Profile) -> bool:
    """Whether it has the times of calls, not counters."""
    return profile.provenance.format == measured_times.FORMAT


def pairs(profiles: Sequence[Profile]) -> list[tuple[Profile, ...]]:
    """The times of each report, and its counters where it has some: recorded one after the other, of the same calls."""
    found: list[tuple[Profile, ...]] = []
    mine = [profile for profile in profiles if recorded_here(profile)]
    for profile in sorted(mine, key=lambda one: one.provenance.recorded_at or ""):
        timed = found[-1][0] if found and len(found[-1]) == 1 else None
        if timed and is_timed(timed) and not is_timed(profile) and _calls(profile) <= _calls(timed):
            found[-1] = (timed, profile)
        else:
            found.append((profile,))
    return found


def counted_too(profiles: Sequence[Profile]) -> frozenset[str]:
    """SHA-256 of those that have the times of calls whose kernels stand with their counters in another one: what takes
    their rows for launches counts twice."""
    return frozenset(parts[0].provenance.sha256 for parts in pairs(profiles) if len(parts) > 1)


def _calls(profile: Profile) -> set[tuple[str, str | None]]:
    return {(launch.problem, launch.role) for launch in profile.launches if launch.problem}
