"""What is made within a `with` and closed at its end."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A `with` that ends in `close`, which is told whether its body failed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=failure is not None)

    def close(self, failed: bool) -> None:
        """Close what was made; `failed` says that the body of the `with` raised."""
        raise NotImplementedError(type(self).__name__)
