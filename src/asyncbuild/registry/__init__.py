"""Talking to a registry: the distribution protocol (pure), credentials, the network, the client.

Read in this order: `challenge`, `auth` and `protocol` are pure; `retry` says when to ask again;
`credentials` finds a user's login; `network` and `transport` move bytes; `wire` is one HTTP exchange,
`authorize` and `caller` make it an authorised, patient one; `download` and `upload` are the two long
conversations; `client` is what the other rooms use, and `registries` keeps one client per host.
"""

import sys

# httpx imports its command line where click, rich and pygments happen to be installed: 65 modules, 10 ms.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
