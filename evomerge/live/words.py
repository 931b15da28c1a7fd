"""How the view and `show` write numbers: durations, estimates, counts of failures, moments."""

from collections.abc import Mapping
from datetime import UTC, datetime


def duration(seconds: float | None) -> str:
    """`2.5 s`, `42 s`, `7:05 min`, `3:20 h`, `2 d 4 h`; `-` where it is not known."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 86400:
        return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def estimate(value: float, error: float) -> str:
    """A value with its standard error: three decimals of a score, none of what comes in hundreds."""
    if error == 0 and value == round(value) and abs(value) > 1:
        return f"{value:,.0f}"
    decimals = 0 if abs(value) >= 100 else 3
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def failures(counts: Mapping[str, int]) -> str:
    """`3 (2 out of memory, 1 timed out)`."""
    counts = dict(counts)  # another thread may be counting
    kinds = sorted(counts.items(), key=lambda kind: -kind[1])
    return f"{sum(counts.values())} ({', '.join(f'{count} {kind}' for kind, count in kinds)})"


def moment(at: datetime, now: datetime | None = None) -> str:
    """A moment in local time, the day only where it is another one."""
    local, today = at.astimezone(), (now or datetime.now(UTC)).astimezone()
    return f"{local:%H:%M}" if local.date() == today.date() else f"{local:%Y-%m-%d %H:%M}"
