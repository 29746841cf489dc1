"""How many examples a profile has."""

from collections.abc import Mapping

from .._names import did_you_mean


def sizes(
    counts: Mapping[str, Mapping[str, int]],
    profile: str,
    given: Mapping[str, int | None],
    unit: str,
    largest: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Split -> number of examples: those `given`, else those of the profile.

    counts   profile -> split -> number.
    unit     what is counted, for the error message.
    largest  split -> most that there are; without it there is no such limit.

    Errors: ValueError for an unknown profile or a number out of range.
    """
    if profile not in counts:
        meant = did_you_mean(profile, counts)
        raise ValueError(f"unknown profile {profile!r}; the profiles are {', '.join(counts)}{meant}")
    chosen = {split: counts[profile][split] if number is None else number for split, number in given.items()}
    for split, number in chosen.items():
        bounds = f"1 to {largest[split]}" if largest else "at least 1"
        if not isinstance(number, int) or number < 1 or (largest and number > largest[split]):
            raise ValueError(f"{split} is a number of {unit}, {bounds}, got {number!r}")
    return chosen
