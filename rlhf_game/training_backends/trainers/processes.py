"""The processes of a launcher, as accelerate knows them."""

from accelerate import PartialState


def wait_for_everyone() -> None:
    """Go on when every process is here."""
    PartialState().wait_for_everyone()
