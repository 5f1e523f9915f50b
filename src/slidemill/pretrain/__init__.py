"""Pretraining: slide encoders trained on tile features without labels.

`LongNet` is imported when it is first asked for: naming this package loads no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slidemill.pretrain.longnet import LongNet

__all__ = ["LongNet"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- what a module holds can be anything
    if name == "LongNet":
        from slidemill.pretrain.longnet import LongNet

        return LongNet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
