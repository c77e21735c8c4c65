"""Peers: other people's systems doing the same work on the same broker, so that our figures have something to stand beside.

A peer lives in a folder of its own: `requirements.txt` with the exact versions it was measured with, and a program that stands
alone. It is installed apart from freshet, into a virtual environment under `.cache/peers`, the first time somebody asks for it;
neither side imports the other, and they meet only in a topic and one line of JSON. `peer.py` installs, runs and reads it.

    python -m bench.engine --cluster --peer quix

`quix/` is Quix Streams, written as its documentation writes such a program, with the settings that serve it best.

Not here: our own loops (`bench/engine.py`), the broker (`bench/services.py`), and any tuning of a peer beyond what its
documentation offers: a peer is somebody's ordinary use of it.
"""
