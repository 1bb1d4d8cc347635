"""A request's journey, from top to bottom.

``asgi`` takes a request from the server. ``directory`` says whose it is (``resolver`` asks the user's code, if need
be), ``policies`` what its path means, ``quotas`` whether the customer has any left. ``gate`` lets it in or makes it
wait, by the decisions of ``scheduling``; ``disconnects`` notices when the client goes away meanwhile. While the answer
goes out, ``advice`` says how fast the customer may go, and ``responses`` watches over the end: the slot is given back
at the last byte, or taken from a reader that is too slow. ``refusals`` answers those who may not even wait.

``provider`` is the one object that holds all of this together, and what users configure, update and inspect.
"""
