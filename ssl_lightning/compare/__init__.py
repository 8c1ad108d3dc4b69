"""Many runs in one table, by protocol, and on one page."""

from ssl_lightning.compare.files import compare

__all__ = ["compare"]
