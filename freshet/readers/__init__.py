"""Files of engagements, read row by row, the reader chosen by what the file holds and never by its name.

`choose.py` opens a file: it looks at the first lines and picks a layout, or raises `UnknownLayout`, which shows an example
line of every layout understood. `source.py` says what comes out: a `Source` of `Row`s, in file order, where a line that
cannot be read is a row too, with its bytes and the reason, so that whoever produces the file can count it as a dead letter
and accepted + dead letters = rows. `lines.py` splits files into bounded lines and scans them once for what only the whole
file tells: how many rows, which encoding, which times. `tables.py` reads layouts with columns (MovieLens, RecBole, Taobao,
headed), `plain.py` those without (pairs and sequences of ids), `own.py` freshet's JSON lines and Parquet, `entities.py`
the items that lie beside them.

Files are streamed: a line at a time, twice in all, and no line longer than a bound.
"""
