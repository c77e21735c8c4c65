"""Content, neighbours and histories into one vector space. Torch, and no I/O: features come in, vectors and bytes go out.

`base.py` holds the legend of shape letters and the numpy types that go in; `config.py` what a model is, stored in its
checkpoint. The item tower is `unified.py` (id, hashed text of `text.py`, image slot, degree, neighbours) or, of id and text
alone, `table.py`; the user encoder `transformer.py`, the query-side head `heads.py`, and what they share `layers.py`.
`model.py` puts them together with the id vocabulary, gives bytes and reads them back. `prepared.py`, without torch, is the user
encoder and the head again, compiled, for the one history of a look-up; `single_user.py` lays the weights out.
`blend.py`, numpy alone, weighs the log-scores of several sources.

A trunk (tower and user encoder) defines a space, and so a generation; a head is swapped inside it and moves no item vector.

Not here: how weights are found (`trainers/`), where features come from (`freshet/features.py`), where vectors are kept
(`storage/vectors.py`). Queries and images have no tower yet; an item's image slot stays at zero.
"""
