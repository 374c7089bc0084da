"""asyncbuild: a daemonless container image builder on one trio nursery.

::

    request = asyncbuild.BuildRequest(…)
    result = await asyncbuild.build_image(request, asyncbuild.RegistrySettings(…), reporter)

`build_image` is a trio function (`build` is the room that it lives in). Everything here is imported when
it is first used, so that the command line starts as fast as Python does.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs 9 ms, as much as the start of Python
if TYPE_CHECKING:
    from typing import Any

    from asyncbuild.build.builder import build_image
    from asyncbuild.build.request import BuildRequest, BuildResult
    from asyncbuild.errors import AsyncbuildError
    from asyncbuild.registry.registries import RegistrySettings

__version__ = "0.1.0"
__all__ = [
    "AsyncbuildError",
    "BuildRequest",
    "BuildResult",
    "RegistrySettings",
    "__version__",
    "build_image",
]

_HOMES = {
    "AsyncbuildError": "asyncbuild.errors",
    "BuildRequest": "asyncbuild.build.request",
    "BuildResult": "asyncbuild.build.request",
    "build_image": "asyncbuild.build.builder",
    "RegistrySettings": "asyncbuild.registry.registries",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the room it lives in (PEP 562)."""
    from importlib import import_module  # noqa: PLC0415

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
