"""What the load tests over real sockets share.

``servers`` starts uvicorn in a process of its own, with the app and the limiters of ``apps``. ``clients`` sends the
load of ``sources`` to it, from one thread and without a framework, so that the generator is never what is measured.
``legs`` runs one of them for a while and says what became of it; ``reports`` turns figures into a verdict.
"""

from __future__ import annotations

__all__: list[str] = []
