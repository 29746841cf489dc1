"""Libraries that only a part of the package needs: imported where they are used, named where they are missing."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """The imported `module`, which the extra `extra` of this package installs. ImportError where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise  # the library is there, something that it needs is not
        raise ImportError(f'{library} is not installed: pip install "conflicting-gradients[{extra}]"') from None
