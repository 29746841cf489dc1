"""The one error of the data room."""


class DataError(RuntimeError):
    """Data that are missing, damaged or not what they should be. The message says what to do."""


def data_error(name: str, looked_for, where, found, advice: str | None = None) -> DataError:
    """A `DataError` for data set `name`: what was looked for, where, what was found, what to do.

    `advice` replaces the usual one: the command that fetches the set, and the offline substitute.
    """
    advice = advice or (
        f"run `python -m mtl_core.data fetch {name}` (with `--root FOLDER` or $MTL_DATA for another folder);"
        ' or use profile="tiny", which needs no files: the package carries a small part of the set'
    )
    return DataError(
        f"data set {name}\n  looked for: {looked_for}\n  where:      {where}\n"
        f"  found:      {found}\n  what to do: {advice}"
    )
